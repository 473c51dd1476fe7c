"""What requests about files may say. Their answers are the runtime's, field by field."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sandbox_runtime.protocol.files import FileType, Limit, Mode, Patterns
from sandbox_runtime.protocol.requests import Encoding
from web.schemas import SessionName
from workers.contract.sandboxes import DEFAULT_SESSION


class FileQuery(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """Which file; a relative path is looked for where the session's shell is."""

    path: str
    path_encoding: Encoding = Encoding.UTF8
    """Of all paths in the request: base64 for names that are not UTF-8."""
    session: SessionName = DEFAULT_SESSION


class FileWriteQuery(FileQuery, frozen=True, kw_only=True):
    """Where a file is written to, if its content is the body."""

    append: bool = False
    mode: Mode | None = None


class FileDeleteQuery(FileQuery, frozen=True, kw_only=True):
    """What to delete."""

    recursive: bool = False
    """Without it, a directory is refused."""


class FileListQuery(FileQuery, frozen=True, kw_only=True):
    """Which directory, and from where on."""

    recursive: bool = False
    """Also what is below, links not followed: each directory before what is in it."""
    hidden: bool = False
    limit: Limit = 1000
    cursor: str | None = None


class FileFindQuery(FileQuery, frozen=True, kw_only=True):
    """Which names, below which directory."""

    pattern: str
    """As `*.py`, of the name; with a slash, of the path below the directory."""
    type: FileType | None = None
    hidden: bool = False
    limit: Limit = 1000


class FileSearchQuery(FileQuery, frozen=True, kw_only=True):
    """What to look for, in which files."""

    text: Annotated[str, Meta(min_length=1)]
    regex: bool = False
    """`text` is a regular expression, as Python has them."""
    ignore_case: bool = False
    pattern: str = "*"
    """Of the files, as in `FileFindQuery`."""
    hidden: bool = False
    limit: Limit = 1000


class FileReplaceRequest(FileQuery, frozen=True, kw_only=True):
    """What to replace by what, in which files."""

    text: Annotated[str, Meta(min_length=1)]
    replacement: str
    regex: bool = False
    """`text` is a regular expression as Python has them, of the whole file, where `^` and `$` are
    a line's; `replacement` may name its groups, as `\\1`."""
    ignore_case: bool = False
    pattern: str = "*"
    """Of the files, as in `FileFindQuery`."""
    hidden: bool = False


class FileArchiveQuery(FileQuery, frozen=True, kw_only=True):
    """Which directory."""

    gzip: bool = False


class FileWatchQuery(FileQuery, frozen=True, kw_only=True):
    """Which directory; patterns are as in `FileFindQuery`, with commas between them."""

    recursive: bool = True
    include: Patterns | None = None
    """Names that are told of; left out: all."""
    exclude: Patterns | None = None
    """Names that are not, with what is below them. Give this or `include`."""


class FileCheckQuery(FileWatchQuery, frozen=True, kw_only=True):
    """As to watch, and what was there before."""

    since: Annotated[str, Meta(max_length=200)] = ""
    """The `version` that an earlier check told."""


class FileCheck(msgspec.Struct, frozen=True):
    """Whether anything has changed."""

    status: Literal["unchanged", "changed", "resync"]
    """`resync`: `since` is none of our versions; look at all of it."""
    version: str


class FileStatQuery(FileQuery, frozen=True, kw_only=True):
    """Which entry."""

    follow: bool = False
    """Of a symbolic link, tell of what it leads to."""


class DirectoryRequest(FileQuery, frozen=True, kw_only=True):
    """A directory to make."""

    recursive: bool = False
    """Parents are made, too, and it may be there."""


class FileMoveRequest(FileQuery, frozen=True, kw_only=True):
    """What goes where. A file that is there is replaced."""

    to: str


class FileModeRequest(FileQuery, frozen=True, kw_only=True):
    """A mode in octal, as `0644`."""

    mode: Mode


class FileContent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to write, in JSON."""

    content: str
    encoding: Encoding = Encoding.UTF8
    append: bool = False
    mode: Mode | None = None


class FileView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A file with its content: base64 where that is no text."""

    path: str
    content: str
    encoding: Encoding
    size: int
    mime_type: str
    modified_at: str
