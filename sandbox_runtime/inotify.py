"""The kernel's inotify: what happens in directories, told as it happens."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

MODIFY = 0x002
ATTRIB = 0x004
MOVED_FROM = 0x040
MOVED_TO = 0x080
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
QUEUE_OVERFLOW = 0x4000
IGNORED = 0x8000
ONLY_DIRECTORIES = 0x01000000
DONT_FOLLOW = 0x02000000
IS_DIRECTORY = 0x40000000

READ_BYTES = 256 * 1024

_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Happening(NamedTuple):
    """One thing that the kernel told."""

    watch: int
    mask: int
    cookie: int
    """The same for the two sides of a move."""
    name: str


class Inotify:
    """One queue of the kernel's. It is charged to the user who makes it."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        self._descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def watch(self, path: str, mask: int) -> int:
        """Raises `OSError`: `ENOSPC` where the user watches as much as he may."""
        return _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask))

    def forget(self, watch: int) -> None:
        """Fine where the kernel has let go of it already."""
        _libc.inotify_rm_watch(self._descriptor, watch)

    def read(self) -> Iterator[Happening]:
        """What has happened; nothing where nothing has."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            yield Happening(watch, mask, cookie, os.fsdecode(name))


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
