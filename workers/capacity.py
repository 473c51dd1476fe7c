"""What a node's machine has, and whether there is room for another sandbox."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

MEBIBYTE = 1024 * 1024

_MEMINFO = Path("/proc/meminfo")


class Capacity(NamedTuple):
    """Of the whole machine: others may use it, too."""

    cpus: int
    memory_mb: int
    memory_free_mb: int
    disk_mb: int
    disk_free_mb: int


class Room(NamedTuple):
    """How much a node takes before it takes no more."""

    sandboxes: int
    memory_reserve_mb: int
    disk_reserve_mb: int

    def lacking(self, capacity: Capacity, sandboxes: int) -> str:
        """Why there is no room for another sandbox, for a person; empty where there is."""
        if sandboxes >= self.sandboxes:
            return f"{sandboxes} sandboxes are here, as many as may be"
        if capacity.memory_free_mb < self.memory_reserve_mb:
            return f"{capacity.memory_free_mb} MB of memory are free"
        if capacity.disk_free_mb < self.disk_reserve_mb:
            return f"{capacity.disk_free_mb} MB of disk are free"
        return ""


def capacity_of(state_dir: Path, meminfo: Path = _MEMINFO) -> Capacity:
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())

    def mb(name: str) -> int:
        return int(lines[name].split()[0]) // 1024

    disk = shutil.disk_usage(state_dir)
    return Capacity(
        cpus=os.cpu_count() or 1,
        memory_mb=mb("MemTotal"),
        memory_free_mb=mb("MemAvailable"),
        disk_mb=disk.total // MEBIBYTE,
        disk_free_mb=disk.free // MEBIBYTE,
    )
