"""The runtime's wire form, without any I/O: bytes to values and back."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from sandbox_runtime.protocol.errors import (
    ErrorBody,
    InvalidRequest,
    RuntimeFault,
    RuntimeUnreachable,
    fault_from,
)
from sandbox_runtime.protocol.events import Numbered
from sandbox_runtime.protocol.files import FileWatchEvent
from sandbox_runtime.protocol.git import GitCommand
from sandbox_runtime.protocol.processes import WaitFor
from sandbox_runtime.protocol.requests import MAX_LINE_BYTES, ExecutionRequest

T = TypeVar("T")

_EXECUTION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_encoder = msgspec.json.Encoder()
_request_decoder: msgspec.json.Decoder[ExecutionRequest] = msgspec.json.Decoder(ExecutionRequest)
_git_decoder: msgspec.json.Decoder[GitCommand] = msgspec.json.Decoder(GitCommand)
_wait_decoder: msgspec.json.Decoder[WaitFor] = msgspec.json.Decoder(WaitFor)
_numbered_decoder = msgspec.json.Decoder(Numbered)
_watch_decoder: msgspec.json.Decoder[FileWatchEvent] = msgspec.json.Decoder(FileWatchEvent)
_error_decoder = msgspec.json.Decoder(ErrorBody)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()


def encode(value: msgspec.Struct | list[msgspec.Struct]) -> bytes:
    return _encoder.encode(value)


def encode_line(numbered: Numbered) -> bytes:
    """One line of an execution's event stream, with its newline."""
    return _encoder.encode(numbered) + b"\n"


def decode_request(body: bytes) -> ExecutionRequest:
    """Raises `InvalidRequest`, naming the field where there is one."""
    try:
        return _request_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(str(error)) from error


def decode_git_command(body: bytes) -> GitCommand:
    """Raises `InvalidRequest`, naming the field where there is one."""
    try:
        return _git_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(str(error)) from error


def decode_wait(body: bytes) -> WaitFor:
    """Raises `InvalidRequest`, naming the field where there is one."""
    try:
        return _wait_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(str(error)) from error


def decode_body(body: bytes, kind: type[T]) -> T:
    """Raises `InvalidRequest` where the body is not a `kind`."""
    try:
        return _decoder_of(kind).decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(str(error)) from error


def decode_answer(status: int, body: bytes, kind: type[T]) -> T:
    """The caller's side of `decode_body`: what is not a `kind` did not come from our runtime."""
    if status >= 300:
        raise decode_fault(status, body)
    try:
        return _decoder_of(kind).decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RuntimeUnreachable(f"not an answer of the runtime: {error}") from error


def decode_fault(status: int, body: bytes) -> RuntimeFault:
    """The exception that an answer of 300 and above stands for."""
    try:
        return fault_from(_error_decoder.decode(body))
    except (msgspec.DecodeError, RecursionError):
        return RuntimeUnreachable(f"HTTP {status} without an error body of the runtime")


def check_execution_id(execution_id: str) -> str:
    if not _EXECUTION_ID.fullmatch(execution_id):
        raise InvalidRequest(f"not an execution id: {execution_id[:140]!r}")
    return execution_id


class _Lines(Generic[T]):
    """Cuts a byte stream into what its lines say; holds at most one unfinished line.

    The runtime is hostile input: a line over `MAX_LINE_BYTES`, or one that is not an event,
    raises `RuntimeUnreachable`.
    """

    def __init__(self, decoder: msgspec.json.Decoder[T], limit_bytes: int) -> None:
        self._decoder = decoder
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[T]:
        """The events that `data` completes, in order. Empty lines are heartbeats."""
        return [self._decode(line) for line in self._lines(data) if line]

    def _lines(self, data: bytes) -> Iterator[bytes]:
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._hold(piece)
            yield b"".join(self._parts)
            self._parts.clear()
            self._held_bytes = 0
        self._hold(rest)

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes > self._limit_bytes:
            raise RuntimeUnreachable(f"an event longer than {self._limit_bytes} bytes")
        if piece:
            self._parts.append(piece)

    def _decode(self, line: bytes) -> T:
        try:
            return self._decoder.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RuntimeUnreachable(f"not an event of the runtime: {error}") from error


class LineDecoder(_Lines[Numbered]):
    """Of an execution's events, or a process's."""

    def __init__(self, limit_bytes: int = MAX_LINE_BYTES) -> None:
        super().__init__(_numbered_decoder, limit_bytes)


class WatchDecoder(_Lines[FileWatchEvent]):
    """Of what a watch tells."""

    def __init__(self) -> None:
        super().__init__(_watch_decoder, MAX_LINE_BYTES)


def _decoder_of(kind: type[T]) -> msgspec.json.Decoder[T]:
    """Made once: where two threads make one of a type for the first time, msgspec crashes."""
    if kind not in _decoders:
        with _making:
            _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return _decoders[kind]
