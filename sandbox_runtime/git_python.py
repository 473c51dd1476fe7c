"""GitPython, imported without running git: root imports it, and is to run nothing of the user's."""

from __future__ import annotations

import os
import re

# On import GitPython runs git. Where there is none, it is content for now.
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
os.environ["GIT_PYTHON_GIT_EXECUTABLE"] = "/nonexistent"

import git
from git.exc import CommandError, GitCommandNotFound

__all__ = ["CommandError", "GitRefused", "find_git", "git", "words_of"]


class GitRefused(Exception):
    """Git cannot do it. `code` is that of a runtime fault, `words` are git's own."""

    def __init__(self, code: str, words: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.words = words


def find_git() -> None:
    """To be called by the user's process. Raises `GitRefused`."""
    try:
        git.refresh()
    except GitCommandNotFound:
        raise GitRefused("git_missing") from None


def words_of(error: CommandError) -> str:
    """What git wrote; GitPython gives it quoted, with headings."""
    parts = (str(part or "") for part in (error.stdout, error.stderr))
    return "\n".join(re.sub(r"^\s*std(?:out|err): '|'$", "", part) for part in parts).strip()
