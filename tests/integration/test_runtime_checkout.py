"""Checkouts and archives, as the workers use them: over the runtime's socket, by real git."""

from __future__ import annotations

import http.server
import io
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_runtime.protocol.errors import ArchiveRefused, InvalidRequest
from sandbox_runtime.protocol.events import Conclusion
from sandbox_runtime.protocol.requests import CancelReason, CheckoutRequest
from stack.ports import free_port
from tests.running_runtime import IS_ROOT, Run, RunningRuntime, running_runtime, wait_until

HISTORY = """
git init -q -b trunk "$1"
cd "$1"
git config user.email ann@example.org
git config user.name ann
for number in 1 2 3; do echo $number > file; git add .; git commit -q -m $number; done
git tag v1 HEAD~1
git checkout -q -b feature
echo more > other; git add .; git commit -q -m feature
git checkout -q trunk
"""


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime() as runtime:
        yield runtime


@pytest.fixture(scope="module")
def origin(runtime: RunningRuntime) -> Path:
    """A repository in the workspace: three commits on `trunk`, the tag `v1`, a branch `feature`."""
    return new_repository(runtime, "origin")


@pytest.fixture(scope="module")
def daemon(runtime: RunningRuntime, origin: Path) -> Iterator[str]:
    """The URL of a git server with the same repository, and an empty one."""
    runtime.as_user(
        "git clone -q --bare origin served/full; git init -q -b main --bare served/empty"
    )
    base = runtime.workspace / "served"
    port = free_port()
    process = subprocess.Popen(
        [
            *(["setpriv", f"--reuid={runtime.uid}", "--clear-groups"] if IS_ROOT else []),
            *("git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all"),
            *(f"--base-path={base}", str(base)),
        ],
        stderr=subprocess.DEVNULL,
        cwd="/",  # Its user need not be able to see where the tests run.
    )
    try:
        wait_until(lambda: answers(port))
        yield f"git://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def target(runtime: RunningRuntime, request: pytest.FixtureRequest) -> Path:
    """A directory that is not there yet."""
    return runtime.own_directory(request)


def new_repository(runtime: RunningRuntime, name: str) -> Path:
    path = runtime.workspace / name
    runtime.as_user(f"set -- {path}\n{HISTORY}")
    return path


def checkout(runtime: RunningRuntime, url: str | Path, target: Path, **options: object) -> Run:
    fields = {"repo_url": str(url), "target_dir": str(target), **options}
    return runtime.run(CheckoutRequest(**fields))  # type: ignore[arg-type]


def new_script(runtime: RunningRuntime, name: str, body: str) -> Path:
    path = runtime.workspace / name
    runtime.as_user(f"mkdir -p {path.parent}; printf '#!/bin/sh\\n%s\\n' '{body}' > {path}")
    runtime.as_user(f"chmod +x {path}")
    return path


@contextmanager
def git_configured(runtime: RunningRuntime, name: str, value: Path) -> Iterator[None]:
    runtime.as_user(f"git config --global {name} {value}")
    yield
    runtime.as_user(f"git config --global --unset {name}")


def commit_of(runtime: RunningRuntime, origin: Path, ref: str) -> str:
    return runtime.as_user(f"git rev-parse '{ref}^{{commit}}'", cwd=origin).strip()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"git://127.0.0.1:{listener.getsockname()[1]}/repository"


@contextmanager
def http_server(status: int) -> Iterator[str]:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://ann:secret@127.0.0.1:{server.server_port}/repository.git"
        server.shutdown()


def test_without_a_ref_the_default_branch_is_checked_out_whatever_its_name(
    runtime: RunningRuntime, origin: Path, target: Path
) -> None:
    run = checkout(runtime, origin, target)

    assert run.complete.conclusion is Conclusion.SUCCESS
    assert run.complete.branch == "trunk"
    assert run.complete.commit == commit_of(runtime, origin, "trunk")
    assert runtime.as_user("cat file; git log --oneline | wc -l", cwd=target).split() == ["3", "3"]


def test_files_belong_to_the_user(runtime: RunningRuntime, origin: Path, target: Path) -> None:
    checkout(runtime, origin, target)

    owners = {path.stat().st_uid for path in target.rglob("*")}
    assert owners == {runtime.uid}
    assert target.stat().st_uid == runtime.uid


def test_a_branch_is_checked_out_by_name(
    runtime: RunningRuntime, origin: Path, target: Path
) -> None:
    run = checkout(runtime, origin, target, ref="feature")

    assert run.complete.branch == "feature"
    assert (target / "other").exists()


def test_a_tag_is_checked_out_on_no_branch(
    runtime: RunningRuntime, origin: Path, target: Path
) -> None:
    run = checkout(runtime, origin, target, ref="v1")

    assert run.complete.branch is None
    assert run.complete.commit == commit_of(runtime, origin, "v1")


@pytest.mark.parametrize("depth", [None, 1])
def test_a_commit_that_is_no_ref_is_checked_out(
    runtime: RunningRuntime, origin: Path, daemon: str, target: Path, depth: int | None
) -> None:
    commit = commit_of(runtime, origin, "trunk~2")

    run = checkout(runtime, f"{daemon}/full", target, ref=commit, depth=depth)

    assert (run.complete.commit, run.complete.branch) == (commit, None)
    assert runtime.as_user("cat file; git status --porcelain", cwd=target) == "1\n"


def test_a_depth_is_met(runtime: RunningRuntime, origin: Path, target: Path) -> None:
    checkout(runtime, origin, target, ref="feature", depth=1)

    assert runtime.as_user("git log --oneline | wc -l", cwd=target).strip() == "1"


def test_a_repository_is_cloned_from_a_server(
    runtime: RunningRuntime, daemon: str, target: Path
) -> None:
    run = checkout(runtime, f"{daemon}/full", target)

    assert run.start.command == f"git clone {daemon}/full"
    assert run.complete.branch == "trunk"
    assert run.progress
    assert all(0 <= (progress.percent or 0) <= 100 for progress in run.progress)


def test_an_empty_repository_has_a_branch_and_no_commit(
    runtime: RunningRuntime, daemon: str, target: Path
) -> None:
    run = checkout(runtime, f"{daemon}/empty", target)

    assert (run.complete.commit, run.complete.branch) == (None, "main")


def test_an_empty_target_is_filled_and_stays_when_the_checkout_fails(
    runtime: RunningRuntime, origin: Path, target: Path
) -> None:
    runtime.as_user(f"mkdir {target}")

    failed = checkout(runtime, origin, target, ref="nothing")
    assert list(target.iterdir()) == []
    filled = checkout(runtime, origin, target)

    assert failed.error.code == "ref_not_found"
    assert filled.complete.branch == "trunk"


def test_a_target_with_files_is_refused_and_left_alone(
    runtime: RunningRuntime, origin: Path, target: Path
) -> None:
    runtime.as_user(f"mkdir {target}; echo mine > {target}/file")

    run = checkout(runtime, origin, target)

    assert run.error.code == "target_not_empty"
    assert (target / "file").read_text() == "mine\n"


@pytest.mark.parametrize(
    "ref", ["nothing", "0" * 40, "refs/pull/1/head", "--upload-pack=id", "a b"]
)
def test_a_ref_that_is_not_there_is_told(
    runtime: RunningRuntime, daemon: str, target: Path, ref: str
) -> None:
    run = checkout(runtime, f"{daemon}/full", target, ref=ref)

    assert run.error.code == "ref_not_found"
    assert not target.exists()


def test_a_repository_that_is_not_there_is_told(
    runtime: RunningRuntime, daemon: str, target: Path
) -> None:
    for url in (f"{daemon}/missing", runtime.workspace / "missing"):
        run = checkout(runtime, url, target)

        assert run.error.code == "repository_not_found"
        assert "missing" in run.stderr
        assert not target.exists()


def test_a_server_that_is_not_there_is_told(runtime: RunningRuntime, target: Path) -> None:
    run = checkout(runtime, f"https://127.0.0.1:{free_port()}/repository", target)

    assert run.error.code == "network_error"
    assert run.error.hint


@pytest.mark.parametrize(
    ("status", "code"), [(401, "authentication_failed"), (404, "repository_not_found")]
)
def test_a_server_that_refuses_is_told_without_the_credentials(
    runtime: RunningRuntime, target: Path, status: int, code: str
) -> None:
    with http_server(status) as url:
        run = checkout(runtime, url, target)

    assert run.error.code == code
    assert run.start.command is not None
    assert "http://127.0.0.1" in run.start.command
    assert "secret" not in repr(run.events)


@pytest.mark.parametrize(
    "url",
    [
        *("ext::sh -c 'touch {workspace}/pwned'", "fd::17/foo", "--upload-pack=id", "-x"),
        *("file:///etc", "/etc", "../etc", "file://{workspace}/../../etc"),
        *("ftp://host/x", "EXT::sh", "ssh://-oProxyCommand=id/x", "git@-oProxyCommand=id:x"),
        *("http://host\n/x", "http:///x", "", "http://host name/x", "host::x", "git@host:-x"),
    ],
)
def test_a_url_that_could_do_something_else_is_refused(
    runtime: RunningRuntime, target: Path, url: str
) -> None:
    run = checkout(runtime, url.replace("{workspace}", str(runtime.workspace)), target)

    assert run.error.code == "invalid_repository_url"
    assert run.error.hint
    assert not (runtime.workspace / "pwned").exists()


def test_hooks_that_the_users_configuration_brings_do_not_run(
    runtime: RunningRuntime, origin: Path, target: Path
) -> None:
    ran = runtime.workspace / "hook-ran"
    template = new_script(runtime, "template/hooks/post-checkout", f"touch {ran}").parents[1]

    with git_configured(runtime, "init.templateDir", template):
        run = checkout(runtime, origin, target)

    assert run.complete.conclusion is Conclusion.SUCCESS
    assert (target / ".git/hooks/post-checkout").exists()
    assert not ran.exists()


@pytest.mark.parametrize("existed", [False, True])
def test_a_cancelled_checkout_ends_at_once_and_leaves_nothing(
    runtime: RunningRuntime, target: Path, existed: bool
) -> None:
    if existed:
        runtime.as_user(f"mkdir {target}")
    execution_id = runtime.new_id()
    with silent_server() as url:
        request = CheckoutRequest(repo_url=url, target_dir=str(target))
        cancel = (execution_id, CancelReason.CANCELLED)
        threading.Timer(1, runtime.client.cancel, cancel).start()

        run = runtime.run(request, execution_id=execution_id)

    assert run.error.code == "cancelled"
    assert target.exists() == existed
    assert not existed or list(target.iterdir()) == []
    assert "127.0.0.1" not in runtime.as_user("ps -eo args | grep '[g]it clone' || true")


def test_a_checkout_that_takes_too_long_is_ended(runtime: RunningRuntime, target: Path) -> None:
    with silent_server() as url:
        run = checkout(runtime, url, target, timeout_ms=700)

    assert run.error.code == "timed_out"
    assert not target.exists()


def test_a_target_where_the_user_may_not_write_is_told(
    runtime: RunningRuntime, origin: Path
) -> None:
    if not IS_ROOT:
        pytest.skip("NOT TESTED: without another user, the runtime's rights are the user's")

    run = checkout(runtime, origin, Path("/etc/coldframe-target"))

    assert run.error.code == "checkout_failed"
    assert "Permission denied" in run.stderr
    assert not Path("/etc/coldframe-target").exists()


@pytest.mark.skipif(not IS_ROOT, reason="NOT TESTED: nothing to give up without root")
def test_git_has_no_right_that_the_user_has_not(runtime: RunningRuntime, target: Path) -> None:
    record = runtime.workspace / "record"
    look = f"id > {record}; cat /proc/self/status /proc/$PPID/status >> {record}"
    helper = new_script(runtime, "credential-helper", look)

    with git_configured(runtime, "credential.helper", helper), http_server(401) as url:
        checkout(runtime, url.replace("ann:secret@", ""), target)

    status = record.read_text()
    assert status.startswith(f"uid={runtime.uid}")
    assert "uid=0" not in status
    assert set(values_of(status, "CapEff")) == {"0" * 16}
    assert set(values_of(status, "Uid")) == {str(runtime.uid)}
    assert set(values_of(status, "NoNewPrivs")) == {"1"}


def values_of(status: str, name: str) -> Iterable[str]:
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            yield from line.split()[1:]


def test_in_a_container_the_runtime_has_four_capabilities_and_checks_out() -> None:
    with running_runtime(confined=True) as runtime:
        origin = new_repository(runtime, "origin")
        target = runtime.workspace / "target"
        run = checkout(runtime, origin, target)
        failed = checkout(runtime, origin, runtime.workspace / "other", ref="nothing")
        runtime.client.unpack_archive([tar_of({"a": b"1"})], f"{runtime.workspace}/unpacked", 30)

        assert run.complete.branch == "trunk"
        assert failed.error.code == "ref_not_found"
        assert not (runtime.workspace / "other").exists()
        assert (runtime.workspace / "unpacked" / "a").stat().st_uid == runtime.uid


def tar_of(
    files: dict[str, bytes],
    mode: str = "w",
    change: Callable[[tarfile.TarInfo], None] | None = None,
) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change is not None:
                change(member)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def in_pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_unpacked_whatever_its_compression(
    runtime: RunningRuntime, target: Path, mode: str
) -> None:
    archive = tar_of({"a": b"1", "b/c": b"2" * 100_000}, mode)

    runtime.client.unpack_archive(in_pieces(archive), f"{target}/deep/er", 30)

    assert (target / "deep/er/a").read_bytes() == b"1"
    assert (target / "deep/er/b/c").read_bytes() == b"2" * 100_000
    assert (target / "deep/er/a").stat().st_uid == runtime.uid


def test_an_archive_without_members_makes_the_directory(
    runtime: RunningRuntime, target: Path
) -> None:
    runtime.client.unpack_archive([tar_of({})], str(target), 30)

    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04" + bytes(600), bytes(100)],
    ids=["nothing", "text", "zip", "short"],
)
def test_what_is_no_archive_is_refused(
    runtime: RunningRuntime, target: Path, content: bytes
) -> None:
    with pytest.raises(ArchiveRefused):
        runtime.client.unpack_archive([content], str(target), 30)

    assert not target.exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_that_is_cut_short_is_refused(
    runtime: RunningRuntime, target: Path, mode: str
) -> None:
    archive = tar_of({"a": os.urandom(200_000)}, mode)

    with pytest.raises(ArchiveRefused, match=r"[Uu]nexpected (end|EOF)|truncated"):
        runtime.client.unpack_archive(in_pieces(archive[:100_000]), str(target), 30)


@pytest.mark.parametrize("path", ["relative", "/etc/x", "{workspace}/../x", ""])
def test_an_archive_goes_into_the_workspace_alone(runtime: RunningRuntime, path: str) -> None:
    path = path.replace("{workspace}", str(runtime.workspace))

    with pytest.raises(InvalidRequest):
        runtime.client.unpack_archive([tar_of({"a": b"1"})], path, 30)


def test_members_that_point_outside_do_not_get_there(
    runtime: RunningRuntime, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    archive = tar_of({"../../escaped": b"1", str(outside): b"2", "inside": b"3"})

    with pytest.raises(ArchiveRefused):
        runtime.client.unpack_archive([archive], str(target), 30)

    assert not outside.exists()
    assert not list(runtime.workspace.rglob("escaped"))
    assert not (runtime.workspace.parent / "escaped").exists()


def test_a_set_user_id_bit_is_not_unpacked(runtime: RunningRuntime, target: Path) -> None:
    def set_bits(member: tarfile.TarInfo) -> None:
        member.mode = 0o6777
        member.uid = member.gid = 0

    runtime.client.unpack_archive([tar_of({"program": b"x"}, change=set_bits)], str(target), 30)

    assert (target / "program").stat().st_mode & 0o7777 == 0o755
    assert (target / "program").stat().st_uid == runtime.uid


def test_a_large_archive_passes_in_constant_memory(runtime: RunningRuntime, target: Path) -> None:
    archive = tar_of({f"file{number}": os.urandom(1 << 20) for number in range(60)})
    before_mb = runtime.rss_mb()

    runtime.client.unpack_archive(in_pieces(archive, 256 * 1024), str(target), 60)

    assert sum(1 for _ in target.iterdir()) == 60
    assert runtime.rss_mb() - before_mb < 12
