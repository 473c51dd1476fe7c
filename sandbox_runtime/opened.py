"""Opens what a path leads to, with the rights of the calling thread, but nothing of /proc.

A thread of the runtime that has the user's rights is still of the runtime's process: under
/proc/self the kernel gives it our memory, environment and descriptors. So links of /proc lead
nowhere here, and what lies on it is refused; then the very inode that was looked at is opened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SYS_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_STEP_NAMES = 15
"""Of a path that may be longer than Linux takes: as many names as always fit in one call."""

_PROC_SUPER_MAGIC = 0x9FA0

_STATFS_LONGS = 32
"""More than a struct statfs has; the first is the type of the file system."""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


@contextmanager
def entry(path: str, flags: int = 0) -> Iterator[int]:
    """A descriptor that stands for what is there and can neither read nor write (O_PATH)."""
    descriptor = open_entry(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def parent_of(path: str) -> Iterator[tuple[int, str]]:
    """The directory that a path's last name is in, and that name."""
    directory, name = split(path)
    with entry(directory, os.O_DIRECTORY) as descriptor:
        yield descriptor, name


def split(path: str) -> tuple[str, str]:
    """The directory and the name. Raises `OSError` where it does not end in a name."""
    directory, name = posixpath.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return directory, name


def open_entry(path: str, flags: int = 0) -> int:
    descriptor = _openat2(_AT_FDCWD, path, os.O_PATH | flags, _RESOLVE_NO_MAGICLINKS)
    try:
        _refuse_proc(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def reopen(descriptor: int, flags: int) -> int:
    """Opens what the descriptor stands for, in earnest."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


def open_below(directory: int, path: str, flags: int) -> int:
    """Opens what lies below a directory, however deep, through no link."""
    names = path.split("/")
    here = os.dup(directory)
    try:
        while len(names) > _STEP_NAMES:
            step, names = "/".join(names[:_STEP_NAMES]), names[_STEP_NAMES:]
            deeper = _below(here, step, os.O_PATH | os.O_DIRECTORY)
            os.close(here)
            here = deeper
        return _below(here, "/".join(names) or ".", flags)
    finally:
        os.close(here)


def make_directories(path: str, mode: int) -> int:
    """An O_PATH descriptor of the directory, which is made with its parents where it is not."""
    missing: list[str] = []
    while True:
        try:
            descriptor = open_entry(path, os.O_DIRECTORY)
            break
        except FileNotFoundError:
            path, name = posixpath.split(path.rstrip("/"))
            if name in ("", ".", ".."):
                raise
            missing.append(name)
    for name in reversed(missing):
        try:
            with suppress(FileExistsError):
                make_directory(name, mode, descriptor)
            child = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = child
    return descriptor


def make_directory(name: str, mode: int, directory: int) -> None:
    os.mkdir(name, mode, dir_fd=directory)
    # Our umask is another than the user's.
    os.chmod(name, mode, dir_fd=directory)


def _below(directory: int, path: str, flags: int) -> int:
    return _openat2(directory, path, flags, _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH)


def _openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(os.O_CLOEXEC | flags, 0, resolve)
    descriptor: int = _libc.syscall(
        _SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor


def _refuse_proc(descriptor: int, path: str) -> None:
    status = (ctypes.c_long * _STATFS_LONGS)()
    if _libc.fstatfs(descriptor, status) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    if status[0] == _PROC_SUPER_MAGIC:
        raise OSError(errno.EACCES, "what lies in /proc is for programs alone", path)
