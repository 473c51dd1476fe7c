"""The routes of files."""

from __future__ import annotations

import asyncio
import codecs
import mimetypes
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sandbox_runtime.file_answers import modified_at
from sandbox_runtime.file_orders import FileWatching
from sandbox_runtime.file_work import PIECE_BYTES, Opened
from sandbox_runtime.files import Files
from sandbox_runtime.http import (
    HEARTBEAT,
    json_answer,
    no_content,
    read_body,
    read_query,
    refusal,
    until_left,
)
from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import (
    ArchiveRefused,
    InvalidRequest,
    RangeNotSatisfiable,
    RuntimeFault,
)
from sandbox_runtime.protocol.files import (
    MODIFIED_HEADER,
    DirectoryCreation,
    FileArchive,
    FileDeletion,
    FileExistence,
    FileFind,
    FileListing,
    FileMode,
    FileMove,
    FilePlace,
    FileRead,
    FileReplace,
    FileSearch,
    FileStat,
    FileWatch,
    FileWrite,
)

BINARY = "application/octet-stream"

SNIFFED_BYTES = 8192

_types = mimetypes.MimeTypes()
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class FileRoutes:
    def __init__(self, files: Files) -> None:
        self._files = files

    def routes(self) -> list[Route]:
        return [
            Route("/files", self._read, methods=["GET"]),
            Route("/files", self._write, methods=["PUT"]),
            Route("/files", self._delete, methods=["DELETE"]),
            Route("/files/list", self._list, methods=["GET"]),
            Route("/files/find", self._find, methods=["GET"]),
            Route("/files/search", self._search, methods=["GET"]),
            Route("/files/archive", self._pack, methods=["GET"]),
            Route("/files/archive", self._unpack, methods=["PUT"]),
            Route("/files/stat", self._stat, methods=["GET"]),
            Route("/files/exists", self._exists, methods=["GET"]),
            Route("/files/mkdir", self._create_directory, methods=["POST"]),
            Route("/files/rename", self._rename, methods=["POST"]),
            Route("/files/move", self._move, methods=["POST"]),
            Route("/files/chmod", self._change_mode, methods=["POST"]),
            Route("/files/replace", self._replace, methods=["POST"]),
            Route("/files/watch", self._watch, methods=["GET"]),
            Route("/files/version", self._version, methods=["GET"]),
        ]

    async def _read(self, request: Request) -> Response:
        place = read_query(request, FileRead)
        opened = await self._files.open(place)
        try:
            wanted = _wanted(request.headers.get("range", ""), opened.status.st_size)
            kind = _media_type(place.path, opened.head)
        except BaseException:
            opened.close()
            raise
        return _Content(self._files, opened, wanted, kind)

    async def _write(self, request: Request) -> Response:
        order = read_query(request, FileWrite)
        try:
            return json_answer(await self._files.write(order, request.stream()))
        except ClientDisconnect:
            raise InvalidRequest("the body broke off") from None  # Nobody reads this.
        except RuntimeFault as fault:
            return _refused_early(fault)

    async def _delete(self, request: Request) -> Response:
        await self._files.delete(read_query(request, FileDeletion))
        return no_content()

    async def _list(self, request: Request) -> Response:
        return json_answer(await self._files.list_all(read_query(request, FileListing)))

    async def _find(self, request: Request) -> Response:
        found = self._files.find(read_query(request, FileFind))
        return await _while_wanted(request, found)

    async def _search(self, request: Request) -> Response:
        matches = self._files.search(read_query(request, FileSearch))
        return await _while_wanted(request, matches)

    async def _pack(self, request: Request) -> Response:
        archive = await self._files.pack(read_query(request, FileArchive))
        return _Stream(archive, "application/x-tar")

    async def _unpack(self, request: Request) -> Response:
        try:
            await self._files.unpack(read_query(request, FilePlace), request.stream())
        except RuntimeFault as fault:
            return _refused_early(fault)
        return no_content()

    async def _stat(self, request: Request) -> Response:
        return json_answer(await self._files.stat(read_query(request, FileStat)))

    async def _exists(self, request: Request) -> Response:
        exists = await self._files.exists(read_query(request, FilePlace))
        return json_answer(FileExistence(exists=exists))

    async def _create_directory(self, request: Request) -> Response:
        order = await read_body(request, DirectoryCreation)
        return json_answer(await self._files.create_directory(order))

    async def _rename(self, request: Request) -> Response:
        return json_answer(await self._files.rename(await read_body(request, FileMove)))

    async def _move(self, request: Request) -> Response:
        return json_answer(await self._files.move(await read_body(request, FileMove)))

    async def _change_mode(self, request: Request) -> Response:
        return json_answer(await self._files.change_mode(await read_body(request, FileMode)))

    async def _replace(self, request: Request) -> Response:
        return json_answer(await self._files.replace(await read_body(request, FileReplace)))

    async def _watch(self, request: Request) -> Response:
        watching = await self._files.watch(read_query(request, FileWatch))
        return _Stream(_lines(watching), "application/x-ndjson", watching.close)

    async def _version(self, request: Request) -> Response:
        version = self._files.version(read_query(request, FileWatch))
        return await _while_wanted(request, version)


class _Content(Response):
    """Sends a file, or a part of it, piece by piece; one that shrinks meanwhile is cut off."""

    def __init__(
        self,
        files: Files,
        opened: Opened,
        wanted: range | None,
        media_type: str,
    ) -> None:
        """`wanted`: None for all of it."""
        self._files = files
        self._opened = opened
        self._wanted = wanted
        self._media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._send(send)
        finally:
            self._opened.close()

    async def _send(self, send: Send) -> None:
        size = self._opened.status.st_size
        span = range(size) if self._wanted is None else self._wanted
        headers = [
            (b"content-type", self._media_type.encode()),
            (b"content-length", b"%d" % len(span)),
            (b"accept-ranges", b"bytes"),
            (MODIFIED_HEADER.lower().encode(), modified_at(self._opened.status).encode()),
        ]
        if self._wanted is not None:
            text = f"bytes {span.start}-{span.stop - 1}/{size}"
            headers.append((b"content-range", text.encode()))
        status = 200 if self._wanted is None else 206
        await send({"type": "http.response.start", "status": status, "headers": headers})
        at = span.start
        while at < span.stop:
            piece = await self._piece(at, span.stop - at)
            if not piece:
                return
            at += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _piece(self, at: int, size: int) -> bytes:
        held = self._opened.head[at : at + size]
        return held or await self._files.read(self._opened, at, min(size, PIECE_BYTES))


async def _while_wanted(request: Request, work: Coroutine[None, None, msgspec.Struct]) -> Response:
    """Its answer; the work ends when the caller leaves."""
    working = asyncio.create_task(work)
    async with until_left(request.receive, working.cancel):
        await asyncio.wait((working,))
    return no_content() if working.cancelled() else json_answer(working.result())


class _Stream(Response):
    """Sends what comes, piece by piece; what cannot be brought to its end is cut off."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        media_type: str,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`close` is called in any case, also where the pieces were never begun."""
        self._pieces = pieces
        self._media_type = media_type
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self._media_type.encode())]
        sending = asyncio.current_task()
        assert sending is not None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with until_left(receive, sending.cancel), aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (ArchiveRefused, asyncio.CancelledError):
            return
        finally:
            if self._close is not None:
                await self._close()
        await send({"type": "http.response.body", "body": b""})


async def _lines(watching: FileWatching) -> AsyncGenerator[bytes, None]:
    async with aclosing(watching.events()) as events:
        async for event in events:
            yield HEARTBEAT if event is None else codec.encode(event) + b"\n"


def _refused_early(fault: RuntimeFault) -> Response:
    answer = refusal(fault)
    answer.headers["connection"] = "close"  # What is still to come need not be sent.
    return answer


def _wanted(header: str, size: int) -> range | None:
    """What a `Range` asks for; None for all, also where it is none that we know.

    Raises `RangeNotSatisfiable`.
    """
    match = _RANGE.fullmatch(header)
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        span = range(max(size - int(match[2]), 0), size)
    else:
        last = int(match[2]) if match[2] else size - 1
        if match[2] and last < int(match[1]):
            return None
        span = range(int(match[1]), min(last + 1, size))
    if not span:
        raise RangeNotSatisfiable(f"The file has {size} bytes.")
    return span


def _media_type(path: str, head: bytes) -> str:
    """By the name; where that says nothing, whether it is text."""
    # The table that is built in: no file of the image's is read for it.
    guessed, compression = _types.guess_type(path)
    if guessed is not None and compression is None:
        return guessed
    sniffed = head[:SNIFFED_BYTES]
    if b"\x00" in sniffed:
        return BINARY
    try:
        # A character may be cut at the end.
        codecs.getincrementaldecoder("utf-8")().decode(sniffed)
    except UnicodeDecodeError:
        return BINARY
    return "text/plain"
