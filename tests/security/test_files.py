"""In a real sandbox, the file API opens nothing that the sandbox's user could not open."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.client import Client, events_of

ROUNDS = 300

MANY_FILES = """
import os
for i in range(20):
    os.mkdir(str(i))
    for j in range(5000):
        os.close(os.open(f"{i}/{j}", os.O_CREAT))
"""


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox("nosy")
    yield "nosy"
    api.remove("nosy")


def read(api: Client, box: str, path: str) -> httpx.Response:
    return api.http.get(f"/v1/sandboxes/{box}/files", params={"path": path})


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/run/coldframe/token",
        "/workspace/../run/coldframe/token",
        "/proc/1/environ",
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/thread-self/fd/3",
        "to-the-token",
        "to-proc/environ",
    ],
)
def test_no_path_and_no_link_leads_to_what_the_user_may_not_read(
    api: Client, box: str, path: str
) -> None:
    api.exec(box, "ln -sfn /run/coldframe/token to-the-token; ln -sfn /proc/self to-proc")

    answer = read(api, box, path)

    assert answer.status_code in (403, 404, 422), answer.content


@pytest.mark.parametrize("path", ["/etc/passwd", "/opt/coldframe/x", "/run/coldframe/x", "/x"])
def test_no_path_leads_to_what_the_user_may_not_write(api: Client, box: str, path: str) -> None:
    answer = api.http.put(f"/v1/sandboxes/{box}/files", params={"path": path}, content=b"x")

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")


def test_a_link_that_is_swapped_all_the_time_never_leads_to_what_is_the_runtimes(
    api: Client, box: str
) -> None:
    swapping = "while :; do ln -sfn /run/coldframe d; ln -sfn real d; done"
    api.exec(box, f"mkdir -p real; echo mine > real/token; (bash -c '{swapping}' &) 2>&-; true")

    told = [read(api, box, "d/token") for _ in range(ROUNDS)]
    api.http.delete(f"/v1/sandboxes/{box}/sessions/default")

    shown = {answer.text for answer in told if answer.status_code == 200}
    assert shown <= {"mine\n"}
    assert shown or all(answer.status_code == 403 for answer in told)


@pytest.mark.parametrize("path", ["/run/coldframe", "/root", "/proc/1", "to-proc/fd"])
def test_nothing_is_watched_that_the_user_may_not_read(api: Client, box: str, path: str) -> None:
    api.exec(box, "ln -sfn /proc/self to-proc")

    answer = api.http.get(f"/v1/sandboxes/{box}/files/watch", params={"path": path})

    assert answer.status_code in (403, 404), answer.text


def test_a_flood_below_a_hundred_thousand_files_is_told_or_said_to_be_lost(
    api: Client, box: str
) -> None:
    api.http.post(f"/v1/sandboxes/{box}/sessions", json={"name": "beside"})
    made = api.exec(box, "mkdir many && (cd many && python3 -)", stdin=MANY_FILES)
    assert made["exitCode"] == 0, made
    path = f"/v1/sandboxes/{box}/files/watch"
    told: set[str] = set()
    with api.http.stream("GET", path, params={"path": "/workspace/many"}) as answer:
        events = events_of(answer)
        assert next(events).event["type"] == "watching"
        flood = (
            "for i in 1 2 3; do touch many/*/*; done; touch many/last; rm many/last; mkdir many/z"
        )
        job_id = api.start_exec(box, f"cd /workspace; {flood}")
        while "/workspace/many/z" not in told and "overflow" not in told:
            event = next(events).event
            told.add(str(event.get("path", event["type"])))
        assert api.exec(box, "echo lives", session="beside")["stdout"] == "lives\n"

    assert api.follow_to_the_end(job_id)[-1].event["exitCode"] == 0
    assert len(told) > 1000 or "overflow" in told
