"""Reads and changes files with the rights of the calling thread, whose umask plays no part.

All raises `OSError`, and nothing here waits for more than a disk.
"""

from __future__ import annotations

import errno
import heapq
import os
import posixpath
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox_runtime.opened import (
    entry,
    make_directories,
    make_directory,
    parent_of,
    reopen,
    split,
)

PIECE_BYTES = 256 * 1024

TEMPORARY = ".coldframe-"
"""Begins the name of what is being written."""

MAX_LINKS = 40
"""From one link to the next, as Linux itself follows."""


@dataclass(frozen=True)
class Found:
    """An entry of a directory, as it is: not what a link leads to."""

    name: str
    status: os.stat_result
    target: str | None = None


@dataclass(frozen=True)
class Opened:
    """A file to be read, and its first bytes. Who has it closes it."""

    descriptor: int
    status: os.stat_result
    head: bytes

    def close(self) -> None:
        os.close(self.descriptor)


def open_file(path: str) -> Opened:
    with entry(path) as found:
        _check_file(os.fstat(found).st_mode, path)
        descriptor = reopen(found, os.O_RDONLY)
    try:
        # The status of what is read, not of what was looked at: it may have grown meanwhile.
        return Opened(descriptor, os.fstat(descriptor), os.pread(descriptor, PIECE_BYTES, 0))
    except BaseException:
        os.close(descriptor)
        raise


def look(path: str, *, follow: bool) -> Found:
    with entry(path, 0 if follow else os.O_NOFOLLOW) as found:
        status = os.fstat(found)
        target = os.readlink("", dir_fd=found) if stat.S_ISLNK(status.st_mode) else None
    return Found(posixpath.basename(path.rstrip("/")) or "/", status, target)


def look_in(directory: int, name: str) -> Found | None:
    """An entry of a directory that is open; None where it has gone meanwhile."""
    try:
        status = _status_of(name, directory)
        is_link = stat.S_ISLNK(status.st_mode)
        return Found(name, status, os.readlink(name, dir_fd=directory) if is_link else None)
    except FileNotFoundError:
        return None


def exists(path: str) -> bool:
    try:
        with entry(path):
            return True
    except OSError:
        return False


def list_directory(path: str, *, hidden: bool, limit: int, after: str) -> tuple[list[Found], bool]:
    """Up to `limit` entries whose names come after `after`, and whether there are more."""
    with entry(path, os.O_DIRECTORY) as found:
        directory = reopen(found, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(directory) as entries:
            # A directory may have more entries than memory should hold.
            names = heapq.nsmallest(
                limit + 1,
                (
                    one.name
                    for one in entries
                    if one.name > after and (hidden or not one.name.startswith("."))
                ),
            )
        listed = [one for name in names[:limit] if (one := look_in(directory, name)) is not None]
    finally:
        os.close(directory)
    return listed, len(names) > limit


def create_directory(path: str, *, recursive: bool, umask: int) -> None:
    mode = 0o777 & ~umask
    if recursive:
        os.close(make_directories(path, mode))
        return
    with parent_of(path) as (directory, name):
        make_directory(name, mode, directory)


def delete_file(path: str) -> None:
    with parent_of(path) as (directory, name):
        if stat.S_ISDIR(_status_of(name, directory).st_mode):
            raise _error(errno.EISDIR, path)
        os.unlink(name, dir_fd=directory)


def rename(path: str, to: str) -> Found:
    """What is at `to` now; the path itself may have led through what was moved."""
    with parent_of(path) as (directory, name), parent_of(to) as (to_directory, to_name):
        os.rename(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory)
        moved = look_in(to_directory, to_name)
    if moved is None:
        raise _error(errno.ENOENT, to)
    return moved


def moved_path(path: str, to: str) -> str:
    """Where `path` is moved to: into `to`, where that is a directory."""
    try:
        with entry(to, os.O_DIRECTORY):
            return posixpath.join(to, split(path)[1])
    except OSError as error:
        # A link to itself is no directory, either, and is replaced like another.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) or to.endswith("/"):
            raise
        return to


def change_mode(path: str, mode: int) -> None:
    with entry(path) as found:
        # No descriptor of this kind can be changed itself; this is the same inode.
        Path(f"/proc/self/fd/{found}").chmod(mode)


def append(path: str, data: bytes, *, mode: int | None, umask: int) -> int:
    """The descriptor of the file, made with its parents where it was not, `data` behind it."""
    descriptor = _open_for_appending(path, mode, umask)
    try:
        write_all(descriptor, data)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Replacement:
    """A file that is written beside the place where it is then put, all at once."""

    def __init__(self, path: str, data: bytes, *, mode: int | None, umask: int) -> None:
        """`mode`: None keeps that of the file that is replaced."""
        self._directory, self._name, old = _place_of(path, umask)
        self._temporary = TEMPORARY + secrets.token_hex(8)
        try:
            self._descriptor = os.open(
                self._temporary,
                os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC,
                0o600,
                dir_fd=self._directory,
            )
        except BaseException:
            os.close(self._directory)
            raise
        try:
            if mode is None:
                mode = 0o666 & ~umask if old is None else stat.S_IMODE(old.st_mode)
            os.fchmod(self._descriptor, mode)
            self.write(data)
        except BaseException:
            self.abandon()
            raise

    def write(self, data: bytes) -> None:
        write_all(self._descriptor, data)

    def finish(self) -> os.stat_result:
        """Puts it into its place, or abandons it."""
        try:
            status = os.fstat(self._descriptor)
            os.rename(
                self._temporary,
                self._name,
                src_dir_fd=self._directory,
                dst_dir_fd=self._directory,
            )
        except BaseException:
            self.abandon()
            raise
        self._close()
        return status

    def abandon(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._directory)
        self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        os.close(self._directory)


def _place_of(path: str, umask: int) -> tuple[int, str, os.stat_result | None]:
    """The directory, made where it is not, the name in it, and the file that is there.

    A link is not replaced but followed, as a program would that writes to it.
    """
    for _ in range(MAX_LINKS):
        if path.endswith("/"):
            raise _error(errno.EISDIR, path)
        parent, name = split(path)
        directory = make_directories(parent, 0o777 & ~umask)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                _check_writable(name, directory, status.st_mode, path)
                return directory, name, status
            path = posixpath.join(parent, os.readlink(name, dir_fd=directory))
        except FileNotFoundError:
            return directory, name, None
        except BaseException:
            os.close(directory)
            raise
        os.close(directory)
    raise _error(errno.ELOOP, path)


def _check_writable(name: str, directory: int, mode: int, path: str) -> None:
    """To replace a file takes no right to it, but to write to it does."""
    _check_file(mode, path)
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory))
    except OSError as error:
        if error.errno != errno.ETXTBSY:  # A program that runs; it keeps what it has.
            raise


def _open_for_appending(path: str, mode: int | None, umask: int) -> int:
    directory, name, old = _place_of(path, umask)
    try:
        if old is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        descriptor = os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        if mode is not None or old is None:
            os.fchmod(descriptor, 0o666 & ~umask if mode is None else mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _status_of(name: str, directory: int) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _check_file(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise _error(errno.EISDIR, path)
    if not stat.S_ISREG(mode):
        raise _error(errno.ENXIO, path)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
