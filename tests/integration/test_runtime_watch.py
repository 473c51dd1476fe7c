"""Watches on the runtime's socket: real files, which programs change as programs do."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client import wait_for
from tests.running_runtime import IS_ROOT, SANDBOX_UID, RunningRuntime, running_runtime, wait_until

Json = dict[str, Any]


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime() as runtime:
        yield runtime


@pytest.fixture
def top(runtime: RunningRuntime, request: pytest.FixtureRequest) -> Path:
    top = runtime.own_directory(request)
    top.mkdir()
    owned(top)
    return top


def owned(path: Path) -> None:
    if IS_ROOT:
        os.chown(path, SANDBOX_UID, SANDBOX_UID)


class Watched:
    """What one watch tells."""

    def __init__(self, top: Path, lines: Iterator[str]) -> None:
        self._top = top
        self._lines = lines
        self.events: list[Json] = []

    def next(self) -> Json:
        line = next(line for line in self._lines if line)
        self.events.append(json.loads(line))
        return self.events[-1]

    def changes(self, last: str) -> list[tuple[str, ...]]:
        """Kind and path, and where a file was before, up to what is told of `last`."""
        found: list[tuple[str, ...]] = []
        while not found or found[-1][1] != last:
            event = self.next()
            assert event["type"] == "change", event
            paths = [event["path"], *([event["fromPath"]] if "fromPath" in event else [])]
            found.append((event["change"], *(str(Path(p).relative_to(self._top)) for p in paths)))
        return found


@contextmanager
def watching(runtime: RunningRuntime, top: Path, **query: Any) -> Iterator[Watched]:
    with (
        runtime.http() as http,
        http.stream("GET", "/files/watch", params={"path": str(top), **query}) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        watched = Watched(top, answer.iter_lines())
        assert watched.next() | {"timestamp": ""} == {
            "type": "watching",
            "timestamp": "",
            "path": str(top),
        }
        yield watched


def test_each_kind_of_change_is_told_once(runtime: RunningRuntime, top: Path) -> None:
    (top / "there").write_text("1")
    (top / "gone").write_text("1")
    with watching(runtime, top) as watched:
        (top / "made").write_text("1")
        (top / "made").write_text("22")
        (top / "there").write_text("2")
        (top / "gone").unlink()
        (top / "there").rename(top / "moved")
        (top / "brief").write_text("1")
        (top / "brief").unlink()
        (top / "last").mkdir()

        changes = watched.changes("last")

    assert changes == [
        ("create", "made"),
        ("modify", "there"),
        ("delete", "gone"),
        ("move", "moved", "there"),
        ("create", "last"),
    ]
    assert [event["isDirectory"] for event in watched.events[1:]] == [False] * 4 + [True]


def test_what_comes_with_a_directory_is_told_and_what_goes_with_it(
    runtime: RunningRuntime, top: Path
) -> None:
    with watching(runtime, top) as watched:
        subprocess.run(
            ["sh", "-c", "mkdir -p a/b/c && echo 1 > a/b/c/deep && echo 2 > a/b/near"],
            cwd=top,
            check=True,
        )
        made = seen_until(watched, {"a", "a/b", "a/b/c", "a/b/c/deep", "a/b/near"})
        (top / "a").rename(top / "z")
        assert watched.changes("z") == [("move", "z", "a")]
        (top / "z/b/c/deep").write_text("more")
        assert watched.changes("z/b/c/deep") == [("modify", "z/b/c/deep")]
        outside = runtime.workspace / "outside"
        (top / "z").rename(outside)
        assert watched.changes("z") == [("delete", "z")]
        (outside / "b/near").write_text("nobody looks")
        (outside / "b").rename(top / "back")
        back = seen_until(watched, {"back", "back/c", "back/c/deep", "back/near"})

    assert {kind for kind, _ in made} == {"create"}
    assert {kind for kind, _ in back} == {"create"}


def seen_until(watched: Watched, paths: set[str]) -> list[tuple[str, ...]]:
    """Each of these paths is told of, once."""
    seen: list[tuple[str, ...]] = []
    while len(seen) < len(paths):
        event = watched.next()
        seen.append((event["change"], str(Path(event["path"]).relative_to(watched._top))))
    assert {path for _, path in seen} == paths
    return seen


def test_a_file_that_is_written_through_the_api_is_created_or_modified(
    runtime: RunningRuntime, http: httpx.Client, top: Path
) -> None:
    """Not moved from a name of ours."""
    with watching(runtime, top) as watched:
        for content in (b"1", b"2"):
            http.put("/files", params={"path": str(top / "file")}, content=content)
            kinds = watched.changes("file")
        http.put("/files", params={"path": str(top / "file"), "append": True}, content=b"3")
        kinds += watched.changes("file")

    assert kinds == [("modify", "file"), ("modify", "file")]
    assert watched.events[1]["change"] == "create"


def test_an_editor_that_writes_beside_and_renames_is_seen_to_modify(
    runtime: RunningRuntime, top: Path
) -> None:
    (top / "note").write_text("1")
    with watching(runtime, top) as watched:
        (top / "note.swp").write_text("2")
        (top / "note.swp").rename(top / "note")
        (top / "last").touch()

        kinds = [kind for kind, path in watched.changes("last") if path == "note"]

    assert kinds in (["modify"], ["create"])


def test_patterns_say_what_is_told_and_what_is_not_looked_at(
    runtime: RunningRuntime, top: Path
) -> None:
    (top / "node_modules").mkdir()
    (top / "src").mkdir()
    with (
        watching(runtime, top, include="*.py,src/*.txt") as included,
        watching(runtime, top, exclude="node_modules,*.log") as others,
    ):
        for name in ("node_modules/x.js", "a.log", "src/a.txt", "a.txt", "last.py"):
            (top / name).touch()
        told = included.changes("last.py")
        told_others = others.changes("last.py")

    assert told == [("create", "src/a.txt"), ("create", "last.py")]
    assert {path for _, path in told_others} == {"src/a.txt", "a.txt", "last.py"}


def test_only_the_directory_itself_where_that_is_asked_for(
    runtime: RunningRuntime, top: Path
) -> None:
    (top / "below").mkdir()
    with watching(runtime, top, recursive="false") as watched:
        (top / "below/unseen").touch()
        (top / "new").mkdir()
        (top / "new/unseen").touch()
        (top / "last").touch()

        seen = {path for _, path in watched.changes("last")}

    assert seen <= {"new", "last", "below"}


def test_links_are_told_of_and_not_followed(runtime: RunningRuntime, top: Path) -> None:
    elsewhere = runtime.workspace / "elsewhere"
    elsewhere.mkdir()
    with watching(runtime, top) as watched:
        (top / "link").symlink_to(elsewhere)
        assert watched.changes("link") == [("create", "link")]
        (elsewhere / "unseen").touch()
        (top / "last").touch()
        assert watched.changes("last") == [("create", "last")]


def test_names_that_are_no_text_are_told_exactly(runtime: RunningRuntime, top: Path) -> None:
    with watching(runtime, top) as watched:
        (top / os.fsdecode(b"caf\xe9")).touch()
        event = watched.next()

    assert event["path"].endswith("caf\ufffd")
    assert base64.b64decode(event["pathBase64"]) == os.fsencode(top) + b"/caf\xe9"


def test_the_end_of_the_directory_ends_it(runtime: RunningRuntime, top: Path) -> None:
    with watching(runtime, top) as watched:
        top.rmdir()
        event = watched.next()
        with pytest.raises(StopIteration):
            watched.next()

    assert (event["type"], event["code"]) == ("error", "file_not_found")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("nothing", "file_not_found"),
        ("file", "not_a_directory"),
        ("closed", "permission_denied"),
        ("", "name_invalid"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    runtime: RunningRuntime, http: httpx.Client, top: Path, path: str, code: str
) -> None:
    if code == "permission_denied" and not IS_ROOT:
        pytest.skip("there is nobody else here")
    (top / "file").touch()
    (top / "closed").mkdir(mode=0o700)

    answer = http.get("/files/watch", params={"path": path and str(top / path)})

    assert answer.json()["code"] == code


def test_a_watch_ends_when_its_reader_leaves_and_there_are_only_so_many(
    runtime: RunningRuntime, top: Path
) -> None:
    with running_runtime() as crowded:
        place = crowded.workspace / "many"
        place.mkdir()
        owned(place)
        opened = [watching(crowded, place) for _ in range(16)]
        for one in opened:
            one.__enter__()
        with crowded.http() as http:
            answer = http.get("/files/watch", params={"path": str(place)})
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_watches")
            for one in opened:
                one.__exit__(None, None, None)

            def is_free() -> bool:
                with http.stream("GET", "/files/watch", params={"path": str(place)}) as again:
                    return again.status_code == 200

            wait_for(is_free, "the watches have ended")


def test_a_flood_is_told_or_said_to_be_lost(runtime: RunningRuntime, top: Path) -> None:
    """Nothing is lost in silence: what is not told by name is in the directory when it is said."""
    with watching(runtime, top) as watched:
        flood = threading.Thread(
            target=subprocess.run,
            args=(
                ["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); : > $i; done; : > last"],
            ),
            kwargs={"cwd": top, "check": True},
        )
        flood.start()
        told: set[str] = set()
        lost = False
        while "last" not in told:
            event = watched.next()
            if event["type"] == "overflow":
                lost = True
                told |= {path.name for path in top.iterdir()}
            else:
                told.add(Path(event["path"]).name)
        flood.join()

    assert lost or len(told) == 20_001


def test_what_changes_without_a_pause_is_told_meanwhile(runtime: RunningRuntime, top: Path) -> None:
    (top / "busy").touch()
    with watching(runtime, top) as watched:
        writing = subprocess.Popen(["sh", "-c", "while :; do echo >> busy; done"], cwd=top)
        try:
            told = [watched.next()["type"] for _ in range(5)]
            assert writing.poll() is None
        finally:
            writing.kill()
            writing.wait()

    assert set(told) <= {"change", "overflow"}


def test_a_version_is_the_same_until_something_changes(
    http: httpx.Client, runtime: RunningRuntime, top: Path
) -> None:
    (top / "sub").mkdir()
    (top / "sub/file").write_text("1")

    def version(**query: str) -> str:
        answer = http.get("/files/version", params={"path": str(top), **query})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["version"])

    first = version()
    without = version(exclude="sub")
    assert version() == first
    (top / "sub/file").write_text("2")
    second = version()
    assert second != first
    assert version(exclude="sub") == without
    (top / "sub/file").rename(top / "sub/other")
    assert version() not in (first, second)


def test_who_watches_is_the_user_and_goes_with_the_reader(
    runtime: RunningRuntime, top: Path
) -> None:
    with watching(runtime, top):
        owners = {process.stat().st_uid for process in delegates_of(runtime)}
        assert owners == {SANDBOX_UID if IS_ROOT else os.getuid()}

    wait_until(lambda: not delegates_of(runtime))


def delegates_of(runtime: RunningRuntime) -> list[Path]:
    children = Path(f"/proc/{runtime.pid}/task/{runtime.pid}/children").read_text().split()
    processes = [Path("/proc", child) for child in children]
    return [one for one in processes if b"file_delegate" in (one / "cmdline").read_bytes()]
