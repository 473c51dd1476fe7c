"""Turns a program's output bytes into events."""

from __future__ import annotations

import asyncio
import base64
import codecs
import time
from collections.abc import Callable, Iterator
from itertools import groupby

from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.protocol.events import Stderr, Stdout, Stream, Truncated
from sandbox_runtime.protocol.requests import Encoding

COALESCE_S = 0.02
"""How long output may wait for more, so that a chatty program does not make an event a line."""

MAX_EVENT_BYTES = 64 * 1024


class Output:
    """Both streams of one execution. Lives on one event loop; closed before the terminal event."""

    def __init__(
        self,
        journal: Journal,
        *,
        limit_bytes: int,
        encoding: Encoding,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._room_bytes = limit_bytes
        self._clock = clock
        self._decoders = {stream: _DECODERS[encoding]() for stream in Stream}
        self._pending: list[tuple[Stream, bytes]] = []
        self._pending_bytes = 0
        self._told_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._truncated: Stream | None = None
        self._dropped_bytes = 0

    def write(self, stream: Stream, data: bytes) -> None:
        """Takes what the program wrote. The first bytes after a pause are told at once."""
        kept = data[: self._room_bytes]
        self._room_bytes -= len(kept)
        if len(kept) < len(data):
            self._drop(stream, len(data) - len(kept))
        if not kept:
            return
        self._pending.append((stream, kept))
        self._pending_bytes += len(kept)
        wait_s = self._told_at + COALESCE_S - self._clock()
        if self._pending_bytes >= MAX_EVENT_BYTES or wait_s <= 0:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.flush)

    def has_room_now(self) -> bool:
        return self._journal.has_room_now()

    async def has_room(self) -> None:
        """Returns when the journal can take more; until then the program should not be read."""
        await self._journal.has_room()

    def close(self) -> None:
        """Tells all that is left, then that something was dropped, if it was."""
        self.flush()
        for stream, decoder in self._decoders.items():
            if self._truncated is None:
                self._append(stream, decoder.finish())
            elif decoder.held_bytes:
                # The cap cut a character in two: half of one is not worth a U+FFFD.
                self._drop(stream, decoder.held_bytes)
        if self._truncated is not None:
            self._journal.append(
                Truncated(
                    timestamp=timestamp(),
                    stream=self._truncated,
                    dropped_bytes=self._dropped_bytes,
                )
            )

    def _drop(self, stream: Stream, count: int) -> None:
        self._truncated = self._truncated or stream
        self._dropped_bytes += count

    def flush(self) -> None:
        """Tells at once what waits for more, so that an event of another kind can follow it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._pending:
            return
        for stream, data in _merged(self._pending):
            self._append(stream, self._decoders[stream].decode(data))
        self._pending.clear()
        self._pending_bytes = 0
        self._told_at = self._clock()

    def _append(self, stream: Stream, data: str) -> None:
        if not data:
            return  # So far only the first bytes of a character, or none.
        event = Stdout if stream is Stream.STDOUT else Stderr
        self._journal.append(event(timestamp=timestamp(), data=data))


class _Utf8Decoder:
    """Decodes a stream piece by piece: a character may be cut at a piece's end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def held_bytes(self) -> int:
        return len(self._decoder.getstate()[0])

    def decode(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Base64Decoder:
    """Each piece stands for itself: readers decode event by event and join the bytes."""

    held_bytes = 0

    def decode(self, data: bytes) -> str:
        return base64.b64encode(data).decode("ascii")

    def finish(self) -> str:
        return ""


_DECODERS: dict[Encoding, type[_Utf8Decoder] | type[_Base64Decoder]] = {
    Encoding.UTF8: _Utf8Decoder,
    Encoding.BASE64: _Base64Decoder,
}


def _merged(pieces: list[tuple[Stream, bytes]]) -> Iterator[tuple[Stream, bytes]]:
    """Neighbours of one stream joined, then cut to the size of an event. Keeps the order."""
    for stream, group in groupby(pieces, key=lambda piece: piece[0]):
        data = b"".join(piece for _, piece in group)
        for start in range(0, len(data), MAX_EVENT_BYTES):
            yield stream, data[start : start + MAX_EVENT_BYTES]
