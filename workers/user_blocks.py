"""Gives each sandbox a block of users that no other sandbox of its node has.

What the kernel counts by user (inotify instances, pipes, message queues, processes) it counts for
all containers together: sandboxes that shared a user could use it up for each other.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox_runtime.protocol.requests import USERS, user_name

FIRST_USER = 200_000
"""Above the users that a machine has itself."""

HOME = "/home/sandbox"

_FILE = "users"


@dataclass(frozen=True)
class UserBlock:
    """The users of one sandbox's code: `size` ids from `first` on, with one group."""

    first: int
    group: int
    size: int = 1

    def passwd(self) -> str:
        """An /etc/passwd. Users but the first have groups of their own in it, though not in fact.

        So the first's group counts as private to it, as ssh demands of who may write to its files.
        """
        lines = [
            "root:x:0:0:root:/root:/bin/sh",
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
            *(f"{name}:x:{uid}:{gid}::{HOME}:/bin/bash" for name, uid, gid in self._entries()),
        ]
        return "".join(f"{line}\n" for line in lines)

    def group_file(self) -> str:
        """An /etc/group."""
        lines = [
            "root:x:0:",
            "nogroup:x:65534:",
            *(f"{name}:x:{gid}:" for name, _, gid in self._entries()),
        ]
        return "".join(f"{line}\n" for line in lines)

    def _entries(self) -> Iterator[tuple[str, int, int]]:
        for number in range(self.size):
            yield user_name(number), self.first + number, self.group + number


def claim(directory: Path) -> UserBlock:
    """The block that a sandbox's directory has; where it has none, a free one, for good.

    It is taken for as long as there is the directory, whatever else is in it.
    """
    with _locked(directory.parent):
        first = _first_of(directory)
        if first is None:
            taken = {_first_of(other) for other in directory.parent.iterdir()}
            first = next(user for user in itertools.count(FIRST_USER, USERS) if user not in taken)
            # A link, for it is there with what it says or not at all.
            (directory / _FILE).symlink_to(str(first))
    return UserBlock(first, group=first, size=USERS)


def _first_of(directory: Path) -> int | None:
    try:
        return int(os.readlink(directory / _FILE))  # noqa: PTH115 - it is no path
    except (OSError, ValueError):
        return None


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Between threads, too: each opens the directory for itself."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
