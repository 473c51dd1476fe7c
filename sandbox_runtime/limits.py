"""Puts the user's programs under the sandbox's limits, and counts who was killed by them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sandbox_runtime.settings import Settings

MEMORY_FILES = (
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),  # v1
    ("memory.max", "memory.current"),  # v2
)

READ_BYTES = 4096
"""More than the files that count are long."""


class UserLimits:
    """The control groups that limit all of the user's programs together.

    In cgroup v2 they are above the groups of the jobs; in v1 each program joins them besides.
    """

    def __init__(self, settings: Settings) -> None:
        self._groups = [*settings.limits, *([settings.cgroup] if settings.cgroup else [])]
        flags = os.O_WRONLY | os.O_CLOEXEC
        self._members = [os.open(group / "cgroup.procs", flags) for group in settings.limits]
        counters = [group / "memory.oom_control" for group in settings.limits]  # v1
        if settings.cgroup is not None:
            counters.append(settings.cgroup / "memory.events")  # v2
        self._counter = next((_open(path) for path in counters if path.is_file()), None)

    def join(self) -> None:
        """Puts the calling process, just forked, under the limits."""
        for members in self._members:
            os.pwrite(members, b"0", 0)

    def memory_room(self) -> int:
        """Bytes that the user's programs may still take; very many where nothing limits them."""
        return min((_room(group) for group in self._groups), default=sys.maxsize)

    def kills(self) -> int:
        """How many programs were killed because memory ran out. Cheap: each execution asks."""
        if self._counter is None:
            return 0
        for line in os.pread(self._counter, READ_BYTES, 0).splitlines():
            name, _, number = line.partition(b" ")
            if name == b"oom_kill":
                return int(number)
        return 0


def _room(group: Path) -> int:
    for limit, usage in MEMORY_FILES:
        try:
            most = (group / limit).read_text().strip()
            taken = (group / usage).read_text()
        except OSError:
            continue
        return sys.maxsize if most == "max" else int(most) - int(taken)
    return sys.maxsize


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
