"""Repositories, their servers and their callers that want git to do more than it is asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.client import Client, Event
from tests.conftest import DRIVER

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local is for trusted code")

BOX = "git-attacks"

SET_UP = """
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
mark() {
    printf '#!/bin/sh\\ntouch /workspace/ran/%s-$(id -u)\\ncat\\n' "$1" > "$2"
    chmod +x "$2"
}
new() {
    git init -q -b trunk "$1"
    echo 1 > "$1/file"
    git -C "$1" add .
    git -C "$1" commit -qm 1
}
mkdir -p ran programs
"""

PROGRAMS = """
new hostile
for hook in post-checkout pre-commit commit-msg post-commit pre-merge-commit post-merge pre-push \\
    reference-transaction post-index-change; do
    mark $hook hostile/.git/hooks/$hook
done
for option in core.fsmonitor core.sshCommand core.pager core.askPass core.editor diff.external \\
    diff.t.textconv gpg.program credential.helper pager.log sequence.editor core.gitProxy \\
    remote.origin.uploadpack remote.origin.receivepack core.alternateRefsCommand; do
    mark $option programs/$option
    git -C hostile config $option /workspace/programs/$option
done
git -C hostile config commit.gpgSign true
git -C hostile config log.showSignature true
mark filter programs/filter
git -C hostile config filter.f.clean /workspace/programs/filter
echo 'file diff=t filter=f' > hostile/.gitattributes
git clone -q --bare hostile elsewhere.git
git -C hostile config remote.origin.url /workspace/elsewhere.git
echo /workspace/elsewhere.git/objects > hostile/.git/objects/info/alternates
echo 2 > hostile/file
rm -f ran/*
"""


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox(BOX, diskMb=96)
    run(api, "true")
    yield f"/v1/sandboxes/{BOX}/git"
    api.remove(BOX)


def run(api: Client, script: str) -> str:
    """The output of a script with the helpers of `SET_UP`."""
    done = api.exec(BOX, f"bash -euc {shlex.quote(SET_UP + script)}")
    assert done["exitCode"] == 0, done
    return str(done["stdout"])


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def look(api: Client, box: str, what: str, **query: Any) -> Event:
    answer = api.http.get(f"{box}/{what}", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def do(api: Client, box: str, what: str, **body: Any) -> Event:
    answer = api.http.post(f"{box}/{what}", json=body)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    "url",
    [
        *("ext::sh -c 'touch /workspace/ran/url'", "fd::17/x", "transport::https://example.org"),
        *("file:///etc", "/etc", "../../etc", "file:///workspace/%2e%2e/etc"),
        *("ssh://-oProxyCommand=touch/x", "git@-oProxyCommand=touch:x", "-u", "--upload-pack=id"),
    ],
)
def test_a_url_that_would_start_a_program_or_leave_the_workspace_is_refused(
    api: Client, box: str, url: str
) -> None:
    answer = api.http.post(f"{box}/checkout", json={"repoUrl": url, "targetDir": "/workspace/g1"})

    assert refusal(answer) == (422, "invalid_repository_url")
    assert run(api, "ls ran; ls -d g1 || true") == ""


@pytest.mark.parametrize(
    ("what", "body"),
    [
        (
            "checkout",
            {"repoUrl": "/workspace/plain", "ref": "--upload-pack=touch /workspace/ran/x"},
        ),
        ("pull", {"remote": "--upload-pack=touch /workspace/ran/x"}),
        ("push", {"remote": "--receive-pack=touch /workspace/ran/x"}),
        ("push", {"branch": "--exec=touch /workspace/ran/x"}),
        ("switch", {"branch": "--detach"}),
        ("branches", {"branch": "--edit-description"}),
        ("branches", {"branch": "x", "start": "--track"}),
        ("add", {"files": ["--chmod=+x"]}),
    ],
)
def test_an_option_where_a_name_belongs_is_a_name_that_nothing_has(
    api: Client, box: str, what: str, body: Event
) -> None:
    run(api, "test -d plain || new plain")
    where = {} if what == "checkout" else {"path": "plain"}

    answer = api.http.post(f"{box}/{what}", json={**where, **body})

    assert answer.status_code == 404, answer.text
    assert run(api, "ls ran; git -C plain status --porcelain") == ""


def test_a_submodule_from_the_file_system_is_never_fetched(api: Client, box: str) -> None:
    run(
        api,
        """
        new part; new whole
        git -c protocol.file.allow=always -C whole submodule --quiet add file:///workspace/part part
        git -C whole commit -qm 2
        """,
    )

    plain = do(api, box, "checkout", repoUrl="/workspace/whole", targetDir="/workspace/plain-whole")
    deep = api.http.post(
        f"{box}/checkout",
        json={"repoUrl": "/workspace/whole", "targetDir": "/workspace/deep", "submodules": True},
    )

    assert plain["branch"] == "trunk"
    assert deep.status_code == 409
    assert "transport 'file' not allowed" in deep.json()["error"]["message"]
    assert run(api, "ls plain-whole/part; ls -d deep || true") == ""


def test_programs_that_a_repository_names_do_not_run_but_filters_and_those_as_the_user(
    api: Client, box: str
) -> None:
    run(api, PROGRAMS)
    where = {"path": "hostile"}

    look(api, box, "status", **where)
    look(api, box, "log", **where)
    look(api, box, "diff", **where)
    look(api, box, "branches", **where)
    do(api, box, "add", files=["."], **where)
    do(api, box, "commit", message="2", **where)
    do(api, box, "push", **where)
    do(api, box, "branches", branch="other", switch=True, **where)
    do(api, box, "switch", branch="trunk", **where)
    do(api, box, "pull", **where)

    user = run(api, "id -u").strip()
    assert set(run(api, "ls ran").split()) <= {f"filter-{user}"}


@pytest.mark.parametrize(
    "plant",
    [
        "mkdir victim; ln -s /tmp/evil/.git victim/.git",
        "mkdir victim; echo 'gitdir: /tmp/evil/.git' > victim/.git",
        "cp -r /tmp/evil/.git victim",
    ],
    ids=["link", "gitdir", "bare"],
)
def test_a_git_directory_elsewhere_or_among_the_files_is_none(
    api: Client, box: str, plant: str
) -> None:
    run(
        api,
        f"""
        rm -rf victim /tmp/evil ran/*; new /tmp/evil; mark fsmonitor programs/fsmonitor
        git -C /tmp/evil config core.fsmonitor /workspace/programs/fsmonitor
        git -C /tmp/evil config core.bare false
        {plant}
        """,
    )

    answers = [
        api.http.get(f"{box}/{what}", params={"path": "victim"}) for what in ("status", "diff")
    ]

    assert {refusal(answer) for answer in answers} == {(404, "not_a_repository")}
    assert run(api, "ls ran") == ""


def test_a_repository_that_does_not_fit_leaves_nothing_of_itself(api: Client, box: str) -> None:
    run(api, "new large; head -c 35000000 /dev/urandom > large/r; git -C large add r")
    run(api, "git -C large commit -qm 2; rm large/r")

    answer = api.http.post(
        f"{box}/checkout", json={"repoUrl": "/workspace/large", "targetDir": "/workspace/copy"}
    )

    assert refusal(answer) == (507, "disk_full"), answer.text
    assert run(api, "ls -d copy || true; rm -rf large") == ""


def test_text_that_is_no_text_comes_as_json_with_every_name_apart(api: Client, box: str) -> None:
    run(
        api,
        r"""
        new ugly; cd ugly
        touch -- $'line\nend' $'tab\t"quoted"' $'\e[31mred' $'\xff\xfe' ' -> ' '--option' $'\u2028'
        tree=$(git rev-parse 'HEAD^{tree}'); parent=$(git rev-parse HEAD)
        printf 'tree %s\nparent %s\nauthor \033[1m\377 <> 1 +0000\ncommitter c <c> x y\n\n%b' \
            $tree $parent 'subject \033[2J \0377\n\nbody\r\n' > /tmp/commit
        git update-ref HEAD $(git hash-object -t commit -w --literally /tmp/commit)
        git branch $'weird\u2028\u0085name'
        """,
    )

    status = look(api, box, "status", path="ugly")
    commits = look(api, box, "log", path="ugly")["commits"]
    branches = look(api, box, "branches", path="ugly")["branches"]

    assert {file["path"] for file in status["files"]} == {
        *("line\nend", 'tab\t"quoted"', "\x1b[31mred", "\ufffd\ufffd", " -> ", "--option"),
        "\u2028",
    }
    assert commits[0]["message"] == "subject \x1b[2J \ufffd\n\nbody\r\n"
    assert commits[0]["author"]["name"] == "\x1b[1m\ufffd"
    assert len(commits) == 2
    assert {branch["name"] for branch in branches} == {"trunk", "weird\u2028\x85name"}


def test_a_lock_of_a_git_that_was_killed_with_its_sandbox_is_cleared(api: Client, box: str) -> None:
    """The sandbox is stopped in the middle of a commit, which a filter keeps waiting."""
    run(
        api,
        r"""
        new slow
        printf '#!/bin/sh\ntouch /workspace/ran/waits\nsleep 60\n' > programs/wait
        chmod +x programs/wait
        git -C slow config filter.w.clean /workspace/programs/wait
        echo 'late filter=w' > slow/.gitattributes; echo 1 > slow/late
        """,
    )
    with pytest.raises(httpx.ReadTimeout):
        api.http.post(f"{box}/add", json={"path": "slow", "files": ["."]}, timeout=2)
    assert run(api, "ls ran slow/.git/index.lock").split() == [
        "slow/.git/index.lock",
        "ran:",
        "waits",
    ]

    for change in ("stop", "start"):
        assert api.http.post(f"/v1/sandboxes/{BOX}/{change}").status_code == 200
    run(api, "git -C slow config --unset filter.w.clean")
    status = do(api, box, "add", path="slow", files=["."])

    assert {file["path"]: file["index"] for file in status["files"]} == {
        ".gitattributes": "added",
        "late": "added",
    }
