"""Keeps each execution's events until they are acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import NamedTuple

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import ExecutionForgotten, RuntimeFault
from sandbox_runtime.protocol.events import TERMINAL, Complete, Error, Numbered, RuntimeEvent

UNACKNOWLEDGED_LIMIT_BYTES = 32 * 1024 * 1024
"""Of one execution, as encoded. Past it the program's output is not read, so the program waits."""

LINGER_S = 0.002
"""How long the first event waits for the last: most commands end at once, and are told at once."""

BATCH_LIMIT_BYTES = 256 * 1024
"""How much a reader is given at once; a single larger event is given whole."""


class Batch(NamedTuple):
    """What a reader is given at once."""

    lines: bytes
    """Whole lines; none where nothing happened for a heartbeat's time."""
    last: bool
    """Whether the terminal event is in it, or was given before."""


class Journal:
    """The events of one execution, numbered from 1, as the lines that go over the wire.

    Any number of readers may follow it, each from where it likes. It lives on one event loop.
    """

    def __init__(self, limit_bytes: int = UNACKNOWLEDGED_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lines: dict[int, bytes] = {}
        self._held_bytes = 0
        self._most_held_bytes = 0
        self._acknowledged_n = 0
        self._last_n = 0
        self._terminal: Complete | Error | None = None
        self._readers: set[asyncio.Future[bool]] = set()
        self._writers: set[asyncio.Future[bool]] = set()
        self._end_waiters: set[asyncio.Future[bool]] = set()

    @property
    def last_n(self) -> int:
        return self._last_n

    @property
    def acknowledged_n(self) -> int:
        return self._acknowledged_n

    @property
    def most_held_bytes(self) -> int:
        """The most that it had to keep at once."""
        return self._most_held_bytes

    @property
    def ended(self) -> bool:
        """Whether the terminal event was appended."""
        return self._terminal is not None

    def append(self, event: RuntimeEvent) -> None:
        """Numbers the event and wakes the readers. Nothing may follow a terminal event."""
        if self._terminal is not None:
            raise RuntimeError(f"{type(event).__name__} after the terminal event")
        self._last_n += 1
        line = codec.encode_line(Numbered(self._last_n, event))
        self._lines[self._last_n] = line
        self._held_bytes += len(line)
        self._most_held_bytes = max(self._most_held_bytes, self._held_bytes)
        if isinstance(event, TERMINAL):
            self._terminal = event
            _wake(self._end_waiters)
        _wake(self._readers)

    def acknowledge(self, n: int) -> None:
        """Drops the events up to and with `n`. Numbers from before, or not yet told, do nothing."""
        while self._acknowledged_n < min(n, self._last_n):
            self._acknowledged_n += 1
            self._held_bytes -= len(self._lines.pop(self._acknowledged_n))
        if self.has_room_now():
            _wake(self._writers)

    def require(self, after: int) -> None:
        """Raises `ExecutionForgotten` where events after `after` were acknowledged, so are gone."""
        if after < self._acknowledged_n:
            self._instead_of(after)

    def has_room_now(self) -> bool:
        return self._held_bytes < self._limit_bytes

    async def has_room(self) -> None:
        """Returns when the unacknowledged events are below the bound."""
        while not self.has_room_now():
            await _wait(self._writers, timeout_s=None)

    async def read(self, after: int, *, heartbeat_s: float | None = None) -> AsyncIterator[Batch]:
        """The lines after event `after`, as they come; ends after the terminal event.

        With `heartbeat_s`, an empty batch is given whenever nothing was for so long. Raises
        `ExecutionForgotten` where the reader is overtaken by an acknowledgement.
        """
        if after == 0 and not self.ended:
            await _wait(self._end_waiters, LINGER_S)
        last = False
        while not last:
            if after < self._acknowledged_n:
                gap = self._instead_of(after)
                after = self._acknowledged_n
                yield Batch(gap, last=False)
            elif after < self._last_n:
                lines = self._lines_after(after)
                after += len(lines)
                last = self.ended and after == self._last_n
                yield Batch(b"".join(lines), last)
            elif self.ended:
                yield Batch(b"", last=True)
                return
            elif not await _wait(self._readers, heartbeat_s):
                yield Batch(b"", last=False)

    def _instead_of(self, after: int) -> bytes:
        """The line for a reader whose next events are gone, those up to `acknowledged_n`."""
        raise ExecutionForgotten(
            f"its events up to {self._acknowledged_n} were acknowledged, and are gone"
        )

    def _lines_after(self, after: int) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        for n in range(after + 1, self._last_n + 1):
            line = self._lines[n]
            if lines and size + len(line) > BATCH_LIMIT_BYTES:
                break
            lines.append(line)
            size += len(line)
        return lines


def error_of(fault: RuntimeFault) -> Error:
    """The terminal event of what ended by a fault, now."""
    return Error(timestamp=timestamp(), code=fault.code, error=fault.message, hint=fault.hint)


def timestamp() -> str:
    """Now, as events carry it: RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _wait(waiters: set[asyncio.Future[bool]], timeout_s: float | None) -> bool:
    """Whether it was woken, not timed out. Without a task: each command passes here."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()
    waiters.add(future)
    timer = loop.call_later(timeout_s, _resolve, future, False) if timeout_s is not None else None
    try:
        return await future
    finally:
        waiters.discard(future)
        if timer is not None:
            timer.cancel()


def _wake(waiters: set[asyncio.Future[bool]]) -> None:
    for future in waiters:
        _resolve(future, True)
    waiters.clear()


def _resolve(future: asyncio.Future[bool], woken: bool) -> None:
    if not future.done():
        future.set_result(woken)
