"""Keeps the newest of what a process prints, and says what is gone."""

from __future__ import annotations

import asyncio

from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.events import (
    Numbered,
    RuntimeEvent,
    Stderr,
    Stdout,
    Stream,
    Truncated,
)
from sandbox_runtime.protocol.processes import ProcessLogs

BURST_BYTES = 1024 * 1024
"""Of encoded events: what a process may print before the runtime looks at something else."""

PAUSE_S = 0.02
"""After each burst: a process that prints without end costs the runtime little."""


class RollingJournal(Journal):
    """A journal that nobody acknowledges: its oldest events go where there are too many."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._dropped_bytes = 0
        self._dropped_stream = ""
        self._burst_bytes = 0

    @property
    def text(self) -> ProcessLogs:
        """What is kept, by stream."""
        streams: dict[type[RuntimeEvent], list[str]] = {Stdout: [], Stderr: []}
        for numbered in codec.LineDecoder().feed(b"".join(self._lines.values())):
            if isinstance(numbered.event, Stdout | Stderr):
                streams[type(numbered.event)].append(numbered.event.data)
        return ProcessLogs(
            stdout="".join(streams[Stdout]),
            stderr="".join(streams[Stderr]),
            truncated=self._dropped_bytes > 0,
        )

    def append(self, event: RuntimeEvent) -> None:
        super().append(event)
        self._burst_bytes += len(self._lines[self.last_n])
        self.keep(self._limit_bytes)

    def keep(self, limit_bytes: int) -> None:
        """From now on no more than so many bytes; but the last event stays whatever its size."""
        self._limit_bytes = limit_bytes
        while self._held_bytes > limit_bytes and self.acknowledged_n + 1 < self.last_n:
            (dropped,) = codec.LineDecoder().feed(self._lines[self.acknowledged_n + 1])
            if isinstance(dropped.event, Stdout | Stderr):
                stdout = isinstance(dropped.event, Stdout)
                self._dropped_stream = Stream.STDOUT if stdout else Stream.STDERR
                self._dropped_bytes += len(dropped.event.data.encode())
            self.acknowledge(self.acknowledged_n + 1)

    def has_room_now(self) -> bool:
        return self._burst_bytes < BURST_BYTES

    async def has_room(self) -> None:
        await asyncio.sleep(PAUSE_S)
        self._burst_bytes = 0

    def _instead_of(self, after: int) -> bytes:
        gap = Truncated(
            timestamp=timestamp(), stream=self._dropped_stream, dropped_bytes=self._dropped_bytes
        )
        return codec.encode_line(Numbered(self.acknowledged_n, gap))
