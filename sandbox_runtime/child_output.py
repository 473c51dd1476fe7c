"""Reads what programs print that have a kernel's own stdout or stderr."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import struct
import termios
from collections.abc import Iterator

from sandbox_runtime.delegate_messages import Printed
from sandbox_runtime.protocol.events import Stream

READ_BYTES = 64 * 1024

DISCARD_PAUSE_S = 0.01
"""Between two reads of output that belongs to no cell."""

C_INT = struct.Struct("i")


class ChildOutput:
    """What programs print that have the kernel's own stdout or stderr. It owns the descriptor."""

    def __init__(self, descriptor: int, stream: Stream, arrived: asyncio.Event) -> None:
        self._descriptor = descriptor
        self._stream = stream
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_heard = False
        self._loop.add_reader(descriptor, self._notice)

    def listen(self) -> None:
        """What comes from now on belongs to a cell."""
        self._read()
        self._decoder.reset()
        self._is_heard = True

    def ignore(self) -> None:
        self._is_heard = False
        self._discard()

    def take(self) -> Iterator[Printed]:
        """What is there now."""
        for data in self._read():
            if text := self._decoder.decode(data):
                yield Printed(stream=self._stream, data=text)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> list[bytes]:
        """What is there now, not what is written meanwhile: that could be without an end."""
        if self._descriptor < 0:
            return []
        pieces: list[bytes] = []
        (left,) = C_INT.unpack(fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(C_INT.size)))
        try:
            while not pieces or left > 0:
                data = os.read(self._descriptor, READ_BYTES)
                pieces.append(data)
                left -= len(data)
                if not data:
                    self.close()
                    return pieces
        except BlockingIOError:
            pass
        self._loop.add_reader(self._descriptor, self._notice)
        return pieces

    def _notice(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._is_heard:
            self._arrived.set()
        else:
            # A program that was left behind must not be stopped by a full pipe.
            self._loop.call_later(DISCARD_PAUSE_S, self._discard)

    def _discard(self) -> None:
        if self._is_heard:
            self._arrived.set()
        else:
            self._read()
