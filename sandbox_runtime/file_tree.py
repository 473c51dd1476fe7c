"""Walks trees of files and looks into them. Links are not followed, and no depth is too deep."""

from __future__ import annotations

import codecs
import fnmatch
import os
import posixpath
import re
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice

import msgspec

from sandbox_runtime.file_answers import cursor_of, described, text_of
from sandbox_runtime.file_work import Found, look_in
from sandbox_runtime.opened import entry, open_below, reopen
from sandbox_runtime.protocol.files import (
    FileEntry,
    FileFind,
    FileFindings,
    FileList,
    FileListing,
    FileMatch,
    FileMatches,
    FileSearch,
)

MAX_LINE_BYTES = 1024 * 1024
"""A longer line is searched in parts."""

MAX_SHOWN_CHARS = 500

MAX_ANSWER_CHARS = 4 * 1024 * 1024
"""Paths and lines in one answer."""

SNIFFED_BYTES = 8192


def list_tree(path: str, order: FileListing, *, after: str) -> FileList:
    files: list[FileEntry] = []
    size, last = 0, ""
    for below, found in _in_order(path, hidden=order.hidden, after=after, limit=order.limit + 1):
        if len(files) == order.limit or size > MAX_ANSWER_CHARS:
            return FileList(files=files, next_cursor=cursor_of(last))
        whole = posixpath.join(path, below)
        shown_path, _ = text_of(below)
        files.append(msgspec.structs.replace(described(found, whole), relative_path=shown_path))
        size += len(whole) + len(below)
        last = below
    return FileList(files=files)


def find(path: str, order: FileFind) -> FileFindings:
    files: list[FileEntry] = []
    size = 0
    for below, found in walk(path, hidden=order.hidden):
        if not matches(order.pattern, below):
            continue
        whole = posixpath.join(path, below)
        one = described(found, whole)
        if order.type is not None and one.type is not order.type:
            continue
        size += len(whole)
        if len(files) == order.limit or size > MAX_ANSWER_CHARS:
            return FileFindings(files, truncated=True)
        files.append(one)
    return FileFindings(files, truncated=False)


def search(path: str, order: FileSearch) -> FileMatches:
    """Raises `re.error`."""
    wanted = order.text if order.regex else re.escape(order.text)
    expression = re.compile(wanted, re.IGNORECASE if order.ignore_case else 0)
    matches: list[FileMatch] = []
    size = 0
    for whole, file in text_files(path, pattern=order.pattern, hidden=order.hidden):
        shown_path, path_base64 = text_of(whole)
        for number, line in _lines(file):
            match = expression.search(line)
            if match is None:
                continue
            start = max(match.start() - MAX_SHOWN_CHARS // 2, 0)
            shown = line[start : start + MAX_SHOWN_CHARS] if len(line) > MAX_SHOWN_CHARS else line
            size += len(shown) + len(whole)
            if len(matches) == order.limit or size > MAX_ANSWER_CHARS:
                return FileMatches(matches, truncated=True)
            matches.append(
                FileMatch(
                    path=shown_path,
                    line=number,
                    column=match.start() + 1,
                    text=shown,
                    path_base64=path_base64,
                )
            )
    return FileMatches(matches, truncated=False)


def walk(
    path: str,
    *,
    hidden: bool,
    looks_at: Callable[[str], bool] = lambda _: True,
    deep: bool = True,
) -> Iterator[tuple[str, Found]]:
    """What is below a directory, each with its path from there.

    Directories that may not be read, or have gone meanwhile, are passed over, but for the first;
    so is what `looks_at` says no of.
    """
    with _readable(path) as root:
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            deeper = []
            for found in _entries(root, directory, hidden=hidden):
                below = posixpath.join(directory, found.name)
                if not looks_at(below):
                    continue
                if deep and stat.S_ISDIR(found.status.st_mode):
                    deeper.append(below)
                yield below, found
            waiting += reversed(deeper)


def _in_order(path: str, *, hidden: bool, after: str, limit: int) -> Iterator[tuple[str, Found]]:
    """The same, each directory before what is in it: `limit` at least, from behind `after` on."""
    last = after.split("/") if after else []
    with _readable(path) as root:
        waiting: list[tuple[str, Found | None]] = [("", None)]
        while waiting:
            below, found = waiting.pop()
            parts = below.split("/") if below else []
            leads_to_last = last[: len(parts)] == parts
            if found is not None:
                if not leads_to_last:
                    yield below, found
                if not stat.S_ISDIR(found.status.st_mode):
                    continue
            first = last[len(parts)] if leads_to_last and len(parts) < len(last) else ""
            with closing(_entries(root, below, hidden=hidden, first=first)) as entries:
                # No more than can be asked for, and the one that was the last.
                nearest = list(islice(entries, limit + 1))
            waiting += [(posixpath.join(below, one.name), one) for one in reversed(nearest)]


@contextmanager
def _readable(path: str) -> Iterator[int]:
    """A descriptor that stands for the directory. Raises where it may not be read."""
    with entry(path, os.O_DIRECTORY) as root:
        os.close(reopen(root, os.O_RDONLY | os.O_DIRECTORY))
        yield root


def _entries(
    root: int, directory: str, *, hidden: bool, first: str = ""
) -> Generator[Found, None, None]:
    """By name, from `first` on; none where it may not be read or has gone."""
    try:
        descriptor = open_below(root, directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        with os.scandir(descriptor) as entries:
            names = sorted(one.name for one in entries if one.name >= first)
        for name in names:
            if name.startswith(".") and not hidden:
                continue
            found = look_in(descriptor, name)
            if found is not None:
                yield found
    finally:
        os.close(descriptor)


def text_files(path: str, *, pattern: str, hidden: bool) -> Iterator[tuple[str, int]]:
    """The text files at a path or below it, open: those without a NUL where they begin."""
    with entry(path) as found:
        mode = os.fstat(found).st_mode
        if not stat.S_ISDIR(mode):
            yield from _opened_file(path, reopen(found, os.O_RDONLY | os.O_NONBLOCK))
            return
        for below, one in walk(path, hidden=hidden):
            if not stat.S_ISREG(one.status.st_mode) or not matches(pattern, below):
                continue
            try:
                file = open_below(found, below, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue  # It may not be read, or has gone.
            yield from _opened_file(posixpath.join(path, below), file)


def _opened_file(path: str, file: int) -> Iterator[tuple[str, int]]:
    try:
        is_file = stat.S_ISREG(os.fstat(file).st_mode)
        if is_file and b"\x00" not in os.pread(file, SNIFFED_BYTES, 0):
            yield path, file
    finally:
        os.close(file)


def _lines(file: int) -> Iterator[tuple[int, str]]:
    number, at_start = 0, True
    with open(file, "rb", closefd=False) as lines:
        while raw := lines.readline(MAX_LINE_BYTES):
            number += at_start
            at_start = raw.endswith(b"\n")
            yield number, codecs.decode(raw, "utf-8", "replace").rstrip("\r\n")


def matches(pattern: str, below: str) -> bool:
    """Of the name; where the pattern has a slash, of the path below the directory."""
    return fnmatch.fnmatchcase(below if "/" in pattern else posixpath.basename(below), pattern)
