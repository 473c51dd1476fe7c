"""The memory of a process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def rss_mb(pid: int) -> float:
    return _mb(pid, "VmRSS")


def peak_rss_mb(pid: int) -> float:
    """The most that it ever had."""
    return _mb(pid, "VmHWM")


def _mb(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024
