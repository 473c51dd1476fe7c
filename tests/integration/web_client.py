"""The web in this process, as a client of its tests sees it."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.redis_server import RedisServer
from web.app import close_app, create_app
from web.database import migrate
from web.settings import Secret, Settings

KEY = "cf_test_key"
AUTH = {"Authorization": f"Bearer {KEY}"}
STREAM = {"Accept": "text/event-stream"}
AT_ONCE = {"Prefer": "respond-async"}

Json = dict[str, Any]


class Received(NamedTuple):
    id: str
    event: Json


class Web:
    """Sends requests with the key, unless told otherwise."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> TestResponse:
        if body is not None:
            options["json"] = body
        # Read to its end and closed, as a server does it.
        options.setdefault("buffered", True)
        return self.client.open(path, method=method, headers=AUTH | (headers or {}), **options)

    def sandbox(self, name: str = "box", **fields: Any) -> Json:
        answer = self.send("PUT", f"/v1/sandboxes/{name}", fields)
        assert answer.status_code in (200, 201), answer.text
        return json_of(answer)

    def exec(self, command: str, box: str = "box", **fields: Any) -> Json:
        answer = self.send("POST", f"/v1/sandboxes/{box}/exec", {"command": command, **fields})
        assert answer.status_code == 200, answer.text
        return json_of(answer)

    def start(self, command: str, box: str = "box", **fields: Any) -> str:
        body = {"command": command, **fields}
        answer = self.send("POST", f"/v1/sandboxes/{box}/exec", body, AT_ONCE)
        assert answer.status_code == 202, answer.text
        return str(json_of(answer)["id"])

    def job(self, job_id: str) -> Json:
        return json_of(self.send("GET", f"/v1/jobs/{job_id}"))

    def events(self, job_id: str, after: str = "") -> list[Received]:
        headers = {"Last-Event-ID": after} if after else {}
        answer = self.send("GET", f"/v1/jobs/{job_id}/events", headers=headers)
        assert answer.status_code == 200, answer.text
        return received(answer.text)

    def wait_for_status(self, job_id: str, status: str) -> None:
        wait_for(lambda: self.job(job_id)["status"] == status, f"{job_id} is {status}")


@contextmanager
def web_on(server: RedisServer, **changes: Any) -> Iterator[Web]:
    with tempfile.TemporaryDirectory(prefix="cf-web-") as directory:
        settings = Settings.from_env(
            {
                "COLDFRAME_API_KEY": KEY,
                "COLDFRAME_REDIS_URL": server.url,
                "COLDFRAME_HEARTBEAT_S": "0.3",
                "COLDFRAME_STATE_DIR": directory,
            }
        )
        (Path(directory) / "coldframe.db").write_bytes(_migrated_database())
        app = create_app(dataclasses.replace(settings, **changes))
        try:
            yield Web(app.test_client())
        finally:
            close_app(app)


@functools.cache
def _migrated_database() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "coldframe.db"
        migrate(Secret(f"sqlite:///{path}"))
        return path.read_bytes()


def json_of(answer: TestResponse) -> Json:
    assert answer.content_type == "application/json", answer.text
    found: Json = json.loads(answer.data)
    return found


def code_of(answer: TestResponse) -> str:
    return str(json_of(answer)["error"]["code"])


def field_of(answer: TestResponse) -> str:
    return str(json_of(answer)["error"]["details"]["field"])


def received(text: str) -> list[Received]:
    """The events of a whole stream, read as a strict client would."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            events.append(Received(fields["id"], json.loads(fields["data"])))
    return events


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = 10.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
