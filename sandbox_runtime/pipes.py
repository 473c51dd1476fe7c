"""Reads what programs write, as fast as it may be kept and no faster."""

from __future__ import annotations

import asyncio
import os

from sandbox_runtime.output import Output
from sandbox_runtime.protocol.events import Stream

READ_BYTES = 64 * 1024
"""What a pipe holds unless it is made to hold more."""

PIPE_LIMIT_BYTES = 1024 * 1024
"""What a user can make a pipe hold: so much at most was written before the command ended."""

DISCARD_PAUSE_S = 0.01
"""Between two reads of output that nobody wants, so that it costs next to nothing."""


class PipeReader:
    """Reads one pipe into an execution's output, while the output has room.

    It owns the descriptor, which must not block.
    """

    def __init__(self, descriptor: int, stream: Stream, output: Output) -> None:
        self._descriptor = descriptor
        self._stream = stream
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._wait: asyncio.Task[None] | None = None
        self._loop.add_reader(descriptor, self._read)

    def finish(self) -> bool:
        """Takes what is in the pipe; then closes it, if nobody has it open for writing any more.

        Else (False) it is read until then, and what is read is dropped: a program that was left
        behind must not be stopped by a full pipe. What it writes meanwhile is not waited for.
        """
        self._stop()
        left = PIPE_LIMIT_BYTES  # Room in the journal or not: it is little.
        while left > 0:
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                os.close(self._descriptor)
                return True
            self._output.write(self._stream, data)
            left -= len(data)
        self._drop_when_readable()
        return False

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._stop()
            return
        self._output.write(self._stream, data)
        if not self._output.has_room_now():
            self._stop()
            self._wait = self._loop.create_task(self._go_on_with_room())

    async def _go_on_with_room(self) -> None:
        await self._output.has_room()
        self._loop.add_reader(self._descriptor, self._read)

    def _drop(self) -> None:
        self._loop.remove_reader(self._descriptor)
        try:
            ended = not os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            ended = False
        if ended:
            os.close(self._descriptor)
        else:
            self._loop.call_later(DISCARD_PAUSE_S, self._drop_when_readable)

    def _drop_when_readable(self) -> None:
        self._loop.add_reader(self._descriptor, self._drop)

    def _stop(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._wait is not None:
            self._wait.cancel()
