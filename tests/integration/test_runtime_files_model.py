"""The file API beside Python's own calls on a real file system: same outcome, same tree."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.running_runtime import IS_ROOT, RunningRuntime, running_runtime

UMASK = 0o022

OUTCOMES = {
    errno.ENOENT: "file_not_found",
    errno.EEXIST: "file_exists",
    errno.EISDIR: "is_directory",
    errno.ENOTDIR: "not_a_directory",
    errno.ENOTEMPTY: "directory_not_empty",
    errno.EINVAL: "name_invalid",
    errno.ELOOP: "permission_denied",
    errno.EBUSY: "permission_denied",
}

names = st.sampled_from(["a", "b", "é ü"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
contents = st.binary(max_size=40)
modes = st.sampled_from([0o600, 0o644, 0o755, 0o700])

Tree = dict[str, tuple[str, int, bytes]]


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime(confined=IS_ROOT) as runtime:
        yield runtime


def test_the_file_api_does_what_the_file_system_does(
    runtime: RunningRuntime, http: httpx.Client, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    top = runtime.own_directory(request)
    runtime.as_user(f"mkdir {top}")
    made = iter(range(10**6))
    before = os.umask(UMASK)

    class Both(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            name = str(next(made))
            self.model, self.real = tmp_path / name, top / name
            self.model.mkdir()
            self._ask("POST", "/files/mkdir", json={"path": str(self.real)})

        @rule(path=paths, content=contents)
        def write(self, path: str, content: bytes) -> None:
            def expected() -> None:
                _make_parents(self.model / path)
                (self.model / path).write_bytes(content)

            self._compare(expected, "PUT", "/files", path, content=content)

        @rule(path=paths, content=contents)
        def append(self, path: str, content: bytes) -> None:
            def expected() -> None:
                _make_parents(self.model / path)
                with (self.model / path).open("ab") as file:
                    file.write(content)

            self._compare(expected, "PUT", "/files", path, content=content, append=True)

        @rule(path=paths)
        def read(self, path: str) -> None:
            self._compare((self.model / path).read_bytes, "GET", "/files", path)

        @rule(path=paths, recursive=st.booleans())
        def delete(self, path: str, recursive: bool) -> None:
            def expected() -> None:
                wanted = self.model / path
                if wanted.is_dir() and not wanted.is_symlink():
                    if not recursive:
                        raise IsADirectoryError(errno.EISDIR, path)
                    shutil.rmtree(wanted)
                else:
                    wanted.unlink()

            self._compare(expected, "DELETE", "/files", path, recursive=recursive)

        @rule(path=paths, recursive=st.booleans())
        def create_directory(self, path: str, recursive: bool) -> None:
            def expected() -> None:
                if recursive:
                    _make_parents(self.model / path / "x")
                else:
                    (self.model / path).mkdir()

            self._post(expected, "mkdir", path, recursive=recursive)

        @rule(path=paths, to=paths)
        def rename(self, path: str, to: str) -> None:
            self._post(
                lambda: (self.model / path).rename(self.model / to),
                "rename",
                path,
                to=str(self.real / to),
            )

        @rule(path=paths, to=paths)
        def move(self, path: str, to: str) -> None:
            def expected() -> None:
                place = self.model / to
                (self.model / path).rename(place / Path(path).name if place.is_dir() else place)

            self._post(expected, "move", path, to=str(self.real / to))

        @rule(path=paths, mode=modes)
        def change_mode(self, path: str, mode: int) -> None:
            wanted = self.model / path
            if wanted.is_dir():
                mode |= 0o700  # What is below stays in reach.
            self._post(lambda: wanted.chmod(mode), "chmod", path, mode=f"{mode:04o}")

        @rule(path=paths, to=names)
        def link(self, path: str, to: str) -> None:
            """By others than the API, in both."""
            for top in (self.model, self.real):
                if (top / path).parent.is_dir() and not os.path.lexists(top / path):
                    (top / path).symlink_to(to)

        @rule(path=paths)
        def list_all(self, path: str) -> None:
            def expected() -> list[str]:
                return sorted(os.listdir(self.model / path))  # noqa: PTH208

            def answered(answer: httpx.Response) -> list[str]:
                return [one["name"] for one in answer.json()["files"]]

            self._compare(expected, "GET", "/files/list", path, told=answered)

        @rule(path=paths, follow=st.booleans())
        def look(self, path: str, follow: bool) -> None:
            def expected() -> tuple[str, str | None]:
                status = (self.model / path).stat(follow_symlinks=follow)
                is_link = stat.S_ISLNK(status.st_mode)
                target = os.readlink(self.model / path) if is_link else None  # noqa: PTH115
                return f"{stat.S_IMODE(status.st_mode):04o}", target

            def answered(answer: httpx.Response) -> tuple[str, str | None]:
                entry = answer.json()
                return entry["mode"], entry.get("target")

            self._compare(expected, "GET", "/files/stat", path, follow=follow, told=answered)

        @rule(path=paths)
        def exists(self, path: str) -> None:
            self._compare(
                (self.model / path).exists,
                "GET",
                "/files/exists",
                path,
                told=lambda answer: answer.json()["exists"],
            )

        @invariant()
        def trees_are_the_same(self) -> None:
            assert _tree(self.real) == _tree(self.model)

        def _post(
            self, expected: Callable[[], object], verb: str, path: str, **body: object
        ) -> None:
            outcome = _outcome(expected)
            order = {"path": str(self.real / path), **body}
            answer = self._ask("POST", f"/files/{verb}", json=order)
            assert _code(answer) == (outcome if isinstance(outcome, str) else "")

        def _compare(
            self,
            expected: Callable[[], object],
            method: str,
            verb: str,
            path: str,
            *,
            content: bytes | None = None,
            told: Callable[[httpx.Response], object] = lambda answer: answer.content,
            **query: bool,
        ) -> None:
            outcome = _outcome(expected)
            params = {"path": str(self.real / path), **query}
            answer = self._ask(method, verb, params=params, content=content)
            assert _code(answer) == (outcome if isinstance(outcome, str) else "")
            if method == "GET" and not isinstance(outcome, str):
                assert told(answer) == outcome[0]

        def _ask(self, method: str, path: str, **how: object) -> httpx.Response:
            return http.request(method, path, timeout=5.0, **how)  # type: ignore[arg-type]

    try:
        run_state_machine_as_test(
            Both,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                phases=(Phase.generate,),  # To make a failure smaller takes minutes.
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        os.umask(before)


def _make_parents(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        with suppress(FileNotFoundError):  # Of a link that leads nowhere.
            Path(error.filename).stat()  # Raises where links lead round and round.
        raise NotADirectoryError(errno.ENOTDIR, str(path)) from error


def _outcome(work: Callable[[], object]) -> tuple[object] | str:
    """What came of it, or the code of the error that it is to be."""
    try:
        return (work(),)
    except OSError as error:
        return OUTCOMES[error.errno or 0]


def _code(answer: httpx.Response) -> str:
    return "" if answer.is_success else str(answer.json()["code"])


def _tree(top: Path) -> Tree:
    tree: Tree = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(directory, name)
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFLNK:
                content = os.readlink(os.fsencode(path))  # noqa: PTH115
            else:
                content = path.read_bytes() if kind == stat.S_IFREG else b""
            tree[str(path.relative_to(top))] = (f"{kind:o}", stat.S_IMODE(status.st_mode), content)
    return tree
