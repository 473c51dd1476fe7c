"""Git through the API: repositories in sandboxes, by calls that do not queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from stack.driver import Driver
from tests.client import Client, Event, events_of, wait_for
from tests.conftest import DRIVER
from tests.platform import Platform
from tests.repositories import (
    GitOverHttp,
    ServedRepository,
    git,
    host_address,
    make_repository,
    served_over_http,
)

SECRET = "token-that-nobody-sees"

BOX = "git"

SILENT = """
import socket
listener = socket.create_server(("127.0.0.1", 9999))
held = [listener.accept() for _ in range(9)]
"""


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox(BOX, network="egress")
    yield f"/v1/sandboxes/{BOX}/git"
    api.remove(BOX)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitOverHttp]:
    directory = tmp_path_factory.mktemp("private")
    make_repository(directory / "project")
    git(directory, "clone", "-q", "--bare", "project", "project.git")
    address = host_address(Driver(DRIVER))
    with served_over_http(directory, address=address, token=SECRET) as server:
        yield server


def post(api: Client, url: str, /, **body: Any) -> Event:
    answer = api.http.post(url, json=body)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_private_repository_is_cloned_changed_and_pushed(
    api: Client, box: str, private: GitOverHttp
) -> None:
    credentials = {"token": SECRET}
    url = f"{private.server}/project.git"

    found = post(api, f"{box}/checkout", repoUrl=url, credentials=credentials)
    api.exec(BOX, "git -C project checkout -qb change; echo new > project/greeting.txt")
    changed = api.http.get(f"{box}/status", params={"path": "project"}).json()
    post(api, f"{box}/add", path="project", files=["greeting.txt"])
    head = post(api, f"{box}/commit", path="project", message="Greet anew")
    post(api, f"{box}/push", path="project", host=private.server, credentials=credentials)
    log = api.http.get(f"{box}/log", params={"path": "project", "limit": 1}).json()

    assert (found["targetDir"], found["branch"]) == ("/workspace/project", "trunk")
    assert [file["path"] for file in changed["files"]] == ["greeting.txt"]
    assert (log["commits"][0]["commit"], head["branch"]) == (head["commit"], "change")
    again = post(
        api,
        f"{box}/checkout",
        **{"repoUrl": url, "targetDir": "again", "ref": "change", "credentials": credentials},
    )
    assert again["commit"] == head["commit"]
    kept = api.exec(BOX, f"grep -rl {SECRET[:-1]}[s] /workspace /home/sandbox /tmp || true")
    assert kept["stdout"] == ""


def test_a_checkout_streams_how_it_goes_to_one_end(
    api: Client, box: str, repository_url: ServedRepository
) -> None:
    body = {"repoUrl": repository_url.url, "targetDir": "streamed", "depth": 1}
    headers = {"Accept": "text/event-stream"}

    with api.http.stream("POST", f"{box}/checkout", json=body, headers=headers) as response:
        events = [received.event for received in events_of(response)]

    assert events[0]["type"] == "start"
    assert {event["type"] for event in events[1:-1]} <= {"progress"}
    assert events[-1]["type"] == "complete"
    assert events[-1]["commit"] == repository_url.commit
    counted = api.exec(BOX, "git -C streamed rev-list --count HEAD")
    assert counted["stdout"] == "1\n"


def test_relative_paths_are_where_the_session_is(api: Client, box: str) -> None:
    api.exec(BOX, "git init -q -b main inner; cd inner; mkdir deep; cd deep")

    status = api.http.get(f"{box}/status").json()
    api.exec(BOX, "cd /workspace")

    assert (status["branch"], status["commit"]) == ("main", None)
    assert refusal(api.http.get(f"{box}/status")) == (404, "not_a_repository")


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        *(({"depth": depth}, (422, "invalid_field")) for depth in (0, -1, 1.5, "x")),
        *(({"timeoutMs": timeout}, (422, "invalid_field")) for timeout in (-1, 0, "x")),
        ({"ref": "trunk; touch PWN; #"}, (404, "ref_not_found")),
        ({"ref": "missing"}, (404, "ref_not_found")),
        ({"repoUrl": "ext::sh -c 'touch PWN'"}, (422, "invalid_repository_url")),
        ({"repoUrl": "/workspace/nothing"}, (404, "repository_not_found")),
        ({"session": "nobody"}, (404, "session_not_found")),
        ({"credentials": {"password": "x"}}, (422, "invalid_field")),
    ],
)
def test_what_cannot_be_checked_out_says_why(
    api: Client, box: str, repository_url: ServedRepository, fields: Event, refused: Any
) -> None:
    body = {"repoUrl": repository_url.url, "targetDir": "refused", **fields}

    answer = api.http.post(f"{box}/checkout", json=body)

    assert refusal(answer) == refused, answer.text
    assert api.exec(BOX, "ls -d refused PWN || true")["stdout"] == ""


def test_no_error_or_log_repeats_a_token(
    api: Client, box: str, private: GitOverHttp, platform: Platform
) -> None:
    wrong = "wrong-" + SECRET
    url = f"{private.server}/project.git".replace("http://", f"http://ann:{wrong}@")

    answer = api.http.post(f"{box}/checkout", json={"repoUrl": url, "targetDir": "x"})
    invalid = api.http.post(
        f"{box}/pull", json={"path": "project", "host": "-", "credentials": {"token": wrong}}
    )

    assert refusal(answer) == (403, "authentication_failed")
    assert refusal(invalid) == (422, "invalid_request")
    assert wrong not in answer.text + invalid.text
    logs = [path.read_text(errors="replace") for path in platform.state_dir.rglob("*.log")]
    assert logs
    assert wrong not in json.dumps(logs)


@pytest.mark.parametrize("what", ["checkout", "pull"])
def test_git_ends_with_its_caller_and_leaves_nothing(api: Client, box: str, what: str) -> None:
    url = "http://127.0.0.1:9999/x"
    api.exec(BOX, f"python3 -c '{SILENT}' >/dev/null 2>&1 &")
    api.exec(BOX, f"git init -q silent; git -C silent remote add origin {url}")
    body = {"repoUrl": url, "targetDir": "left"} if what == "checkout" else {"path": "silent"}

    with pytest.raises(httpx.ReadTimeout):
        api.http.post(f"{box}/{what}", json=body, timeout=3)

    wait_for(lambda: not api.exec(BOX, "pgrep -f 'git.*[9]999'")["stdout"], "git has ended")
    wait_for(lambda: not api.exec(BOX, "ls -d left || true")["stdout"], "nothing is left")
    api.exec(BOX, "kill %1; rm -rf silent")


@pytest.mark.skipif(DRIVER != "docker", reason="driver local has one user")
def test_an_isolated_session_has_repositories_and_credentials_of_its_own_user(
    api: Client, box: str, private: GitOverHttp
) -> None:
    made = api.http.post(f"/v1/sandboxes/{BOX}/sessions", json={"name": "apart", "isolation": True})
    assert made.status_code == 201, made.text
    own = {"session": "apart", "path": "apart"}
    credentials = {"token": SECRET}

    post(
        api,
        f"{box}/checkout",
        repoUrl=f"{private.server}/project.git",
        targetDir="apart",
        session="apart",
        credentials=credentials,
    )
    head = post(api, f"{box}/commit", message="apart", allowEmpty=True, **own)
    pulled = post(api, f"{box}/pull", host=private.server, credentials=credentials, **own)

    owner = api.exec(BOX, "stat -c %U apart/.git/index")["stdout"].strip()
    assert owner == "session-1"
    assert pulled == head
