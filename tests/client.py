"""A client of the API for tests: plain HTTP, and event streams read as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

READ_TIMEOUT_S = 60.0

Event = dict[str, Any]


class Received(NamedTuple):
    """An event as it came over the wire."""

    id: str
    event: Event
    at: float
    """Seconds, by the monotonic clock."""


class Client:
    """Speaks to one platform with one key."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=5.0),
            limits=httpx.Limits(max_connections=400),
            trust_env=False,
        )

    def sandbox(self, name: str, **options: Any) -> Event:
        answer = self.http.put(f"/v1/sandboxes/{name}", json=options)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    def remove(self, name: str) -> None:
        answer = self.http.delete(f"/v1/sandboxes/{name}")
        assert answer.status_code in (204, 404), answer.text

    def exec(self, sandbox: str, command: str, **options: Any) -> Event:
        answer = self.http.post(
            f"/v1/sandboxes/{sandbox}/exec", json={"command": command, **options}
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def code(self, sandbox: str, code: str, **options: Any) -> Event:
        answer = self.http.post(f"/v1/sandboxes/{sandbox}/code", json={"code": code, **options})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def start_exec(self, sandbox: str, command: str, **options: Any) -> str:
        """Submits without waiting; the job's id."""
        return self.submit(f"/v1/sandboxes/{sandbox}/exec", {"command": command, **options})

    def submit(self, path: str, body: Event) -> str:
        answer = self.http.post(path, json=body, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> Event:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def stream(self, path: str, body: Event) -> list[Received]:
        """Submits and reads all events to the end of the response."""
        headers = {"Accept": "text/event-stream"}
        with self.http.stream("POST", path, json=body, headers=headers) as response:
            assert response.status_code == 200, response.read()
            return list(events_of(response))

    @contextmanager
    def following(self, job_id: str, after: str = "") -> Iterator[Iterator[Received]]:
        headers = {"Last-Event-ID": after} if after else {}
        with self.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
            assert response.status_code == 200, response.read()
            yield events_of(response)

    def follow_to_the_end(
        self, job_id: str, *, received: list[Received] | None = None, deadline_s: float = 60.0
    ) -> list[Received]:
        """All events of a job, coming back with `Last-Event-ID` as often as it takes.

        They are put into `received` as they come, where that is given.
        """
        received = [] if received is None else received
        deadline = time.monotonic() + deadline_s
        while not (received and received[-1].event["type"] in ("complete", "error")):
            assert time.monotonic() < deadline, f"no end after {received[-1:]}"
            try:
                with self.following(job_id, received[-1].id if received else "") as events:
                    received.extend(events)
            except (httpx.TransportError, AssertionError):
                time.sleep(0.1)
        return received


def events_of(response: httpx.Response) -> Iterator[Received]:
    """Reads server-sent events; comments are skipped, as a browser does."""
    event_id = ""
    for line in response.iter_lines():
        if line.startswith("id: "):
            event_id = line.removeprefix("id: ")
        elif line.startswith("data: "):
            yield Received(event_id, json.loads(line.removeprefix("data: ")), time.monotonic())


def check_stream(received: list[Received], attempt: int = 1) -> None:
    """Numbers without a gap, and exactly one terminal event, last."""
    ids = [event.id for event in received]
    assert ids == [f"{attempt}-{seq}" for seq in range(1, len(ids) + 1)]
    terminal = [event.event["type"] in ("complete", "error") for event in received]
    assert terminal == [False] * (len(received) - 1) + [True]


def stdout_of(received: list[Received]) -> str:
    return "".join(item.event["data"] for item in received if item.event["type"] == "stdout")


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    """Waits for a condition, asking every 20 ms; fails with `what` after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


def is_ready(api: Client) -> bool:
    """Also of a platform whose web server is yet to listen."""
    try:
        return api.http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
