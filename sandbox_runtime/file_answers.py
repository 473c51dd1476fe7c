"""Says what files are, and what is wrong with them, as the protocol has it."""

from __future__ import annotations

import base64
import errno
import os
import stat
from datetime import UTC, datetime

from sandbox_runtime.file_work import Found
from sandbox_runtime.protocol.errors import (
    DirectoryNotEmpty,
    DiskFull,
    FileExists,
    FileFault,
    FileMissing,
    IsDirectory,
    NameInvalid,
    NotADirectory,
    NotAFile,
    PermissionDenied,
    RuntimeFault,
)
from sandbox_runtime.protocol.files import FileEntry, FileType

FAULTS: dict[int, type[RuntimeFault]] = {
    errno.ENOENT: FileMissing,
    errno.EEXIST: FileExists,
    errno.EISDIR: IsDirectory,
    errno.ENOTDIR: NotADirectory,
    errno.ENOTEMPTY: DirectoryNotEmpty,
    errno.ENXIO: NotAFile,
    errno.ENAMETOOLONG: NameInvalid,
    errno.EINVAL: NameInvalid,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.EBUSY: PermissionDenied,
    errno.ELOOP: PermissionDenied,
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
}

_FILE_TYPES = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.SYMLINK,
}


def fault_of(number: int, words: str) -> RuntimeFault:
    return FAULTS.get(number, FileFault)(f"{words[:1].upper()}{words[1:]}.")


def modified_at(status: os.stat_result) -> str:
    """RFC 3339, in UTC."""
    try:
        moment = datetime.fromtimestamp(status.st_mtime, UTC)
    except (OverflowError, ValueError, OSError):  # A file's time can be any number.
        moment = datetime.max if status.st_mtime > 0 else datetime.min
    return f"{moment.isoformat(timespec='microseconds')[:26]}Z"


def described(found: Found, path: str) -> FileEntry:
    status = found.status
    name, name_base64 = text_of(found.name)
    shown_path, path_base64 = text_of(path)
    target, target_base64 = (None, None) if found.target is None else text_of(found.target)
    return FileEntry(
        name=name,
        path=shown_path,
        type=_FILE_TYPES.get(stat.S_IFMT(status.st_mode), FileType.OTHER),
        size=status.st_size,
        mode=f"{stat.S_IMODE(status.st_mode):04o}",
        modified_at=modified_at(status),
        target=target,
        name_base64=name_base64,
        path_base64=path_base64,
        target_base64=target_base64,
    )


def cursor_of(path: str) -> str:
    """Stands for the place in a list behind this entry."""
    return base64.b64encode(os.fsencode(path)).decode()


def text_of(name: str) -> tuple[str, str | None]:
    """A name for JSON, and in base64 where it is none."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = os.fsencode(name)
        return raw.decode("utf-8", "replace"), base64.b64encode(raw).decode()
    return name, None
