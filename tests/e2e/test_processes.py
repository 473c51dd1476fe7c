"""Background processes through the API: started, followed, waited for, ended, in real sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.client import Client, Event, Received, events_of
from tests.platform import Platform

BOX = "processes"

PROCESSES = f"/v1/sandboxes/{BOX}/processes"

EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox(BOX)
    yield BOX
    api.remove(BOX)


@pytest.fixture(autouse=True)
def _nothing_runs_after_a_test(api: Client, box: str) -> Iterator[None]:
    yield
    api.http.delete(PROCESSES)


def start(api: Client, command: str, /, **options: Any) -> Event:
    answer = api.http.post(PROCESSES, json={"command": command, **options})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def get(api: Client, process: Event, what: str = "") -> Event:
    answer = api.http.get(f"{PROCESSES}/{process['id']}{what}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def wait(api: Client, process: Event, **wanted: Any) -> Event:
    answer = api.http.post(f"{PROCESSES}/{process['id']}/wait", json=wanted)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@contextmanager
def following(api: Client, process: Event, after: str = "") -> Iterator[Iterator[Received]]:
    headers = EVENTS | ({"Last-Event-ID": after} if after else {})
    url = f"{PROCESSES}/{process['id']}/logs"
    with api.http.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        yield events_of(response)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_process_lives_on_when_its_starter_has_left(api: Client, box: str) -> None:
    process = start(api, "sleep 60")

    alive = api.exec(box, f"kill -0 {process['pid']}")

    assert alive["exitCode"] == 0
    assert process["status"] == "running"
    assert [one["id"] for one in api.http.get(PROCESSES).json()["processes"]] == [process["id"]]


def test_a_command_answers_while_a_process_of_its_session_runs(api: Client, box: str) -> None:
    start(api, "sleep 60")

    assert api.exec(box, "echo here")["durationMs"] < 1000


def test_a_process_has_the_variables_and_the_directory_of_its_session(
    api: Client, box: str
) -> None:
    api.exec(box, "mkdir -p /workspace/here && cd /workspace/here")
    api.http.put(f"/v1/sandboxes/{BOX}/env", json={"env": {"TOLD": "it's $HOME"}})

    process = start(api, 'pwd; echo "$TOLD $OWN"; id -un', env={"OWN": "1"})
    wait(api, process, **{"for": "exit"})

    assert get(api, process, "/logs")["stdout"] == "/workspace/here\nit's $HOME 1\nsandbox\n"
    api.exec(box, "cd /workspace")


def test_a_process_of_an_isolated_session_is_its_user_and_ends_with_it(
    api: Client, box: str
) -> None:
    api.http.post(f"/v1/sandboxes/{BOX}/sessions", json={"name": "alone", "isolation": True})
    process = start(api, "id -un; sleep 60", session="alone")
    wait(api, process, **{"for": "log", "pattern": "session-"})

    api.http.delete(f"/v1/sandboxes/{BOX}/sessions/alone")

    assert wait(api, process, **{"for": "exit"})["status"] == "killed"


def test_a_log_is_followed_to_its_end_and_gone_on_with(api: Client, box: str) -> None:
    process = start(api, "for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.1; done; exit 3")

    with following(api, process) as events:
        whole = list(events)
    with following(api, process, after=whole[1].id) as events:
        rest = list(events)

    assert [one.id for one in whole] == [str(n + 1) for n in range(len(whole))]
    assert [one.event["type"] for one in whole[:-1]].count("complete") == 0
    assert (whole[-1].event["type"], whole[-1].event["exitCode"]) == ("complete", 3)
    assert [(one.id, one.event) for one in rest] == [(one.id, one.event) for one in whole[2:]]
    logs = get(api, process, "/logs")
    assert logs == {"stdout": "1\n2\n3\n", "stderr": "e1\ne2\ne3\n", "truncated": False}


def test_who_has_the_end_of_a_log_is_told_not_to_come_back(api: Client, box: str) -> None:
    process = start(api, "true")
    wait(api, process, **{"for": "exit"})
    url = f"{PROCESSES}/{process['id']}/logs"

    assert api.http.get(url, headers=EVENTS | {"Last-Event-ID": "1"}).status_code == 204
    for wrong in ("1-1", "-1", "9" * 30):
        answer = api.http.get(url, headers=EVENTS | {"Last-Event-ID": wrong})
        assert refusal(answer) == (400, "invalid_event_id")


def test_an_alert_comes_from_a_growing_log(api: Client, box: str) -> None:
    api.exec(box, ": > app.log")
    process = start(api, "tail -f app.log")
    alerts = []

    with following(api, process) as events:
        api.exec(box, "echo 'INFO up' >> app.log; sleep 0.2; echo 'ERROR disk on fire' >> app.log")
        for received in events:
            if "ERROR" in received.event.get("data", ""):
                alerts.append(received.event["data"])
                break

    assert "disk on fire" in alerts[0]


def test_a_server_is_started_waited_for_and_asked(api: Client, box: str) -> None:
    process = start(api, "sleep 0.3; exec python3 -m http.server 8123")

    wait(api, process, **{"for": "port", "port": 8123, "path": "/", "status": 200})

    answer = api.http.post(f"/v1/sandboxes/{BOX}/fetch/8123", json={"path": "/"})
    assert answer.json()["status"] == 200


def test_what_is_waited_for_and_does_not_come_is_told(api: Client, box: str) -> None:
    running, ended = start(api, "sleep 60"), start(api, "echo nothing; exit 7")
    wanted = {"for": "log", "pattern": "ready", "timeoutMs": 200}

    late = api.http.post(f"{PROCESSES}/{running['id']}/wait", json=wanted)
    over = api.http.post(f"{PROCESSES}/{ended['id']}/wait", json=wanted)

    assert refusal(late) == (408, "process_wait_timed_out")
    assert running["id"] in late.json()["error"]["message"]
    assert refusal(over) == (409, "process_ended")
    assert "exit code 7" in over.json()["error"]["message"]
    assert "nothing" in over.json()["error"]["message"]


def test_a_process_is_killed_with_all_that_it_started(api: Client, box: str) -> None:
    process = start(api, "trap '' TERM; (setsid sleep 314 &); sh -c 'sleep 314; :' & sleep 314")

    ended = api.http.delete(f"{PROCESSES}/{process['id']}").json()

    assert ended["status"] == "killed"
    assert api.exec(box, "pgrep -fx 'sleep 314'")["stdout"] == ""


def test_a_signal_is_sent(api: Client, box: str) -> None:
    process = start(api, "trap 'echo hup; exit 5' HUP; echo up; while :; do sleep 0.05; done")
    wait(api, process, **{"for": "log", "pattern": "up"})

    api.http.post(f"{PROCESSES}/{process['id']}/signal", json={"signal": "HUP"})

    assert wait(api, process, **{"for": "exit"})["exitCode"] == 5


def test_nothing_is_started_twice(api: Client, box: str) -> None:
    key = {"Idempotency-Key": "once"}
    first, again = (
        api.http.post(PROCESSES, json={"command": "sleep 60"}, headers=key) for _ in range(2)
    )
    named = start(api, "sleep 60", id="named")

    assert first.json() == again.json()
    assert refusal(api.http.post(PROCESSES, json={"command": "true", "id": named["id"]})) == (
        409,
        "process_exists",
    )
    assert refusal(api.http.post(PROCESSES, json={"command": "true"}, headers=key)) == (
        409,
        "idempotency_conflict",
    )
    assert api.http.delete(PROCESSES).json() == {"killed": 2}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"command": ""}, "command"),
        ({"command": " "}, "command"),
        ({}, "command"),
        ({"command": "a", "id": "a/b"}, "id"),
        ({"argv": []}, "argv"),
        ({"argv": [""]}, "argv[0]"),
    ],
)
def test_what_cannot_be_started_is_refused(api: Client, box: str, body: Event, field: str) -> None:
    answer = api.http.post(PROCESSES, json=body)

    assert refusal(answer) == (422, "invalid_field")
    assert answer.json()["error"]["details"]["field"] == field


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"for": "rain"},
        {"for": "port"},
        {"for": "log"},
        {"for": "exit", "port": 80},
        {"for": "port", "port": 0},
        {"for": "log", "pattern": "x", "timeoutMs": 0},
    ],
)
def test_what_cannot_be_waited_for_is_refused(api: Client, box: str, body: Event) -> None:
    process = start(api, "sleep 60")

    answer = api.http.post(f"{PROCESSES}/{process['id']}/wait", json=body)

    assert refusal(answer) == (422, "invalid_field")


@pytest.mark.parametrize("missing", ["none", "a%2F..%2Fx", "a%3Fb", "x%0A"])
def test_a_process_that_is_not_there_is_not_found(api: Client, box: str, missing: str) -> None:
    for method, what in (("GET", ""), ("DELETE", ""), ("GET", "/logs")):
        answer = api.http.request(method, f"{PROCESSES}/{missing}{what}")
        assert answer.status_code == 404


def test_a_process_outlives_the_worker(platform: Platform, api: Client, box: str) -> None:
    process = start(api, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")

    platform.kill("worker")
    told = wait(api, process, **{"for": "log", "pattern": "30"})
    platform.start("worker")
    platform.wait_until_ready(api)

    assert told["status"] == "running"
    assert get(api, process)["pid"] == process["pid"]
    assert api.exec(box, f"kill -0 {process['pid']}")["exitCode"] == 0


def test_stopping_the_sandbox_ends_its_processes_and_their_streams(api: Client, box: str) -> None:
    process = start(api, "echo up; sleep 600")

    with following(api, process) as events:
        assert next(events).event["data"] == "up\n"
        assert api.http.post(f"/v1/sandboxes/{BOX}/stop").status_code in (200, 202, 204)
        rest = [one.event["type"] for one in events]

    assert rest in (["complete"], [])
    api.http.post(f"/v1/sandboxes/{BOX}/start")
    assert api.http.get(PROCESSES).json() == {"processes": []}
