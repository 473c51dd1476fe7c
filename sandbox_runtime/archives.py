"""Unpacks and makes tar archives, as the sandbox's user."""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import re
import subprocess
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.protocol.errors import ArchiveRefused, DiskFull, InvalidRequest

UNPACK_TIMEOUT_S = 600.0

PIECE_BYTES = 256 * 1024

FILE_CHANGED = 1
"""Tar's exit code where a file changed while it was read."""

MAX_COMPLAINT_BYTES = 64 * 1024
"""Of tar's, which names each member that it has trouble with; the last of it is kept."""

COMPRESSIONS = {b"\x1f\x8b": "--gzip", b"BZh": "--bzip2", b"\xfd7zXZ\x00": "--xz"}
"""Each by the bytes that it begins with."""

_NO_SPACE = re.compile(f"{os.strerror(errno.ENOSPC)}|Wrote only")
"""Tar's words where a write of it was cut short, or failed."""

# The directory is made and entered by the user, too.
_SCRIPT = (
    'mkdir -p -- "$1" && cd -- "$1" && mkdir -- "$2" && cd -- "$2" && shift 2 && exec tar "$@"'
)


_FAREWELL = re.compile(r"exiting now|Exiting with failure|Child returned status")
"""What tar says last, and what tells nobody why."""


async def unpack(
    stream: AsyncIterator[bytes], path: str, staging: str, programs: UserPrograms, *, user: int = 0
) -> None:
    """Unpacks a tar archive, plain or compressed, into `staging`, a directory made in `path`.

    What it leads to, and what the archive's members lead to, is for the user's own rights to
    decide. Members that were unpacked before the archive proved broken stay there. Raises
    `ArchiveRefused`, `DiskFull`.
    """
    head, rest = await _head(stream)
    tar = ["--extract", "--file=-", *_options(head)]
    argv = ["/bin/sh", "-c", _SCRIPT, "sh", path, staging, *tar]
    group = programs.new_group("unpack")
    try:
        async with asyncio.timeout(UNPACK_TIMEOUT_S):
            exit_code, complaint = await _run(argv, head, rest, programs, group, user)
    except TimeoutError:
        raise ArchiveRefused(f"not unpacked within {UNPACK_TIMEOUT_S:.0f} s") from None
    except FileNotFoundError:
        raise ArchiveRefused("this sandbox's image has no /bin/sh to unpack it with") from None
    finally:
        await group.close()
    if exit_code != 0 and _NO_SPACE.search(complaint):
        raise DiskFull("the archive does not fit on the sandbox's disk")
    if exit_code != 0:
        raise ArchiveRefused(complaint or f"tar ended with exit code {exit_code}")


async def pack(
    path: str, programs: UserPrograms, *, compressed: bool, user: int
) -> AsyncGenerator[bytes, None]:
    """A tar archive of what is in a directory, as it is made; what may not be read is left out.

    Raises `ArchiveRefused` where it cannot be brought to its end.
    """
    argv = ["tar", "--create", "--file=-", "--ignore-failed-read", f"--directory={path}", "."]
    if compressed:
        argv.insert(1, "--gzip")
    group = programs.new_group("pack")
    packed, stdout = os.pipe2(os.O_CLOEXEC)
    try:
        process = programs.spawn(
            argv,
            cwd="/",
            env=programs.environment({"LC_ALL": "C"}, user=user),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            group=group,
            user=user,
        )
    except BaseException:
        os.close(packed)
        await group.close()
        raise
    finally:
        os.close(stdout)
    ended = asyncio.ensure_future(programs.wait(process))
    reader = asyncio.StreamReader(PIECE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(packed, "rb", buffering=0)
    )
    try:
        while piece := await reader.read(PIECE_BYTES):
            yield piece
        exit_code = await ended
        if exit_code not in (0, FILE_CHANGED):
            raise ArchiveRefused(f"tar ended with exit code {exit_code}")
    finally:
        transport.close()
        group.kill_all()
        await ended
        await group.close()


def check_in(path: str, workspace: Path) -> None:
    """Raises `InvalidRequest` for a path that does not lie in the workspace, by its name."""
    inside = posixpath.isabs(path) and Path(posixpath.normpath(path)).is_relative_to(workspace)
    if not inside or "\x00" in path:
        raise InvalidRequest(f"the path of an archive has to lie in {workspace}")


async def _head(stream: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The stream's first block, or all that it has, and what comes after it."""
    head = b""
    async for piece in stream:
        head += piece
        if len(head) >= tarfile.BLOCKSIZE:
            break
    return head, stream


def _options(head: bytes) -> list[str]:
    """Tar's options for the archive that begins with `head`. Raises `ArchiveRefused`."""
    options = ["--no-same-owner", "--no-same-permissions"]
    for magic, option in COMPRESSIONS.items():
        if head.startswith(magic):
            return [*options, option]
    block = head[: tarfile.BLOCKSIZE]
    if block == bytes(tarfile.BLOCKSIZE):
        return options  # An archive without members.
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise ArchiveRefused("this is no tar archive, or of a compression not known") from None
    return options


async def _run(
    argv: list[str],
    head: bytes,
    rest: AsyncIterator[bytes],
    programs: UserPrograms,
    group: JobGroup,
    user: int,
) -> tuple[int, str]:
    """The program's exit code, and its last complaint."""
    stdin, feeding = os.pipe2(os.O_CLOEXEC)
    complaints, stderr = os.pipe2(os.O_CLOEXEC)
    try:
        process = programs.spawn(
            argv,
            cwd="/",
            env=programs.environment({"LC_ALL": "C"}, user=user),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            group=group,
            user=user,
        )
    except BaseException:
        os.close(feeding)
        os.close(complaints)
        raise
    finally:
        os.close(stdin)
        os.close(stderr)
    ended = asyncio.ensure_future(programs.wait(process))
    complaint = asyncio.ensure_future(_last_complaint(complaints))
    try:
        await _feed(feeding, head, rest)
        return await ended, await complaint
    except BaseException:
        group.kill_all()
        await ended
        complaint.cancel()
        raise


async def _feed(descriptor: int, head: bytes, rest: AsyncIterator[bytes]) -> None:
    """Writes the archive as fast as it is unpacked. Ends early where nobody reads it any more."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(descriptor, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        writer.write(head)
        async for piece in rest:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass  # Tar has ended, and its exit code says why.
    finally:
        writer.close()


async def _last_complaint(descriptor: int) -> str:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    kept = b""
    try:
        while piece := await reader.read(MAX_COMPLAINT_BYTES):
            kept = (kept + piece)[-MAX_COMPLAINT_BYTES:]
    finally:
        transport.close()
    lines = kept.decode(errors="replace").strip().splitlines()
    telling = [line for line in lines if not _FAREWELL.search(line)]
    return telling[-1][:500] if telling else ""
