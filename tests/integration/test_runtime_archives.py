"""Archives that would do harm where they are unpacked: over the runtime's socket, by real tar."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_runtime import IS_ROOT, RunningRuntime, running_runtime


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime(confined=IS_ROOT) as runtime:
        yield runtime


@pytest.fixture
def target(runtime: RunningRuntime, request: pytest.FixtureRequest) -> Path:
    path = runtime.own_directory(request)
    runtime.as_user(f"mkdir -p {path}/inner")
    return path / "inner"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, mode
    entry.devmajor, entry.devminor = 1, 3
    content = b"x" if kind == tarfile.REGTYPE else b""
    entry.size = len(content)
    return entry.tobuf(tarfile.PAX_FORMAT) + content.ljust(512 if content else 0, b"\0")


def unpack(runtime: RunningRuntime, target: Path, archive: bytes) -> tuple[int, str]:
    with runtime.http() as http:
        answer = http.put("/files/archive", params={"path": str(target)}, content=archive)
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    "members",
    [
        [member("../escaped")],
        [member("a/../../escaped")],
        [member("up", tarfile.SYMTYPE, ".."), member("up/escaped")],
        [member("up", tarfile.SYMTYPE, "."), member("up/../escaped")],
    ],
)
def test_nothing_is_written_beside_the_directory(
    runtime: RunningRuntime, target: Path, members: list[bytes]
) -> None:
    status, _ = unpack(runtime, target, b"".join(members) + bytes(1024))

    assert status == 422
    assert list(target.parent.iterdir()) == [target]


def test_an_absolute_name_is_taken_as_one_below_the_directory(
    runtime: RunningRuntime, target: Path
) -> None:
    unpack(runtime, target, member(f"{target.parent}/escaped") + bytes(1024))

    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(not IS_ROOT, reason="the user is who the runtime is")
def test_an_archive_makes_no_device_and_nothing_that_gains_rights(
    runtime: RunningRuntime, target: Path
) -> None:
    unpack(runtime, target, member("null", tarfile.CHRTYPE) + bytes(1024))
    unpack(runtime, target, member("suid", mode=0o6755) + bytes(1024))
    unpack(runtime, target, member("hosts", tarfile.LNKTYPE, "/etc/shadow") + bytes(1024))

    modes = {one.name: one.lstat().st_mode for one in target.iterdir()}
    assert set(modes) == {"suid"}
    assert stat.S_IMODE(modes["suid"]) == 0o755


@pytest.mark.parametrize("cut", [100, 700, 1500])
def test_an_archive_that_is_cut_is_refused(runtime: RunningRuntime, target: Path, cut: int) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = 4096
        archive.addfile(entry, io.BytesIO(os.urandom(4096)))

    assert unpack(runtime, target, whole.getvalue()[:cut])[0] == 422


@pytest.mark.skipif(not IS_ROOT, reason="takes a volume of its own")
def test_an_archive_that_grows_without_end_is_stopped_by_the_volume(
    runtime: RunningRuntime, target: Path
) -> None:
    entry = tarfile.TarInfo("zeros")
    entry.size = 64 << 20
    bomb = gzip.compress(entry.tobuf() + bytes(64 << 20))
    os.system(f"mount -t tmpfs -o size=2m,uid={runtime.uid} none {target}")

    try:
        before = runtime.rss_mb()
        status, text = unpack(runtime, target, bomb)

        assert status == 507, text
        assert runtime.peak_rss_mb() - before < 32
    finally:
        os.system(f"umount {target}")
