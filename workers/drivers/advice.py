"""Says what of a node's engine and kernel an operator should mend."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ENGINE_FLOOR = (20, 10, 18)
"""CVE-2022-36109: before it, a container's programs kept groups that they should not have."""

RUNC_FLOOR = (1, 2, 8)
"""CVE-2025-31133, -52565, -52881: before it, mounts could be led out of a container as it starts.
CVE-2024-21626, an open descriptor that leads out, was mended in 1.1.12."""

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
"""Where it is not 1, packets between two containers on a bridge pass no rule."""


def of_engine(info: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[str]:
    """`info` is the engine's answer of that name; `versions` are of `Engine`, `runc` and so on."""
    for name, floor in (("Engine", ENGINE_FLOOR), ("runc", RUNC_FLOOR)):
        version = versions.get(name, "")
        if _numbers(version) < floor:
            wanted = ".".join(map(str, floor))
            yield (
                f"{name} {version or 'of no known version'} is older than {wanted}: known ways out "
                "of a container are open, unless your distribution has mended them"
            )
    if not info.get("LiveRestoreEnabled"):
        yield "live-restore is off: a restart of the engine ends all sandboxes"
    if not any("seccomp" in option for option in info.get("SecurityOptions") or []):
        yield "the engine filters no system calls: the runtime's own filter is all there is"


def of_kernel(core_pattern: Path = CORE_PATTERN) -> Iterator[str]:
    if _first_line(core_pattern).startswith("|"):
        yield (
            "kernel.core_pattern is a pipe: a crash in a sandbox starts that program as root on "
            "the node; set it to a file's name"
        )


def bridges_are_filtered(bridge_filter: Path = BRIDGE_FILTER) -> bool:
    """Whether packets between two sandboxes on one bridge pass the firewall's rules."""
    return _first_line(bridge_filter) == "1"


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, match.groups())) if match else ()


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
