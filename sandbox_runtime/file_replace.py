"""Replaces text in files, each of which is the old or the new at any moment."""

from __future__ import annotations

import re

from sandbox_runtime.file_answers import fault_of, text_of
from sandbox_runtime.file_tree import MAX_ANSWER_CHARS, text_files
from sandbox_runtime.file_work import Replacement
from sandbox_runtime.protocol.errors import FileTooLong, RuntimeFault
from sandbox_runtime.protocol.files import (
    MAX_LISTED,
    FileNotReplaced,
    FileReplace,
    FileReplacement,
    FileReplacements,
)

MAX_FILE_BYTES = 16 * 1024 * 1024

_UMASK = 0o077
"""For a file that went while it was read, and comes back: of others the mode is kept."""


def replace(path: str, order: FileReplace) -> FileReplacements:
    """Raises `re.error`; for a path that is one file, what is wrong with that as `RuntimeFault`."""
    flags = re.MULTILINE | (re.IGNORECASE if order.ignore_case else 0)
    expression = re.compile(order.text if order.regex else re.escape(order.text), flags)
    template = order.replacement if order.regex else order.replacement.replace("\\", r"\\")
    files: list[FileReplacement] = []
    failed: list[FileNotReplaced] = []
    size, truncated = 0, False
    for whole, file in text_files(path, pattern=order.pattern, hidden=order.hidden):
        shown_path, path_base64 = text_of(whole)
        one: FileReplacement | FileNotReplaced
        try:
            count = _replace_in(whole, file, expression, template)
            if not count:
                continue
            one = FileReplacement(path=shown_path, count=count, path_base64=path_base64)
        except RuntimeFault as fault:
            if whole == path:
                raise
            one = FileNotReplaced(
                path=shown_path, code=fault.code, message=fault.message, path_base64=path_base64
            )
        size += len(whole)
        if len(files) + len(failed) == MAX_LISTED or size > MAX_ANSWER_CHARS:
            truncated = True
        elif isinstance(one, FileReplacement):
            files.append(one)
        else:
            failed.append(one)
    return FileReplacements(files, failed, truncated)


def _replace_in(path: str, file: int, expression: re.Pattern[str], template: str) -> int:
    """How often; the file is not touched where that is never. Raises `RuntimeFault`."""
    try:
        with open(file, "rb", closefd=False) as content:
            raw = content.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise FileTooLong(f"The file has more than {MAX_FILE_BYTES} bytes.")
        new, count = _replaced(raw.decode("utf-8", "surrogateescape"), expression, template)
        if count:
            data = new.encode("utf-8", "surrogateescape")
            Replacement(path, data, mode=None, umask=_UMASK).finish()
        return count
    except OSError as error:
        raise fault_of(error.errno or 0, error.strerror or str(error)) from error


def _replaced(text: str, expression: re.Pattern[str], template: str) -> tuple[str, int]:
    """As `Pattern.subn`, but bounded: a replacement may be long, and its matches many."""
    pieces: list[str] = []
    size, at, count = len(text), 0, 0
    for match in expression.finditer(text):
        new = match.expand(template)
        pieces += (text[at : match.start()], new)
        size += len(new) - len(match[0])
        if size > MAX_FILE_BYTES:
            raise FileTooLong(f"The file would have more than {MAX_FILE_BYTES} bytes.")
        at = match.end()
        count += 1
    pieces.append(text[at:])
    return "".join(pieces), count
