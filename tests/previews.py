"""Looks at previews as a browser would, without asking a resolver for `*.localhost`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

from tests.client import Client, wait_for

TIMEOUT_S = 20.0


@contextmanager
def looking_at(url: str) -> Iterator[httpx.Client]:
    """A client whose paths are those below a preview's URL."""
    parts = urlsplit(url)
    headers = {"Host": parts.netloc}
    base = f"http://127.0.0.1:{parts.port}"
    with httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_S) as client:
        yield client


def serve(api: Client, box: str, program: str, port: int) -> None:
    """Starts a server, a Python program, in a sandbox, and returns when its port answers."""
    path = f"/v1/sandboxes/{box}/exec"
    file = f"/tmp/server{port}.py"
    command = f"cat > {file}; python3 {file} > {file}.log 2>&1 &"
    answer = api.http.post(path, json={"command": command, "stdin": program})
    assert answer.json().get("exitCode") == 0, answer.text
    fetch = f"/v1/sandboxes/{box}/fetch/{port}"
    wait_for(lambda: api.http.post(fetch, json={}).status_code == 200, "the server listens")


def expose(api: Client, box: str, port: int, **options: str) -> dict[str, str]:
    answer = api.http.post(f"/v1/sandboxes/{box}/ports", json={"port": port, **options})
    assert answer.status_code == 201, answer.text
    port_view: dict[str, str] = answer.json()
    return port_view
