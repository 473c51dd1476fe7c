"""What the runtime can be asked about files, as the sandbox's user.

    GET    /files                query FileRead → 200 or 206, the bytes, a single `Range` heeded;
                                 MODIFIED_HEADER and Content-Type tell of the file
    PUT    /files                query FileWrite, body: the bytes → FileEntry
    DELETE /files                query FileDeletion → 204
    GET    /files/list           query FileListing → FileList
    GET    /files/find           query FileFind → FileFindings; ends when the caller leaves
    GET    /files/search         query FileSearch → FileMatches; the same
    GET    /files/archive        query FileArchive → 200, a tar archive of a directory
    PUT    /files/archive        query FilePlace, body: a tar archive, also compressed → 204
    GET    /files/stat           query FileStat → FileEntry
    GET    /files/exists         query FilePlace → FileExistence
    POST   /files/mkdir          body DirectoryCreation → FileEntry
    POST   /files/rename         body FileMove → FileEntry
    POST   /files/move           body FileMove → FileEntry
    POST   /files/chmod          body FileMode → FileEntry
    POST   /files/replace        body FileReplace → FileReplacements
    GET    /files/watch          query FileWatch → 200, application/x-ndjson: `FileWatchEvent`s,
                                 and an empty line every HEARTBEAT_S
    GET    /files/version        query FileWatch → FileVersion; ends when the caller leaves

A path is absolute, or relative to where the session's shell is. Names of files are bytes: what is
not UTF-8 is U+FFFD in an answer's `name`, `path` and `target`, and beside it `nameBase64`,
`pathBase64` or `targetBase64` has it exactly; a request gives such paths in base64, and says so by
`pathEncoding`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from sandbox_runtime.protocol.events import Error
from sandbox_runtime.protocol.requests import USERS, Encoding

MAX_PATH_BYTES = 4095
"""Linux's own bound."""

MAX_LISTED = 10_000
"""Entries of one answer; `nextCursor` leads to the next."""

MODIFIED_HEADER = "Coldframe-Modified-At"

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LISTED)]

Mode = Annotated[str, msgspec.Meta(pattern=r"^[0-7]{3,4}$(?!\n)")]
"""Octal, as `0644`."""


Patterns = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class FileType(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


class FilePlace(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    path: str
    path_encoding: Encoding = Encoding.UTF8
    """Of all paths in the request."""
    session: str = "default"
    cwd: str = ""
    """Where the session's shell would start, if none runs."""
    user: Annotated[int, msgspec.Meta(ge=0, lt=USERS)] = 0
    """The session's."""


class FileRead(FilePlace, frozen=True):
    pass


class FileWrite(FilePlace, frozen=True):
    """Parent directories are made. The file is there as a whole or not at all, unless `append`."""

    append: bool = False
    mode: Mode | None = None
    """None: as it was; of a new file, as the umask leaves it."""


class FileDeletion(FilePlace, frozen=True):
    recursive: bool = False
    """Without it, a directory is refused."""


class FileListing(FilePlace, frozen=True):
    """By name, in the order of code points."""

    recursive: bool = False
    """Also what is below, links not followed: each directory before what is in it."""
    hidden: bool = False
    limit: Limit = 1000
    cursor: str | None = None


class FileFind(FilePlace, frozen=True):
    """Below a directory, links not followed; each directory's entries before what is below them."""

    pattern: str
    """As `*.py`, of the name; with a slash, of the path below the directory."""
    type: FileType | None = None
    hidden: bool = False
    limit: Limit = 1000


class FileSearch(FilePlace, frozen=True):
    """In the text files below a directory, or in one file, line by line."""

    text: str
    regex: bool = False
    """`text` is a regular expression, as Python has them."""
    ignore_case: bool = False
    pattern: str = "*"
    """Of the files, as in `FileFind`."""
    hidden: bool = False
    limit: Limit = 1000


class FileReplace(FilePlace, frozen=True):
    """In the text files below a directory, or in one file; each is replaced as a whole."""

    text: str
    replacement: str
    regex: bool = False
    """`text` is a regular expression as Python has them, of the whole file, where `^` and `$` are
    a line's; `replacement` may name its groups, as `\\1`."""
    ignore_case: bool = False
    pattern: str = "*"
    """Of the files, as in `FileFind`."""
    hidden: bool = False


class FileArchive(FilePlace, frozen=True):
    gzip: bool = False


class FileWatch(FilePlace, frozen=True):
    """A directory, and what is below it, links not followed."""

    recursive: bool = True
    include: Patterns | None = None
    """Of the names that are told of, as in `FileFind`, with commas between them."""
    exclude: Patterns | None = None
    """Of names that are not; nor is what is below them looked at."""


class FileStat(FilePlace, frozen=True):
    follow: bool = False
    """Of a symbolic link, tell of what it leads to."""


class DirectoryCreation(FilePlace, frozen=True):
    recursive: bool = False
    """Parents are made, too, and it may be there."""


class FileMove(FilePlace, frozen=True):
    """A file at `to` is replaced. Moved, and `to` is a directory: into it."""

    to: str


class FileMode(FilePlace, frozen=True):
    mode: Mode


class FileEntry(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    name: str
    path: str
    type: FileType
    size: int
    mode: str
    modified_at: str
    target: str | None = None
    """Of a symbolic link."""
    relative_path: str | None = None
    """From the directory that was listed, where that was recursive."""
    name_base64: str | None = None
    path_base64: str | None = None
    target_base64: str | None = None


class FileList(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    files: list[FileEntry]
    next_cursor: str | None = None


class FileFindings(msgspec.Struct, frozen=True):
    files: list[FileEntry]
    truncated: bool


class FileMatch(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    path: str
    line: int
    column: int
    """Both from 1; in characters."""
    text: str
    """The line, or as much of it as comes with the first match in it."""
    path_base64: str | None = None


class FileMatches(msgspec.Struct, frozen=True):
    matches: list[FileMatch]
    truncated: bool


class FileReplacement(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True
):
    path: str
    count: int
    """How often the text was replaced."""
    path_base64: str | None = None


class FileNotReplaced(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True
):
    """A file that may have the text, and is as it was."""

    path: str
    code: str
    message: str
    path_base64: str | None = None


class FileReplacements(msgspec.Struct, frozen=True):
    files: list[FileReplacement]
    failed: list[FileNotReplaced]
    truncated: bool
    """More was done than is told of here; nothing is left undone but what failed."""


class FileExistence(msgspec.Struct, frozen=True):
    exists: bool


class ChangeKind(StrEnum):
    CREATE = "create"
    MODIFY = "modify"
    """Its content, its mode or its times; or another was put in its place."""
    DELETE = "delete"
    MOVE = "move"


class _WatchEvent(
    msgspec.Struct,
    frozen=True,
    rename="camel",
    kw_only=True,
    omit_defaults=True,
    tag_field="type",
):
    timestamp: str = ""


class Watching(_WatchEvent, frozen=True, tag="watching"):
    """The first: what changes from now on is told."""

    path: str


class FileChange(_WatchEvent, frozen=True, tag="change"):
    """What happened to a file in a short while, told once."""

    change: ChangeKind
    path: str
    is_directory: bool
    from_path: str | None = None
    """Where it was before it was moved."""
    path_base64: str | None = None
    from_path_base64: str | None = None


class ChangesLost(_WatchEvent, frozen=True, tag="overflow"):
    """There was more than could be told; look again at all of it."""


FileWatchEvent = Watching | FileChange | ChangesLost | Error
"""`Error` is the last, where there is one: the directory has gone, or can be watched no more."""


class FileVersion(msgspec.Struct, frozen=True):
    version: str
    """Another as soon as anything below the directory is."""
