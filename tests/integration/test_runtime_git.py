"""Git as the web asks for it: over the runtime's socket, by real git, on real repositories."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox_runtime.protocol.requests import ExecRequest, Session
from tests.repositories import GitOverHttp, git, make_repository, served_over_http
from tests.running_runtime import IS_ROOT, TOKEN, RunningRuntime, running_runtime, wait_until

SECRET = "token-that-nobody-sees"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime() as runtime:
        yield runtime


@pytest.fixture
def repository(runtime: RunningRuntime, request: pytest.FixtureRequest) -> Path:
    """One commit on `trunk`, made by the sandbox's user."""
    path = runtime.own_directory(request)
    runtime.as_user(
        f"git init -q -b trunk {path}; cd {path}; echo 1 > file; git add .\n"
        "git -c user.name=ann -c user.email=ann@example.org commit -q -m first"
    )
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories for servers: `project.git`, one commit on `trunk`."""
    directory = tmp_path_factory.mktemp("served")
    make_repository(directory / "project")
    git(directory, "clone", "-q", "--bare", "project", "project.git")
    return directory


@pytest.fixture(scope="module")
def private(served: Path) -> Iterator[GitOverHttp]:
    with served_over_http(served, token=SECRET) as server:
        yield server


def command(http: httpx.Client, name: str, path: object, **fields: object) -> Json:
    answer = http.post("/git", json={"command": name, "path": str(path), **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refusal(http: httpx.Client, name: str, path: object, **fields: object) -> tuple[int, str]:
    answer = http.post("/git", json={"command": name, "path": str(path), **fields})
    return answer.status_code, answer.json()["code"]


def checkout(http: httpx.Client, url: str, target: object, **fields: object) -> list[Json]:
    body = {"repoUrl": url, "targetDir": str(target), **fields}
    answer = http.post("/git/checkout", json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line)["event"] for line in answer.text.splitlines() if line]


def everything_under(directory: Path) -> str:
    """What all files hold, read as bytes go."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return "\n".join(path.read_bytes().decode(errors="replace") for path in files)


def test_files_that_were_changed_are_told_by_what_was_done_to_them(
    runtime: RunningRuntime, http: httpx.Client, repository: Path
) -> None:
    runtime.as_user("git mv file moved; echo 2 > new; echo 3 > staged; git add staged", repository)

    status = command(http, "status", repository)

    assert status["branch"] == "trunk"
    assert {file["path"]: (file["index"], file["worktree"]) for file in status["files"]} == {
        "moved": ("renamed", "unmodified"),
        "staged": ("added", "unmodified"),
        "new": ("untracked", "untracked"),
    }
    assert next(f["originalPath"] for f in status["files"] if f["path"] == "moved") == "file"


def test_what_is_added_is_committed_and_is_in_the_log(
    http: httpx.Client, repository: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("echo 2 > file; echo 3 > other", repository)

    staged = command(http, "add", repository, files=["other"])
    head = command(
        http, "commit", repository, message="second\n\nbody", authorName="Bo", authorEmail="b@x.org"
    )
    log = command(http, "log", repository)
    diff = command(http, "diff", repository)

    assert {file["path"]: file["index"] for file in staged["files"]} == {
        "file": "unmodified",
        "other": "added",
    }
    first, second = log["commits"][1], log["commits"][0]
    assert (second["commit"], second["parents"]) == (head["commit"], [first["commit"]])
    assert second["message"] == "second\n\nbody\n"
    assert (second["author"]["name"], second["author"]["email"]) == ("Bo", "b@x.org")
    assert first["author"]["name"] == "ann"
    assert diff == {"diff": diff["diff"], "truncated": False}
    assert "-1\n+2\n" in diff["diff"]


def test_a_commit_has_an_author_also_where_nobody_named_one(
    http: httpx.Client, repository: Path, runtime: RunningRuntime
) -> None:
    command(http, "commit", repository, message="empty", allowEmpty=True)
    runtime.as_user("git config user.name Cy; git config user.email c@example.org", repository)
    command(http, "commit", repository, message="empty", allowEmpty=True)

    authors = [one["author"] for one in command(http, "log", repository, limit=2)["commits"]]
    assert [author["name"] for author in authors] == ["Cy", "Coldframe"]
    assert authors[0]["email"] == "c@example.org"


def test_branches_are_made_switched_to_listed_and_deleted(
    http: httpx.Client, repository: Path
) -> None:
    command(http, "create_branch", repository, branch="feature", switch=True)
    command(http, "commit", repository, message="more", allowEmpty=True)
    there = command(http, "branches", repository)
    command(http, "switch", repository, branch="trunk")

    assert there["current"] == "feature"
    assert [branch["name"] for branch in there["branches"]] == ["feature", "trunk"]
    assert refusal(http, "create_branch", repository, branch="feature") == (409, "branch_exists")
    assert refusal(http, "delete_branch", repository, branch="feature") == (
        409,
        "branch_not_merged",
    )
    command(http, "delete_branch", repository, branch="feature", force=True)
    assert refusal(http, "switch", repository, branch="feature") == (404, "ref_not_found")


def test_a_repository_without_commits_has_a_status_and_an_empty_log(
    http: httpx.Client, runtime: RunningRuntime
) -> None:
    runtime.as_user("git init -q -b main unborn")

    status = command(http, "status", runtime.workspace / "unborn")

    assert (status["branch"], status["commit"], status["files"]) == ("main", None, [])
    assert command(http, "log", runtime.workspace / "unborn")["commits"] == []


def test_a_relative_path_is_the_sessions(
    http: httpx.Client, repository: Path, runtime: RunningRuntime
) -> None:
    session = Session(name="here", cwd=str(runtime.workspace))
    runtime.run(ExecRequest(command=f"cd {repository}; mkdir sub", session=session))
    fields = {"session": {"name": "here", "cwd": str(runtime.workspace)}}

    assert command(http, "status", "sub", **fields)["branch"] == "trunk"
    events = checkout(http, str(repository), "copy", **fields)
    assert events[-1]["targetDir"] == f"{repository}/copy"


def test_reasons_are_told_apart(
    http: httpx.Client, repository: Path, runtime: RunningRuntime
) -> None:
    runtime.as_user("git remote add gone /workspace/gone; git remote add bad ext::x", repository)

    assert refusal(http, "status", runtime.workspace) == (404, "not_a_repository")
    assert refusal(http, "status", repository / "missing") == (404, "not_a_repository")
    assert refusal(http, "commit", repository, message="x") == (409, "nothing_to_commit")
    assert refusal(http, "add", repository, files=["missing"]) == (404, "path_not_found")
    assert refusal(http, "log", repository, revision="missing") == (404, "ref_not_found")
    assert refusal(http, "pull", repository) == (404, "remote_not_found")
    assert refusal(http, "pull", repository, remote="bad") == (422, "invalid_repository_url")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("log", {"revision": "--output={mark}"}),
        ("diff", {"revision": "--output={mark}"}),
        ("switch", {"branch": "--orphan=x"}),
        ("create_branch", {"branch": "-d", "start": "trunk"}),
        ("create_branch", {"branch": "x", "start": "--edit-description"}),
        ("delete_branch", {"branch": "-D"}),
        ("pull", {"remote": "--upload-pack=touch {mark}"}),
        ("push", {"remote": "--receive-pack=touch {mark}"}),
        ("push", {"remote": "ext::sh -c 'touch {mark}'"}),
        ("add", {"files": ["--pathspec-from-file=/etc/passwd"]}),
        ("log", {"revision": "trunk; touch {mark}"}),
    ],
)
def test_an_option_in_a_field_is_a_name_that_is_not_there(
    http: httpx.Client, repository: Path, name: str, fields: Json
) -> None:
    mark = repository / "mark"
    filled = json.loads(json.dumps(fields).replace("{mark}", str(mark)))

    status, code = refusal(http, name, repository, **filled)

    assert (status, code) in {
        (404, "ref_not_found"),
        (404, "remote_not_found"),
        (404, "path_not_found"),
    }
    assert not mark.exists()


@pytest.mark.parametrize(
    "fields",
    [
        *({"depth": depth} for depth in (0, -1, 1.5, "x", 2**31)),
        *({"timeoutMs": timeout} for timeout in (-1, 0, 1.5, "x")),
        *({"credentials": {"token": token}} for token in ("", "a\nb")),
        {"unknown": 1},
    ],
)
def test_a_checkouts_numbers_and_credentials_are_checked(
    http: httpx.Client, runtime: RunningRuntime, fields: Json
) -> None:
    body = {"repoUrl": "https://example.invalid/x", **fields}

    answer = http.post("/git/checkout", json=body)

    code = answer.json()["code"] if answer.status_code != 200 else _last(answer)["code"]
    assert code == "invalid_request"
    assert not (runtime.workspace / "x").exists()


def _last(answer: httpx.Response) -> Json:
    return dict(json.loads(answer.text.splitlines()[-1])["event"])


def test_a_private_repository_is_checked_out_pulled_and_pushed_with_a_token(
    http: httpx.Client, runtime: RunningRuntime, private: GitOverHttp, served: Path
) -> None:
    url = f"{private.server}/project.git"
    token = {"credentials": {"token": SECRET}}

    refused = checkout(http, url, runtime.workspace / "private")
    events = checkout(http, url, runtime.workspace / "private", **token)
    target = runtime.workspace / "private"
    runtime.as_user("echo 2 > file; git add .", target)
    committed = command(http, "commit", target, message="from the sandbox")
    without = refusal(http, "push", target)
    pushed = command(http, "push", target, host=private.server, **token)
    pulled = command(http, "pull", target, host=private.server, **token)

    assert refused[-1]["code"] == "authentication_failed"
    assert events[-1]["type"] == "complete"
    assert (events[-1]["branch"], events[-1]["targetDir"]) == ("trunk", str(target))
    assert without == (403, "authentication_failed")
    assert pushed == pulled == committed
    assert git(served / "project.git", "rev-parse", "trunk").strip() == committed["commit"]
    assert SECRET not in json.dumps(events)
    assert SECRET not in everything_under(runtime.workspace)
    assert SECRET not in everything_under(runtime.home)
    assert list(runtime.scratch.glob("git-*")) == []


def test_credentials_in_a_url_are_used_and_left_nowhere(
    http: httpx.Client, runtime: RunningRuntime, private: GitOverHttp
) -> None:
    url = private.server.replace("http://", f"http://ann:{SECRET}@")

    events = checkout(http, f"{url}/project.git", runtime.workspace / "by-url")

    assert events[-1]["type"] == "complete"
    assert SECRET not in json.dumps(events)
    assert SECRET not in everything_under(runtime.workspace / "by-url")


def test_a_token_is_told_to_its_own_host_alone(
    http: httpx.Client, runtime: RunningRuntime, served: Path, private: GitOverHttp
) -> None:
    """Not to where that host redirects to, nor to where a submodule or a remote lies."""
    with (
        served_over_http(served, token="another") as other,
        served_over_http(served, redirect_to=other.server) as redirecting,
    ):
        redirected = checkout(
            http,
            f"{redirecting.server}/project.git",
            runtime.workspace / "redirected",
            credentials={"token": SECRET},
        )
        checkout(
            http,
            f"{private.server}/project.git",
            runtime.workspace / "moved",
            credentials={"token": SECRET},
        )
        target = runtime.workspace / "moved"
        runtime.as_user(f"git remote set-url origin {other.server}/project.git", target)
        moved = refusal(http, "pull", target, host=private.server, credentials={"token": SECRET})

        assert redirected[-1]["code"] == "authentication_failed"
        assert moved == (403, "authentication_failed")
        assert other.requests
        assert {password for _, password in other.requests} == {None}


@pytest.mark.skipif(not IS_ROOT, reason="NOT TESTED: without root, all is one user's")
def test_while_git_runs_no_argument_or_variable_has_the_token(
    http: httpx.Client, runtime: RunningRuntime, served: Path
) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        arrived.set()
        go_on.wait(10)

    with served_over_http(served, token=SECRET, let_in=wait) as server:
        url, target = f"{server.server}/project.git", runtime.workspace / "watched"
        checking_out = threading.Thread(
            target=checkout, args=(http, url, target), kwargs={"credentials": {"token": SECRET}}
        )
        checking_out.start()
        assert arrived.wait(10)
        shown = runtime.as_user("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || true")
        (directory,) = runtime.scratch.glob("git-*")
        file = directory / "login"
        owner, mode = file.stat().st_uid, file.stat().st_mode & 0o777
        go_on.set()
        checking_out.join()

    assert url in shown
    assert SECRET not in shown
    assert (owner, mode) == (runtime.uid, 0o600)
    assert not directory.exists()


def test_a_server_that_sends_a_token_back_does_not_have_it_told(
    http: httpx.Client, runtime: RunningRuntime
) -> None:
    class Echoing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization", "").partition(" ")[2]
            self.send_response(500 if sent else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(b"you sent " + base64.b64decode(sent))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Echoing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x"
        target = runtime.workspace / "echoed"
        events = checkout(http, url, target, credentials={"token": SECRET})
        server.shutdown()

    assert "you sent x-access-token:***" in json.dumps(events)
    assert SECRET not in json.dumps(events)


def test_a_private_submodule_is_fetched_from_the_same_server_and_no_other(
    http: httpx.Client, runtime: RunningRuntime, served: Path, private: GitOverHttp
) -> None:
    def with_submodule(name: str, url: str) -> str:
        """The URL of a repository whose submodule lies there."""
        git(served, "clone", "-q", "project.git", name)
        (served / name / ".gitmodules").write_text(
            f'[submodule "part"]\n\tpath = part\n\turl = {url}\n'
        )
        commit = git(served / "project.git", "rev-parse", "HEAD").strip()
        git(served / name, "update-index", "--add", "--cacheinfo", f"160000,{commit},part")
        git(served / name, "add", ".gitmodules")
        identity = ("-c", "user.name=T", "-c", "user.email=t@example.org")
        git(served / name, *identity, "commit", "-qm", "submodule")
        git(served, "clone", "-q", "--bare", name, f"{name}.git")
        return f"{private.server}/{name}.git"

    options: Json = {"submodules": True, "credentials": {"token": SECRET}}
    with served_over_http(served, token="another") as other:
        same = with_submodule("same", "../project.git")
        elsewhere = with_submodule("elsewhere", f"{other.server}/project.git")
        local = with_submodule("local", f"file://{runtime.workspace}/x")

        found = checkout(http, same, runtime.workspace / "same", **options)
        refused = checkout(http, elsewhere, runtime.workspace / "elsewhere", **options)
        forbidden = checkout(http, local, runtime.workspace / "local", **options)
        without = checkout(
            http, local, runtime.workspace / "without", credentials={"token": SECRET}
        )

        assert {password for _, password in other.requests} == {None}
    assert found[-1]["type"] == "complete", found
    assert (runtime.workspace / "same/part/greeting.txt").exists()
    assert refused[-1]["code"] == "authentication_failed"
    assert forbidden[-1]["type"] == "error"
    assert "transport 'file' not allowed" in json.dumps(forbidden)
    assert not (runtime.workspace / "local").exists()
    assert without[-1]["type"] == "complete"


def test_what_is_too_much_for_an_answer_is_cut_and_says_so(
    http: httpx.Client, runtime: RunningRuntime, repository: Path
) -> None:
    runtime.as_user(
        """
        commit=$(git rev-parse HEAD)
        seq 12000 | sed "s|.*|$commit refs/heads/b&|" > .git/packed-refs
        mkdir many; cd many; seq 12000 | xargs touch; cd ..
        head -c 6000000 /dev/zero | tr '\\0' 'x' > file
        """,
        repository,
    )

    branches = command(http, "branches", repository)
    status = command(http, "status", repository)
    diff = command(http, "diff", repository)

    assert (len(branches["branches"]), branches["truncated"]) == (10_000, True)
    assert (len(status["files"]), status["truncated"]) == (10_000, True)
    assert (len(diff["diff"]), diff["truncated"]) == (4 * 1024 * 1024, True)


@pytest.mark.parametrize("base", ["file://{workspace}/", "ext::touch {workspace}/mark "])
def test_a_configuration_that_rewrites_urls_opens_no_other_protocol(
    http: httpx.Client, runtime: RunningRuntime, repository: Path, base: str
) -> None:
    base = base.replace("{workspace}", str(runtime.workspace))
    runtime.as_user(f"git config --global url.'{base}'.insteadOf http://rewritten.invalid/")

    events = checkout(http, f"http://rewritten.invalid/{repository.name}", "/tmp/rewritten")
    runtime.as_user(f"git config --global --remove-section url.'{base}'")

    assert "not allowed" in json.dumps(events)
    assert not Path("/tmp/rewritten").exists()
    assert not (runtime.workspace / "mark").exists()


def test_a_key_lies_in_a_private_file_while_ssh_runs(
    http: httpx.Client, runtime: RunningRuntime
) -> None:
    """What stands in for ssh writes down how it was called, and what it finds there."""
    programs, record = runtime.workspace / "programs", runtime.workspace / "record"
    runtime.as_user(
        f"""
        mkdir {programs}; cat > {programs}/ssh <<'END'
#!/bin/bash
[ "$1" = -G ] && exit 1
key=$(printf '%s\\n' "$@" | grep -A1 '^-i$' | tail -1)
{{ echo "$@"; stat -c '%a %u' "$key"; cat "$key"; env; }} > {record}
END
        chmod +x {programs}/ssh
        """
    )
    path = {"env": {"PATH": f"{programs}:/usr/bin:/bin"}}

    events = checkout(
        http,
        "git@example.invalid:ann/project.git",
        runtime.workspace / "by-key",
        credentials={"sshKey": SECRET},
        session=path,
    )

    arguments, mode_and_owner, key, *environment = record.read_text().splitlines()
    assert "-oStrictHostKeyChecking=accept-new" in arguments
    assert "-oIdentitiesOnly=yes" in arguments
    assert mode_and_owner == f"600 {runtime.uid}"
    assert key == SECRET
    assert SECRET not in arguments + "".join(environment) + json.dumps(events)
    assert list(runtime.scratch.glob("git-*")) == []


def test_a_sandbox_without_git_says_so(http: httpx.Client, repository: Path) -> None:
    session = {"env": {"PATH": "/nonexistent"}}

    assert refusal(http, "status", repository, session=session) == (501, "git_missing")


def test_a_token_without_the_host_that_it_is_for_is_refused(
    http: httpx.Client, repository: Path
) -> None:
    answer = http.post(
        "/git", json={"command": "pull", "path": str(repository), "credentials": {"token": SECRET}}
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert SECRET not in answer.text


def test_a_push_of_less_than_the_remote_has_is_rejected(
    http: httpx.Client, runtime: RunningRuntime, repository: Path
) -> None:
    runtime.as_user(
        f"git clone -q --bare {repository} {repository}.git; git clone -q {repository}.git one\n"
        f"git clone -q {repository}.git two"
    )
    one, two = runtime.workspace / "one", runtime.workspace / "two"
    for clone in (one, two):
        runtime.as_user(f"echo {clone.name} > file", clone)
        command(http, "add", clone, files=["file"])
        command(http, "commit", clone, message=clone.name)

    command(http, "push", one)

    assert refusal(http, "push", two) == (409, "push_rejected")
    assert refusal(http, "pull", two) == (409, "merge_conflict")
    assert command(http, "status", two)["files"] == []
    assert (two / "file").read_text() == "two\n"


def test_twenty_commits_at_once_wait_for_each_other(http: httpx.Client, repository: Path) -> None:
    answers: list[Json] = []

    def commit(number: int) -> None:
        answers.append(command(http, "commit", repository, message=str(number), allowEmpty=True))

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    log = command(http, "log", repository)["commits"]
    assert len({answer["commit"] for answer in answers}) == 20
    assert sorted(one["message"].strip() for one in log[:-1]) == sorted(map(str, range(20)))


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_remote_that_hangs_is_given_up_in_time(
    http: httpx.Client, runtime: RunningRuntime, repository: Path
) -> None:
    with silent_server() as url:
        runtime.as_user(f"git remote add origin {url}/x", repository)

        events = checkout(http, f"{url}/x", runtime.workspace / "hangs", timeoutMs=1500)
        pulled = refusal(http, "pull", repository, timeoutMs=1500)

    assert events[-1]["code"] == "timed_out"
    assert pulled == (408, "timed_out")
    assert not (runtime.workspace / "hangs").exists()


def test_a_command_that_waits_for_its_turn_is_given_up_in_time(
    http: httpx.Client, runtime: RunningRuntime, repository: Path
) -> None:
    """Eight gits run at once; the ninth waits for one of them to end."""
    with silent_server() as url:
        runtime.as_user(f"git remote add origin {url}/x", repository)
        others = [
            threading.Thread(
                target=checkout,
                args=(http, f"{url}/x", runtime.workspace / f"other-{number}"),
                kwargs={"timeoutMs": 6000},
            )
            for number in range(8)
        ]
        for other in others:
            other.start()
        wait_until(lambda: all((runtime.workspace / f"other-{n}").exists() for n in range(8)))

        pulled = refusal(http, "pull", repository, timeoutMs=500)
        still_there = [other.is_alive() for other in others]
        for other in others:
            other.join()

    assert pulled == (408, "timed_out")
    assert still_there == [True] * 8


def test_a_lock_that_a_killed_command_left_behind_is_cleared(
    http: httpx.Client, runtime: RunningRuntime, repository: Path
) -> None:
    """And one that a program of the user's holds is not."""
    (repository / ".git/coldframe.lock").write_text("held\n")
    runtime.as_user("chmod a+w .git/coldframe.lock || true; touch .git/index.lock", repository)
    (repository / ".git/coldframe.lock").chmod(0o666)

    head = command(http, "commit", repository, message="after", allowEmpty=True)
    runtime.as_user("touch .git/index.lock", repository)
    locked = refusal(http, "add", repository, files=["."])

    assert head["commit"]
    assert locked == (409, "repository_locked")


@pytest.mark.parametrize("route", ["checkout", "pull"])
def test_what_a_caller_asked_for_ends_when_he_leaves(
    http: httpx.Client, runtime: RunningRuntime, repository: Path, route: str
) -> None:
    def gits() -> str:
        return runtime.as_user(f"ps -eo args | grep '[g]it.*{port}' || true")

    with silent_server() as url:
        port = url.rpartition(":")[2]
        runtime.as_user(f"git remote add origin {url}/x", repository)
        path = "/git/checkout" if route == "checkout" else "/git"
        body: Json = (
            {"repoUrl": f"{url}/x", "targetDir": str(runtime.workspace / "left")}
            if route == "checkout"
            else {"command": "pull", "path": str(repository)}
        )
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(runtime.socket))
            sent = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            caller.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
            wait_until(lambda: bool(gits()))

        wait_until(lambda: not gits())
    wait_until(lambda: not (runtime.workspace / "left").exists())
    wait_until(lambda: not any(one.id.startswith("call-") for one in runtime.client.executions()))
