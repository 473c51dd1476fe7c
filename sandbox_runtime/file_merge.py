"""Puts what was unpacked beside its place into it: all of it, or nothing that cannot all be put."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sandbox_runtime.protocol.errors import ArchiveRefused

_ALLOWED = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)


def merge(source: Path, target: Path) -> None:
    """Takes `source` away. What is in the way of something is replaced; a directory is added to.

    Raises `ArchiveRefused`, before anything was done, where something is no file, directory or
    link, where it would replace a directory, or add to one that may not be written to.
    """
    source.chmod(stat.S_IRWXU)  # The archive may have given it another mode.
    _check_kinds(source)
    _check_way(source, target)
    _move(source, target)
    source.rmdir()


def _check_kinds(source: Path) -> None:
    waiting = [source]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except PermissionError as error:
            raise ArchiveRefused("a directory in it may not be read by its owner") from error
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if not any(is_allowed(mode) for is_allowed in _ALLOWED):
                raise ArchiveRefused(f"{entry.name} is no file, directory or link")
            if stat.S_ISDIR(mode):
                waiting.append(Path(entry.path))


def _check_way(source: Path, target: Path) -> None:
    if not os.access(target, os.W_OK | os.X_OK):
        raise ArchiveRefused(f"{target.name} may not be written to")
    for inner in source.iterdir():
        there = target / inner.name
        if not _is_directory(there):
            continue
        if not _is_directory(inner):
            raise ArchiveRefused(f"there is a directory where {inner.name} is to be")
        _check_way(inner, there)


def _move(source: Path, target: Path) -> None:
    for inner in source.iterdir():
        there = target / inner.name
        if not _is_directory(inner):
            inner.rename(there)
            continue
        mode = stat.S_IMODE(inner.stat().st_mode)
        inner.chmod(mode | stat.S_IRWXU)  # Else its own entries may not be moved.
        if _is_directory(there):
            _move(inner, there)
            inner.rmdir()
        else:
            there.unlink(missing_ok=True)
            inner.rename(there)
        there.chmod(mode)


def _is_directory(path: Path) -> bool:
    """Not a link to one."""
    return path.is_dir() and not path.is_symlink()
