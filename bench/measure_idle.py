"""Measures what idle sandboxes take of their node's memory."""

from __future__ import annotations

from pathlib import Path

from bench.report import Part, Row, Unit, single
from bench.site import Site
from bench.summary import summarise

GROUP = "Memory of each of many idle sandboxes"
EXPECTED_MIB = 32
"""For a first guess how many there is room for: half of the free memory is left alone."""

_CGROUPS = Path("/sys/fs/cgroup")
_USED = ("memory.usage_in_bytes", "memory.current")  # v1 and v2


def measure_idle(site: Site) -> Part:
    if not site.processes:
        return Part(left_out=("idle sandboxes: the platform runs on another machine",))
    before_mib = _available_mib()
    count = min(site.sizes.idle_sandboxes, int(before_mib / 2 / EXPECTED_MIB))
    sandboxes = [site.sandboxes.make(site.api) for _ in range(count)]
    try:
        taken_mib = (before_mib - _available_mib()) / count
        in_groups = [mib for sandbox in sandboxes if (mib := _group_mib(sandbox.id)) is not None]
    finally:
        for sandbox in sandboxes:
            site.sandboxes.remove(sandbox.name)
    name = f"one of {count}, of the node's available memory"
    rows = [Row(GROUP, name, single(taken_mib), Unit.MIB)]
    if in_groups:
        rows.append(Row(GROUP, "as its control group counts", summarise(in_groups), Unit.MIB))
    return Part(rows=tuple(rows))


def _available_mib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kib) / 1024


def _group_mib(sandbox_id: str) -> float | None:
    """Runtime and user code together; None where there is no such group."""
    for used in _USED:
        for pattern in ("memory/coldframe", "coldframe"):
            for path in _CGROUPS.glob(f"{pattern}/*/{sandbox_id}/{used}"):
                return int(path.read_text()) / 2**20
    return None
