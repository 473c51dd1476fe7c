"""The routes of files in a sandbox."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec
from flask import Response, g, request

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.calls import Answer, RuntimeCalls
from sandbox_runtime.protocol.events import Error
from sandbox_runtime.protocol.files import (
    MODIFIED_HEADER,
    FileEntry,
    FileExistence,
    FileFindings,
    FileList,
    FileMatches,
    FileReplacements,
    FileVersion,
    FileWatchEvent,
)
from sandbox_runtime.protocol.requests import SILENCE_LIMIT_S, Encoding
from web import sse
from web.contents import decoded, encoded
from web.door import Door
from web.errors import (
    BodyTooLarge,
    FileTooLarge,
    InvalidField,
    SandboxUnreachable,
    UnreadableBody,
)
from web.operations import Operation, json_answer, no_content, reaching_in
from web.readers import client_left
from web.requests import JSON_TYPE, read_body
from web.schemas_files import (
    DirectoryRequest,
    FileArchiveQuery,
    FileCheck,
    FileCheckQuery,
    FileContent,
    FileDeleteQuery,
    FileFindQuery,
    FileListQuery,
    FileModeRequest,
    FileMoveRequest,
    FileQuery,
    FileReplaceRequest,
    FileSearchQuery,
    FileStatQuery,
    FileView,
    FileWatchQuery,
    FileWriteQuery,
)
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore

MAX_JSON_FILE_BYTES = 16 * 1024 * 1024
"""Of a file whose content is in JSON, where it is held as a whole."""

MAX_JSON_BODY_BYTES = 2 * MAX_JSON_FILE_BYTES
"""Such a file in base64, or with characters that are escaped."""

PIECE_BYTES = 256 * 1024

PROGRAM_TIMEOUT_S = 630.0
"""For the runtime to move or delete a tree, and some more."""

BINARY = "application/octet-stream"

RAW_HEADERS = {
    "Content-Security-Policy": "sandbox",
    "Cache-Control": "no-store",
}
"""What a sandbox has is never run as a page of ours, whatever it says that it is."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9.+-]{0,126}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_SPAN = re.compile(r"bytes \d{1,19}-\d{1,19}/\d{1,19}")
_RANGE = re.compile(r"bytes=[\d,\- ]{1,200}")

_VERSION = re.compile(r"[0-9a-f]{32}")

A = TypeVar("A", bound=msgspec.Struct)


class FileRoutes:
    """Calls, not jobs. What may be done is for the rights of the sandbox's user to decide."""

    def __init__(self, *, door: Door, sandboxes: SandboxStore, max_upload_bytes: int) -> None:
        self._door = door
        self._sandboxes = sandboxes
        self._max_upload_bytes = max_upload_bytes

    def operations(self) -> list[Operation]:
        top = "/v1/sandboxes/{name}/files"
        return reaching_in(
            [
                Operation("GET", top, self.read, {200: FileView}, raw_answer=True),
                Operation(
                    "PUT",
                    top,
                    self.write,
                    {200: FileEntry},
                    form_type=FileContent,
                    raw_body=True,
                    body_limit_bytes=self._max_upload_bytes,
                ),
                Operation("DELETE", top, self.delete, {204: None}),
                Operation("GET", f"{top}/list", self.list_all, {200: FileList}),
                Operation("GET", f"{top}/find", self.find, {200: FileFindings}),
                Operation("GET", f"{top}/search", self.search, {200: FileMatches}),
                Operation("GET", f"{top}/archive", self.pack, {200: None}, raw_answer=True),
                Operation(
                    "PUT",
                    f"{top}/archive",
                    self.unpack,
                    {204: None},
                    body_limit_bytes=self._max_upload_bytes,
                ),
                Operation("GET", f"{top}/stat", self.stat, {200: FileEntry}),
                Operation("GET", f"{top}/exists", self.exists, {200: FileExistence}),
                Operation("POST", f"{top}/mkdir", self.create_directory, {200: FileEntry}),
                Operation("POST", f"{top}/rename", self.rename, {200: FileEntry}),
                Operation("POST", f"{top}/move", self.move, {200: FileEntry}),
                Operation("POST", f"{top}/chmod", self.change_mode, {200: FileEntry}),
                Operation("POST", f"{top}/replace", self.replace, {200: FileReplacements}),
                Operation(
                    "GET", f"{top}/watch", self.watch, {}, streams=True, stream_of=FileWatchEvent
                ),
                Operation("GET", f"{top}/watch/check", self.check, {200: FileCheck}),
            ]
        )

    def read(self, owner: str, name: str, query: FileQuery) -> Response:
        """A file's bytes, or a part of them by `Range`; in JSON where `Accept` says so."""
        wants_json = JSON_TYPE in request.headers.get("Accept", "").lower()
        asked = request.headers.get("Range", "")
        headers = {"Range": asked} if _RANGE.fullmatch(asked) and not wants_json else {}

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> Answer:
            where = self._of_runtime(sandbox, query)
            return calls.open("GET", "/files", query=where, headers=headers)

        answer = self._door.use(owner, name, act)
        if wants_json:
            with closing(answer):
                return json_answer(_view(query, answer))
        return _raw(query, answer)

    def write(self, owner: str, name: str, query: FileWriteQuery) -> Response:
        """Write a file, as a whole or not at all: the body, or what it says in JSON."""
        if request.mimetype == JSON_TYPE:
            request.max_content_length = MAX_JSON_BODY_BYTES
            given = read_body(request, FileContent)
            query = msgspec.structs.replace(query, append=given.append, mode=given.mode)
            content: bytes | Iterator[bytes] = _content(given)
        else:
            content = _uploaded(self._max_upload_bytes)
        if query.append and isinstance(content, bytes):
            content = iter((content,))  # A stream is never sent twice.

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> FileEntry:
            where = self._of_runtime(sandbox, query)
            return calls.call("PUT", "/files", kind=FileEntry, query=where, body=content)

        return json_answer(self._door.use(owner, name, act))

    def delete(self, owner: str, name: str, query: FileDeleteQuery) -> Response:
        """Delete a file, or with `recursive` a directory and all that is in it."""

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> None:
            where = self._of_runtime(sandbox, query)
            calls.order("DELETE", "/files", query=where, timeout_s=PROGRAM_TIMEOUT_S)

        self._door.use(owner, name, act)
        return no_content()

    def list_all(self, owner: str, name: str, query: FileListQuery) -> Response:
        """What is in a directory, by name."""
        return json_answer(self._look(owner, name, "/files/list", query, FileList))

    def find(self, owner: str, name: str, query: FileFindQuery) -> Response:
        """Files and directories below a directory, by their names."""
        return json_answer(self._look(owner, name, "/files/find", query, FileFindings))

    def search(self, owner: str, name: str, query: FileSearchQuery) -> Response:
        """Lines of text files, by what is in them."""
        return json_answer(self._look(owner, name, "/files/search", query, FileMatches))

    def pack(self, owner: str, name: str, query: FileArchiveQuery) -> Response:
        """A directory as a tar archive; what may not be read is left out."""

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> Answer:
            where = self._of_runtime(sandbox, query)
            return calls.open("GET", "/files/archive", query=where)

        answer = self._door.use(owner, name, act)
        suffix = ".tar.gz" if query.gzip else ".tar"
        kind = "application/gzip" if query.gzip else "application/x-tar"
        headers = {**RAW_HEADERS, "Content-Type": kind, **_attachment(_name(query) + suffix)}
        response = Response(answer.pieces(), headers=headers)
        response.call_on_close(answer.close)
        return response

    def unpack(self, owner: str, name: str, query: FileQuery) -> Response:
        """Unpack a tar archive, plain or compressed, into a directory, which is made."""
        content = _uploaded(self._max_upload_bytes)

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> None:
            where = self._of_runtime(sandbox, query)
            calls.order(
                "PUT", "/files/archive", query=where, body=content, timeout_s=PROGRAM_TIMEOUT_S
            )

        self._door.use(owner, name, act)
        return no_content()

    def stat(self, owner: str, name: str, query: FileStatQuery) -> Response:
        """One entry, without its content."""
        return json_answer(self._look(owner, name, "/files/stat", query, FileEntry))

    def exists(self, owner: str, name: str, query: FileQuery) -> Response:
        """Whether there is something that the path leads to."""
        return json_answer(self._look(owner, name, "/files/exists", query, FileExistence))

    def create_directory(self, owner: str, name: str, body: DirectoryRequest) -> Response:
        """Make a directory."""
        return self._change(owner, name, "/files/mkdir", body, FileEntry)

    def rename(self, owner: str, name: str, body: FileMoveRequest) -> Response:
        """Give a file or a directory another path."""
        return self._change(owner, name, "/files/rename", body, FileEntry)

    def move(self, owner: str, name: str, body: FileMoveRequest) -> Response:
        """As rename; into `to`, where that is a directory."""
        return self._change(owner, name, "/files/move", body, FileEntry)

    def change_mode(self, owner: str, name: str, body: FileModeRequest) -> Response:
        """Change what may be done with a file."""
        return self._change(owner, name, "/files/chmod", body, FileEntry)

    def replace(self, owner: str, name: str, body: FileReplaceRequest) -> Response:
        """Replace text in a file, or in the files below a directory."""
        return self._change(owner, name, "/files/replace", body, FileReplacements)

    def watch(self, owner: str, name: str, query: FileWatchQuery) -> Response:
        """What changes below a directory, from now on, as a stream that has no end of its own."""
        _check_patterns(query)

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> Answer:
            where = self._of_runtime(sandbox, query)
            return calls.open("GET", "/files/watch", query=where, timeout_s=SILENCE_LIMIT_S)

        answer = self._door.use(owner, name, act)
        frames = sse.relayed(
            answer.pieces(),
            codec.WatchDecoder().feed,
            _frame,
            is_last=lambda event: isinstance(event, Error),
            left=partial(client_left, request.environ),
            request_id=g.request_id,
        )
        response = Response(frames, headers=sse.HEADERS)
        response.call_on_close(answer.close)
        return response

    def check(self, owner: str, name: str, query: FileCheckQuery) -> Response:
        """Whether anything below a directory has changed since an earlier check."""
        _check_patterns(query)
        wanted = msgspec.convert(query, FileWatchQuery, from_attributes=True)
        version = self._look(owner, name, "/files/version", wanted, FileVersion).version
        if not _VERSION.fullmatch(query.since):
            return json_answer(FileCheck(status="resync", version=version))
        status: Literal["unchanged", "changed"] = (
            "unchanged" if version == query.since else "changed"
        )
        return json_answer(FileCheck(status=status, version=version))

    def _look(self, owner: str, name: str, path: str, query: FileQuery, kind: type[A]) -> A:
        environ = request.environ

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> A:
            return calls.call(
                "GET",
                path,
                kind=kind,
                query=self._of_runtime(sandbox, query),
                is_wanted=lambda: not client_left(environ),
            )

        return self._door.use(owner, name, act)

    def _change(self, owner: str, name: str, path: str, body: FileQuery, kind: type[A]) -> Response:
        def act(sandbox: Sandbox, calls: RuntimeCalls) -> A:
            order = msgspec.json.encode(self._of_runtime(sandbox, body))
            return calls.call("POST", path, kind=kind, body=order, timeout_s=PROGRAM_TIMEOUT_S)

        return json_answer(self._door.use(owner, name, act))

    def _of_runtime(self, sandbox: Sandbox, given: FileQuery) -> dict[str, str | int | bool | None]:
        """The request as the runtime takes it: with what it does not know of the session.

        Raises `SessionNotFound`.
        """
        session = self._sandboxes.session(sandbox.id, given.session)
        fields: dict[str, str | int | bool | None] = msgspec.to_builtins(given)
        return fields if session is None else {**fields, "cwd": session.cwd, "user": session.user}


def _check_patterns(query: FileWatchQuery) -> None:
    if query.include is not None and query.exclude is not None:
        raise InvalidField("exclude", "Give either `include` or `exclude`, and not both.")


def _frame(event: FileWatchEvent) -> bytes:
    return sse.frame_without_id(codec.encode(event))


def _raw(query: FileQuery, answer: Answer) -> Response:
    """The bytes as they come. What the runtime says of them is passed on only if it can be so."""
    span = answer.header("Content-Range")
    headers = {
        **RAW_HEADERS,
        "Content-Type": _media_type(answer),
        "Content-Length": str(_size(answer)),
        "Accept-Ranges": "bytes",
        **_attachment(_name(query)),
        MODIFIED_HEADER: _modified_at(answer),
    }
    is_part = answer.status == 206 and _SPAN.fullmatch(span) is not None
    if is_part:
        headers["Content-Range"] = span
    response = Response(answer.pieces(), 206 if is_part else 200, headers)
    response.call_on_close(answer.close)
    return response


def _view(query: FileQuery, answer: Answer) -> FileView:
    size = _size(answer)
    if size > MAX_JSON_FILE_BYTES:
        raise FileTooLarge(size, MAX_JSON_FILE_BYTES)
    pieces = bytearray()
    for piece in answer.pieces():
        pieces += piece
    text, encoding = encoded(pieces)
    return FileView(
        path=query.path,
        content=text,
        encoding=encoding,
        size=len(pieces),
        mime_type=_media_type(answer),
        modified_at=_modified_at(answer),
    )


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}


def _size(answer: Answer) -> int:
    """Raises `SandboxUnreachable` for what is no answer of our runtime."""
    text = answer.header("Content-Length")
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        answer.close()
        raise SandboxUnreachable("The sandbox's runtime does not say how long the file is.")
    return int(text)


def _media_type(answer: Answer) -> str:
    given = answer.header("Content-Type")
    return given if _MEDIA_TYPE.fullmatch(given) else BINARY


def _modified_at(answer: Answer) -> str:
    given = answer.header(MODIFIED_HEADER)
    return given if _TIME.fullmatch(given) else ""


def _name(query: FileQuery) -> str:
    if query.path_encoding is Encoding.BASE64:
        return "file"
    return posixpath.basename(query.path)


def _content(given: FileContent) -> bytes:
    content = decoded("content", given.content, given.encoding)
    if len(content) > MAX_JSON_FILE_BYTES:
        raise FileTooLarge(len(content), MAX_JSON_FILE_BYTES)
    return content


def _uploaded(limit_bytes: int) -> bytes | Iterator[bytes]:
    """The body; a large one as it comes. Raises where it is too long, or breaks off."""
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    pieces = _pieces(request.environ["wsgi.input"].read, length, limit_bytes)
    return b"".join(pieces) if length is not None and length <= PIECE_BYTES else pieces


def _pieces(read: Callable[[int], bytes], length: int | None, limit_bytes: int) -> Iterator[bytes]:
    size = 0
    try:
        while piece := read(PIECE_BYTES):
            size += len(piece)
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            yield piece
    except OSError as error:
        raise UnreadableBody("The body broke off.") from error
    if length is not None and size < length:
        raise UnreadableBody("The body broke off.")
