"""Directories watched through the API while commands change what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.client import Client, Event, events_of, wait_for

BOX = "watched"


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox(BOX)
    yield BOX
    api.remove(BOX)


@contextmanager
def watching(api: Client, box: str, **query: Any) -> Iterator[Iterator[Event]]:
    path = f"/v1/sandboxes/{box}/files/watch"
    with api.http.stream("GET", path, params=query) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"] == "text/event-stream"
        yield (received.event for received in events_of(answer))


def check(api: Client, box: str, **query: Any) -> Event:
    answer = api.http.get(f"/v1/sandboxes/{box}/files/watch/check", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_what_commands_do_to_files_is_told_as_it_happens(api: Client, box: str) -> None:
    api.exec(box, "mkdir /workspace/app && touch /workspace/app/{old,changed,gone}")
    with watching(api, box, path="app", session="default") as events:
        first = next(events)
        change = "echo 1 > new; echo 2 > changed; rm gone; mv old renamed; mkdir done"
        api.exec(box, f"(cd /workspace/app; {change})")
        told: list[Event] = []
        while not told or not told[-1]["path"].endswith("/done"):
            told.append(next(events))

    assert first["type"] == "watching"
    assert first["path"].endswith("/app")
    assert {one["type"] for one in told} == {"change"}
    assert [(one["change"], one["path"].rpartition("/")[2]) for one in told] == [
        ("create", "new"),
        ("modify", "changed"),
        ("delete", "gone"),
        ("move", "renamed"),
        ("create", "done"),
    ]
    assert told[3]["fromPath"].endswith("/old")


def test_a_watch_keeps_its_sandbox_awake_and_its_end_lets_it_sleep(api: Client) -> None:
    api.sandbox("watched-idle", idleTimeoutMs=1000)

    def state() -> str:
        return str(api.http.get("/v1/sandboxes/watched-idle").json()["state"])

    with watching(api, "watched-idle", path="/workspace") as events:
        assert next(events)["type"] == "watching"
        command = "(sleep 4; touch /workspace/late) >/dev/null 2>&1 &"
        api.exec("watched-idle", command)
        assert next(events)["path"] == "/workspace/late"
        assert state() == "running"
    wait_for(lambda: state() == "stopped", "it falls asleep")
    api.remove("watched-idle")


def test_whether_something_has_changed_can_be_asked(api: Client, box: str) -> None:
    api.exec(box, "mkdir -p /workspace/asked && touch /workspace/asked/file")
    first = check(api, box, path="/workspace/asked")
    again = check(api, box, path="/workspace/asked", since=first["version"])
    api.exec(box, "echo more >> /workspace/asked/file")
    changed = check(api, box, path="/workspace/asked", since=first["version"])
    unknown = check(api, box, path="/workspace/asked", since="watch-1-2:0")

    assert first["status"] == "resync"
    assert again == {"status": "unchanged", "version": first["version"]}
    assert changed["status"] == "changed"
    assert unknown == {"status": "resync", "version": changed["version"]}


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"path": "/workspace/nothing"}, 404, "file_not_found"),
        ({"path": "/proc/1/fd"}, 403, "permission_denied"),
        ({"path": "/root"}, 403, "permission_denied"),
        ({"path": "/etc/passwd"}, 400, "not_a_directory"),
        ({"path": "/workspace", "include": "*.a", "exclude": "*.b"}, 422, "invalid_field"),
        ({"path": "/workspace", "include": ""}, 422, "invalid_field"),
        ({}, 422, "invalid_field"),
    ],
)
@pytest.mark.parametrize("verb", ["watch", "watch/check"])
def test_what_cannot_be_watched_is_refused(
    api: Client, box: str, verb: str, query: Event, status: int, code: str
) -> None:
    answer = api.http.get(f"/v1/sandboxes/{box}/files/{verb}", params=query)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
