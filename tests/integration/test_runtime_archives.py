"""Archives that would do harm where they are unpacked: over the runtime's socket, by real tar."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
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
    assert list(target.iterdir()) == []


def test_an_absolute_name_is_taken_as_one_below_the_directory(
    runtime: RunningRuntime, target: Path
) -> None:
    unpack(runtime, target, member(f"{target.parent}/escaped") + bytes(1024))

    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(not IS_ROOT, reason="the user is who the runtime is")
def test_an_archive_makes_no_device_and_nothing_that_gains_rights(
    runtime: RunningRuntime, target: Path
) -> None:
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        assert unpack(runtime, target, member("odd", kind) + bytes(1024))[0] == 422
    unpack(runtime, target, member("suid", mode=0o6755) + bytes(1024))
    unpack(runtime, target, member("hosts", tarfile.LNKTYPE, "/etc/shadow") + bytes(1024))

    modes = {one.name: one.lstat().st_mode for one in target.iterdir()}
    assert set(modes) == {"suid"}
    assert stat.S_IMODE(modes["suid"]) == 0o755


REFUSED = [
    member("../escaped"),
    member("link", tarfile.LNKTYPE, "nothing/there"),
    member("fifo", tarfile.FIFOTYPE),
    member("kept"),
    b"\1" * 512,
]


@pytest.mark.parametrize("refused", REFUSED, ids=["up", "link", "fifo", "directory", "garbage"])
def test_of_an_archive_that_is_refused_nothing_stays(
    runtime: RunningRuntime, target: Path, refused: bytes
) -> None:
    runtime.as_user(
        f"mkdir {target}/kept {target}/sub; echo old | tee {target}/file > {target}/sub/a"
    )
    before = sorted(target.rglob("*"))
    closed = member("closed", tarfile.DIRTYPE, mode=0o500) + member("closed/inner")
    members = [member("file"), member("sub/a"), member("new/b"), closed, refused, member("last")]

    status, text = unpack(runtime, target, b"".join(members) + bytes(1024))

    assert (status, json.loads(text)["code"]) == (422, "archive_refused")
    assert sorted(target.rglob("*")) == before
    assert {(target / name).read_text() for name in ("file", "sub/a")} == {"old\n"}


def test_an_archive_adds_to_directories_and_replaces_files_and_links(
    runtime: RunningRuntime, target: Path
) -> None:
    runtime.as_user(f"cd {target}; mkdir -p sub/deep other; echo old > sub/a; echo old > sub/keep")
    runtime.as_user(f"cd {target}; ln -s other link; echo old > was-file; ln -s /etc/passwd points")
    members = [
        member("./", tarfile.DIRTYPE, mode=0o500),
        member("sub", tarfile.DIRTYPE, mode=0o750),
        member("sub/a"),
        member("sub/deep/b", mode=0o600),
        member("closed", tarfile.DIRTYPE, mode=0o500),
        member("closed/inner"),
        member("link", tarfile.DIRTYPE, mode=0o755),
        member("link/in-it"),
        member("was-file", tarfile.DIRTYPE, mode=0o755),
        member("points"),
        member("new-link", tarfile.SYMTYPE, "../elsewhere"),
    ]

    status, text = unpack(runtime, target, b"".join(members) + bytes(1024))

    assert (status, text) == (204, "")
    there = {str(path.relative_to(target)): path for path in target.rglob("*")}
    assert set(there) == {
        *("sub", "sub/a", "sub/keep", "sub/deep", "sub/deep/b", "other", "closed", "closed/inner"),
        *("link", "link/in-it", "was-file", "points", "new-link"),
    }
    assert there["sub/a"].read_text() == there["points"].read_text() == "x"
    assert there["sub/keep"].read_text() == "old\n"
    assert there["link"].is_dir()
    assert not there["link"].is_symlink()
    assert not there["points"].is_symlink()
    assert there["new-link"].readlink() == Path("../elsewhere")
    modes = {name: stat.S_IMODE(there[name].stat().st_mode) for name in ("sub", "closed")}
    assert modes == {"sub": 0o750, "closed": 0o500}


def test_a_name_that_is_longer_than_linux_takes_has_its_archive_refused(
    runtime: RunningRuntime, target: Path
) -> None:
    for name in ("n" * 1_000_000, "d/" * 100_000 + "n"):
        assert unpack(runtime, target, member("a") + member(name) + bytes(1024))[0] == 422
        assert list(target.iterdir()) == []


def test_a_sparse_member_takes_no_more_than_it_has(
    runtime: RunningRuntime, target: Path, tmp_path: Path
) -> None:
    sparse = subprocess.run(
        "truncate -s 1T big; echo x >> big; tar --create --sparse big",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout

    status, text = unpack(runtime, target, sparse)

    assert status == 204, text
    made = (target / "big").stat()
    assert (made.st_size, made.st_blocks * 512 < 1 << 20) == ((1 << 40) + 2, True)


def test_links_that_lead_through_one_another_lead_nowhere(
    runtime: RunningRuntime, target: Path
) -> None:
    """As the archives do that got past Python's own filters."""
    deep = "d" * 200
    members = [member("/".join([deep] * n), tarfile.DIRTYPE, mode=0o755) for n in range(1, 16)]
    members += [
        member("up", tarfile.SYMTYPE, "/".join([deep] * 15 + [".."] * 16)),
        member("escape", tarfile.SYMTYPE, "up/../../.."),
        member("hard", tarfile.LNKTYPE, "escape/etc/passwd"),
        member("escape/escaped"),
        member("up/escaped"),
    ]

    unpack(runtime, target, b"".join(members) + bytes(1024))

    assert not [path for path in target.parent.rglob("escaped") if path.parent != target]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("cut", [100, 700, 1500])
def test_an_archive_that_is_cut_is_refused(runtime: RunningRuntime, target: Path, cut: int) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = 4096
        archive.addfile(entry, io.BytesIO(os.urandom(4096)))

    assert unpack(runtime, target, whole.getvalue()[:cut])[0] == 422
    assert list(target.iterdir()) == []


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
