"""Watches a directory and what is below it: what the kernel tells becomes what has changed.

What is watched is listed, too, so that a file that comes with a new directory is told of once, and
one that is put in another's place as a change of that.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sandbox_runtime import inotify
from sandbox_runtime.file_answers import text_of
from sandbox_runtime.file_tree import matches, walk
from sandbox_runtime.file_work import TEMPORARY
from sandbox_runtime.inotify import Happening, Inotify
from sandbox_runtime.opened import open_entry
from sandbox_runtime.protocol.errors import FileMissing, TooManyWatches
from sandbox_runtime.protocol.files import ChangeKind, FileChange, FileVersion, FileWatch

_MASK = (
    inotify.CREATE
    | inotify.MODIFY
    | inotify.ATTRIB
    | inotify.DELETE
    | inotify.MOVED_FROM
    | inotify.MOVED_TO
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
    | inotify.ONLY_DIRECTORIES
)

MAX_READS = 4
"""Of all that the kernel holds at once: what comes without end is told in parts."""

_KERNELS = {Path(path).stat().st_dev for path in ("/proc", "/sys") if Path(path).exists()}
"""File systems without files."""

_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT


class Filter:
    """Which names are told of."""

    def __init__(self, order: FileWatch) -> None:
        self._include = _patterns(order.include)
        self._exclude = _patterns(order.exclude)

    def looks_at(self, below: str) -> bool:
        """Whether it, or what is below it, may be told of."""
        return not posixpath.basename(below).startswith(TEMPORARY) and not any(
            matches(pattern, below) for pattern in self._exclude
        )

    def tells_of(self, below: str) -> bool:
        """Of what it looks at."""
        return not self._include or any(matches(pattern, below) for pattern in self._include)


class _Change(NamedTuple):
    kind: ChangeKind
    below: str
    is_directory: bool
    source: str | None = None


class Changes:
    """What happened in a short while, each path's brought together."""

    def __init__(self) -> None:
        self._all: list[_Change | None] = []
        self._last: dict[str, int] = {}

    def __iter__(self) -> Iterator[_Change]:
        return (change for change in self._all if change is not None)

    def create(self, below: str, is_directory: bool) -> None:
        if self._withdraw(below, ChangeKind.DELETE) and not is_directory:
            self._add(_Change(ChangeKind.MODIFY, below, is_directory))
        else:
            self._add(_Change(ChangeKind.CREATE, below, is_directory))

    def modify(self, below: str, is_directory: bool) -> None:
        before = self._before(below)
        if before is None or before.kind not in (ChangeKind.CREATE, ChangeKind.MODIFY):
            self._add(_Change(ChangeKind.MODIFY, below, is_directory))

    def delete(self, below: str, is_directory: bool) -> None:
        if not self._withdraw(below, ChangeKind.CREATE):
            self._withdraw(below, ChangeKind.MODIFY)
            self._add(_Change(ChangeKind.DELETE, below, is_directory))

    def move(self, source: str, below: str, is_directory: bool) -> None:
        if self._withdraw(source, ChangeKind.CREATE):
            self.create(below, is_directory)
        else:
            self._last.pop(source, None)
            self._add(_Change(ChangeKind.MOVE, below, is_directory, source))

    def _before(self, below: str) -> _Change | None:
        place = self._last.get(below)
        return None if place is None else self._all[place]

    def _withdraw(self, below: str, kind: ChangeKind) -> bool:
        """Takes back what is told of this path last, where that is of this kind."""
        before = self._before(below)
        if before is None or before.kind is not kind:
            return False
        self._all[self._last.pop(below)] = None
        return True

    def _add(self, change: _Change) -> None:
        self._last[change.below] = len(self._all)
        self._all.append(change)


class _Directory:
    """One that is watched, with the names in it, and whether they are directories."""

    def __init__(self, below: str) -> None:
        self.below = below
        self.names: dict[str, bool] = {}


class Watch:
    """From its start on, nothing that changes is missed, or it is said that something was."""

    def __init__(self, path: str, order: FileWatch) -> None:
        """Raises `OSError`, `TooManyWatches`."""
        self._path = path
        # Nothing of /proc. It is not kept open: the kernel would not tell of its end.
        os.close(open_entry(path, os.O_DIRECTORY))
        self._order = order
        self._filter = Filter(order)
        self._begin()

    def fileno(self) -> int:
        return self._inotify.fileno()

    def take(self) -> list[FileChange] | None:
        """What has changed since this was last asked; None where that is not known.

        Raises `FileMissing` where the directory itself has gone.
        """
        changes = Changes()
        moved: dict[int, tuple[str, bool]] = {}
        for _ in range(MAX_READS):
            for one in self._inotify.read():
                if one.mask & inotify.QUEUE_OVERFLOW:
                    self._inotify.close()
                    self._begin()
                    return None
                self._take(one, changes, moved)
        for below, is_directory in moved.values():  # To somewhere else.
            self._vanish(below, is_directory, changes)
        return [self._told(one) for one in changes if self._is_told(one)]

    def _begin(self) -> None:
        self._directories: dict[int, _Directory] = {}
        self._watches: dict[str, int] = {}
        self._inotify = _started()
        for _ in self._enter(""):
            pass

    def _take(self, one: Happening, changes: Changes, moved: dict[int, tuple[str, bool]]) -> None:
        directory = self._directories.get(one.watch)
        if directory is None:
            return
        if one.mask & _GONE and directory.below == "":
            raise FileMissing("The directory has gone.")
        if one.mask & inotify.IGNORED:
            del self._directories[one.watch]
            if self._watches.get(directory.below) == one.watch:
                del self._watches[directory.below]
            return
        below = posixpath.join(directory.below, one.name)
        if not one.name or (one.mask & _GONE):
            return
        is_directory = bool(one.mask & inotify.IS_DIRECTORY)
        existed = one.name in directory.names
        if one.mask & (inotify.MOVED_FROM | inotify.DELETE):
            directory.names.pop(one.name, None)
        else:
            directory.names[one.name] = is_directory
        if not self._filter.looks_at(below):
            if one.mask & inotify.MOVED_TO and one.cookie in moved:
                self._vanish(*moved.pop(one.cookie), changes)
        elif one.mask & inotify.MOVED_FROM:
            moved[one.cookie] = (below, is_directory)
        elif one.mask & inotify.MOVED_TO:
            self._arrive(moved.pop(one.cookie, None), below, is_directory, existed, changes)
        elif one.mask & inotify.DELETE and existed:
            self._vanish(below, is_directory, changes)
        elif one.mask & inotify.CREATE and not existed:
            self._appear(below, is_directory, changes)
        elif one.mask & (inotify.MODIFY | inotify.ATTRIB) and existed:
            changes.modify(below, is_directory)

    def _arrive(
        self,
        source: tuple[str, bool] | None,
        below: str,
        is_directory: bool,
        existed: bool,
        changes: Changes,
    ) -> None:
        if source is not None:
            changes.move(source[0], below, is_directory)
            if is_directory:
                self._rename(source[0], below)
        elif existed and not is_directory:
            changes.modify(below, is_directory)
        else:
            self._appear(below, is_directory, changes)

    def _appear(self, below: str, is_directory: bool, changes: Changes) -> None:
        changes.create(below, is_directory)
        if is_directory and self._order.recursive:
            for inner, inner_is_directory in self._enter(below):
                changes.create(inner, inner_is_directory)

    def _vanish(self, below: str, is_directory: bool, changes: Changes) -> None:
        changes.delete(below, is_directory)
        if is_directory:
            for inner in self._at_or_below(below):
                watch = self._watches.pop(inner)
                self._directories.pop(watch, None)
                self._inotify.forget(watch)

    def _rename(self, source: str, below: str) -> None:
        for inner in self._at_or_below(source):
            watch = self._watches.pop(inner)
            renamed = below + inner[len(source) :]
            self._directories[watch].below = renamed
            self._watches[renamed] = watch

    def _at_or_below(self, below: str) -> list[str]:
        return [one for one in self._watches if one == below or one.startswith(f"{below}/")]

    def _enter(self, below: str) -> Iterator[tuple[str, bool]]:
        """Watches a directory, and what is below it; gives what it finds in there.

        Raises `OSError` of the first, `TooManyWatches`; what may not be read is passed over.
        """
        waiting = [below]
        while waiting:
            here = waiting.pop()
            path = posixpath.join(self._path, here)
            try:
                if here and Path(path).stat().st_dev in _KERNELS:
                    continue
                watch = self._inotify.watch(path, _MASK | (inotify.DONT_FOLLOW if here else 0))
                # Before it is listed: what comes in between is told twice, not never.
                directory = self._directories[watch] = _Directory(here)
                self._watches[here] = watch
                with os.scandir(path) as entries:
                    directory.names = {one.name: _is_directory(one) for one in entries}
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise TooManyWatches("No more directories can be watched.") from error
                if not here:
                    raise
                continue
            for name, is_directory in directory.names.items():
                inner = posixpath.join(here, name)
                if not self._filter.looks_at(inner):
                    continue
                yield inner, is_directory
                if is_directory and self._order.recursive:
                    waiting.append(inner)

    def _is_told(self, change: _Change) -> bool:
        return self._filter.tells_of(change.below) or (
            change.source is not None and self._filter.tells_of(change.source)
        )

    def _told(self, change: _Change) -> FileChange:
        path, path_base64 = text_of(posixpath.join(self._path, change.below))
        source, source_base64 = (
            (None, None)
            if change.source is None
            else text_of(posixpath.join(self._path, change.source))
        )
        return FileChange(
            change=change.kind,
            path=path,
            is_directory=change.is_directory,
            from_path=source,
            path_base64=path_base64,
            from_path_base64=source_base64,
        )


def version(path: str, order: FileWatch) -> FileVersion:
    """Of all that would be told of: names, kinds, sizes, times."""
    seen = hashlib.blake2b(digest_size=16)
    filters = Filter(order)
    for below, found in walk(path, hidden=True, looks_at=filters.looks_at, deep=order.recursive):
        if filters.tells_of(below):
            status = found.status
            about = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
            seen.update(os.fsencode(below) + repr((about, status.st_ctime_ns)).encode() + b"\0")
    return FileVersion(version=seen.hexdigest())


def _started() -> Inotify:
    """Raises `TooManyWatches`."""
    try:
        return Inotify()
    except OSError as error:
        raise TooManyWatches("No more directories can be watched.") from error


def _is_directory(found: os.DirEntry[str]) -> bool:
    try:
        return found.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _patterns(text: str | None) -> list[str]:
    return [] if text is None else [one.strip() for one in text.split(",") if one.strip()]
