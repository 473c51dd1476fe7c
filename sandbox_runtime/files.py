"""Does what is asked of the user's files."""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import os
import posixpath
import secrets
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from sandbox_runtime import file_work
from sandbox_runtime.archives import pack, unpack
from sandbox_runtime.delegate_messages import (
    Find,
    ListTree,
    Merge,
    Nothing,
    Replace,
    Search,
    Version,
)
from sandbox_runtime.file_answers import FAULTS, cursor_of, described, fault_of
from sandbox_runtime.file_orders import FileOrders, FileWatching, sent
from sandbox_runtime.file_work import PIECE_BYTES, Found, Opened, Replacement
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.errors import (
    FileFault,
    InvalidRequest,
    IsDirectory,
    NameInvalid,
    PermissionDenied,
    RuntimeFault,
)
from sandbox_runtime.protocol.files import (
    MAX_PATH_BYTES,
    DirectoryCreation,
    FileArchive,
    FileDeletion,
    FileEntry,
    FileFind,
    FileFindings,
    FileList,
    FileListing,
    FileMatches,
    FileMode,
    FileMove,
    FilePlace,
    FileReplace,
    FileReplacements,
    FileSearch,
    FileStat,
    FileVersion,
    FileWatch,
    FileWrite,
)
from sandbox_runtime.protocol.requests import Encoding, Session
from sandbox_runtime.sessions import Sessions
from sandbox_runtime.settings import Settings
from sandbox_runtime.user_threads import UserThreads

PROGRAM_TIMEOUT_S = 600.0
"""For `rm` and `mv`, which are run where one call to the kernel does not do."""

_REMOVAL = 'chmod -R u+rwX -- "$1"; exec rm -rf -- "$1"'
"""Also of directories that their own modes protect."""

MAX_COMPLAINT_BYTES = 64 * 1024

_nothing = msgspec.json.Decoder(Nothing)
_listing = msgspec.json.Decoder(FileList)
_findings = msgspec.json.Decoder(FileFindings)
_matches = msgspec.json.Decoder(FileMatches)
_version = msgspec.json.Decoder(FileVersion)
_replacements = msgspec.json.Decoder(FileReplacements)

T = TypeVar("T")


class Files:
    """All of it has the rights of the session's user; what fails raises `RuntimeFault`."""

    def __init__(
        self,
        settings: Settings,
        programs: UserPrograms,
        sessions: Sessions,
        threads: UserThreads,
    ) -> None:
        self._settings = settings
        self._programs = programs
        self._sessions = sessions
        self._threads = threads
        self._orders = FileOrders(settings, programs)

    async def open(self, place: FilePlace) -> Opened:
        path = self._path(place)
        return await self._do(place, lambda: file_work.open_file(path))

    async def read(self, opened: Opened, start: int, size: int) -> bytes:
        return await asyncio.to_thread(os.pread, opened.descriptor, size, start)

    async def write(self, order: FileWrite, content: AsyncIterator[bytes]) -> FileEntry:
        """Nothing of it stays where the content breaks off, unless it is appended."""
        path = self._path(order)
        mode = None if order.mode is None else int(order.mode, 8)
        pieces = _pieces(content)
        first = await anext(pieces)
        put = self._append if order.append else self._replace
        status = await put(order, path, mode, first, pieces)
        return described(Found(posixpath.basename(path), status), path)

    async def delete(self, order: FileDeletion) -> None:
        path = self._path(order)
        try:
            await self._do(order, lambda: file_work.delete_file(path))
        except IsDirectory:
            if not order.recursive:
                raise
            await self._do(order, lambda: self._check_removable(path))
            await self._run(order, ["rm", "-rf", "--", path.rstrip("/")])

    async def list_all(self, order: FileListing) -> FileList:
        path = self._path(order)
        after = "" if order.cursor is None else _decoded(order.cursor, "cursor")
        if order.recursive:
            wanted = ListTree(path=sent(path), after=sent(after), order=order)
            return await self._orders.answer(order.user, wanted, _listing)

        def work() -> FileList:
            found, has_more = file_work.list_directory(
                path, hidden=order.hidden, limit=order.limit, after=after
            )
            return FileList(
                files=[described(one, posixpath.join(path, one.name)) for one in found],
                next_cursor=cursor_of(found[-1].name) if has_more and found else None,
            )

        return await self._do(order, work)

    async def find(self, order: FileFind) -> FileFindings:
        wanted = Find(path=sent(self._path(order)), order=order)
        return await self._orders.answer(order.user, wanted, _findings)

    async def search(self, order: FileSearch) -> FileMatches:
        wanted = Search(path=sent(self._path(order)), order=order)
        return await self._orders.answer(order.user, wanted, _matches)

    async def replace(self, order: FileReplace) -> FileReplacements:
        wanted = Replace(path=sent(self._path(order)), order=order)
        return await self._orders.answer(order.user, wanted, _replacements)

    async def version(self, order: FileWatch) -> FileVersion:
        wanted = Version(path=sent(self._path(order)), order=order)
        return await self._orders.answer(order.user, wanted, _version)

    async def watch(self, order: FileWatch) -> FileWatching:
        """To be closed."""
        return await self._orders.watch(order.user, self._path(order), order)

    async def pack(self, order: FileArchive) -> AsyncGenerator[bytes, None]:
        path = self._path(order)

        def check() -> None:
            file_work.list_directory(path, hidden=True, limit=1, after="")

        await self._do(order, check)
        return pack(path, self._programs, compressed=order.gzip, user=order.user)

    async def unpack(self, place: FilePlace, archive: AsyncIterator[bytes]) -> None:
        """All of it, or nothing: it is unpacked beside its place first."""
        path = self._path(place)
        staging = file_work.TEMPORARY + secrets.token_hex(8)
        try:
            await unpack(archive, path, staging, self._programs, user=place.user)
            merge = Merge(path=sent(path), staging=staging)
            await self._orders.answer(place.user, merge, _nothing)
        except BaseException:
            with suppress(RuntimeFault):
                await self._run(place, ["sh", "-c", _REMOVAL, "sh", posixpath.join(path, staging)])
            raise

    async def stat(self, order: FileStat) -> FileEntry:
        return await self._entry(order, self._path(order), follow=order.follow)

    async def exists(self, place: FilePlace) -> bool:
        path = self._path(place)
        return await self._do(place, lambda: file_work.exists(path))

    async def create_directory(self, order: DirectoryCreation) -> FileEntry:
        path, umask = self._path(order), self._programs.umask

        def work() -> None:
            file_work.create_directory(path, recursive=order.recursive, umask=umask)

        await self._do(order, work)
        return await self._entry(order, path, follow=True)

    async def rename(self, order: FileMove) -> FileEntry:
        return await self._rename(order, self._path(order), self._path(order, order.to))

    async def move(self, order: FileMove) -> FileEntry:
        path, to = self._path(order), self._path(order, order.to)
        return await self._rename(
            order, path, await self._do(order, lambda: file_work.moved_path(path, to))
        )

    async def change_mode(self, order: FileMode) -> FileEntry:
        path = self._path(order)
        await self._do(order, lambda: file_work.change_mode(path, int(order.mode, 8)))
        return await self._entry(order, path, follow=True)

    def _path(self, place: FilePlace, text: str | None = None) -> str:
        """The absolute path of a request's `path`, or of another that is in it."""
        path = place.path if text is None else text
        if place.path_encoding is Encoding.BASE64:
            path = _decoded(path, "path")
        if not path:
            raise NameInvalid("The path is empty.")
        if "\x00" in path:
            raise NameInvalid("The path has a NUL character.")
        session = Session(name=place.session, cwd=place.cwd)
        path = posixpath.join(self._sessions.directory_of(session), path)
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise NameInvalid(f"The path is longer than {MAX_PATH_BYTES} bytes.")
        return path

    async def _do(self, place: FilePlace, work: Callable[[], T]) -> T:
        with _translated():
            return await self._threads.run(place.user, work)

    async def _entry(self, place: FilePlace, path: str, *, follow: bool) -> FileEntry:
        found = await self._do(place, lambda: file_work.look(path, follow=follow))
        return described(found, path)

    async def _replace(
        self,
        order: FileWrite,
        path: str,
        mode: int | None,
        first: bytes,
        rest: AsyncIterator[bytes],
    ) -> os.stat_result:
        def begin() -> Replacement:
            return Replacement(path, first, mode=mode, umask=self._programs.umask)

        following = await anext(rest, None)
        if following is None:  # The most are small: one turn of a thread.
            return await self._do(order, lambda: begin().finish())
        replacement = await self._do(order, begin)
        try:
            await self._write(order, replacement.write, following)
            async for piece in rest:
                await self._write(order, replacement.write, piece)
        except BaseException:
            await self._do(order, replacement.abandon)
            raise
        return await self._do(order, replacement.finish)

    async def _append(
        self,
        order: FileWrite,
        path: str,
        mode: int | None,
        first: bytes,
        rest: AsyncIterator[bytes],
    ) -> os.stat_result:
        umask = self._programs.umask
        descriptor = await self._do(
            order, lambda: file_work.append(path, first, mode=mode, umask=umask)
        )
        try:
            async for piece in rest:
                await self._write(order, lambda data: file_work.write_all(descriptor, data), piece)
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    async def _write(self, order: FileWrite, write: Callable[[bytes], None], piece: bytes) -> None:
        await self._do(order, lambda: write(piece))

    async def _rename(self, order: FileMove, path: str, to: str) -> FileEntry:
        try:
            with _translated(passed=errno.EXDEV):
                moved = await self._threads.run(order.user, lambda: file_work.rename(path, to))
        except OSError:  # To another volume, where it has to be copied.
            await self._run(order, ["mv", "-fT", "--", path.rstrip("/"), to.rstrip("/")])
            return await self._entry(order, to, follow=False)
        return described(moved, to)

    def _check_removable(self, path: str) -> None:
        """Raises `PermissionDenied` for what the sandbox is made of."""
        real = Path(os.path.realpath(path))
        kept = (self._settings.workspace, self._settings.home)
        if real.is_mount() or any(real == one or real in one.parents for one in kept):
            raise PermissionDenied("This directory is a part of the sandbox: delete what is in it.")

    async def _run(self, place: FilePlace, argv: list[str]) -> None:
        """Runs a program as the user; what it complains of decides the fault."""
        # Not blocking: who has more to complain of than a pipe holds goes on without.
        complaints, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        group = self._programs.new_group("files")
        try:
            with _translated():
                process = self._programs.spawn(
                    argv,
                    cwd="/",
                    env=self._programs.environment({"LC_ALL": "C"}, user=place.user),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    group=group,
                    user=place.user,
                )
            exit_code = await asyncio.wait_for(self._programs.wait(process), PROGRAM_TIMEOUT_S)
            if exit_code != 0:
                raise _fault_of_complaint(_read_all(complaints))
        except TimeoutError:
            raise FileFault(f"Not done within {PROGRAM_TIMEOUT_S:.0f} s.") from None
        finally:
            os.close(complaints)
            os.close(stderr)
            await group.close()


def _decoded(text: str, field: str) -> str:
    """Raises `InvalidRequest`."""
    try:
        return os.fsdecode(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field} is not base64: {error}") from error


async def _pieces(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces that are worth a thread's turn: at least one, if empty."""
    held = bytearray()
    given = False
    async for part in content:
        held += part
        if len(held) >= PIECE_BYTES:
            yield bytes(held)
            given = True
            held.clear()
    if held or not given:
        yield bytes(held)


@contextmanager
def _translated(*, passed: int | None = None) -> Iterator[None]:
    """Turns the kernel's errors into ours, but for one."""
    try:
        yield
    except OSError as error:
        if passed is not None and error.errno == passed:
            raise
        raise fault_of(error.errno or 0, error.strerror or str(error)) from error


def _fault_of_complaint(complaint: str) -> RuntimeFault:
    for number in FAULTS:
        if f": {os.strerror(number)}" in complaint:
            return fault_of(number, os.strerror(number))
    return FileFault(complaint.strip()[-500:] or "It failed, and did not say why.")


def _read_all(descriptor: int) -> str:
    try:
        return os.read(descriptor, MAX_COMPLAINT_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""
