"""Makes the control group in which a sandbox's user processes live.

The runtime puts each job's processes in a child of it, so that a job can be ended with all that it
started (`cgroup.kill`, which only cgroup v2 has). Where v2 is mounted beside v1 the limits are the
container's, by v1; where v2 is all there is, they are set here, since who moves to this group has
left the container's.
"""

from __future__ import annotations

import time
from pathlib import Path

import structlog

MOUNTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
KILL_DEADLINE_S = 10.0
LIMITED = ("cpu", "memory", "pids")
CPU_PERIOD_US = 100_000

log = structlog.get_logger(__name__)


def find_cgroup2() -> Path | None:
    """Where cgroup v2 is mounted and can be written to; None where it is not."""
    for mount in MOUNTS:
        if (mount / "cgroup.controllers").is_file():
            try:
                (mount / "coldframe").mkdir(exist_ok=True)
            except OSError:
                return None
            return mount
    return None


class SandboxCgroups:
    """The groups of one node's sandboxes: `<mount>/coldframe/<owner>/<sandbox>`."""

    def __init__(self, mount: Path, owner: str) -> None:
        self._root = mount / "coldframe" / owner
        self._root.mkdir(parents=True, exist_ok=True)
        self._controllers = (mount / "cgroup.controllers").read_text().split()
        wanted = " ".join(
            f"+{name}" for name in ("cpu", "memory", "pids") if name in self._controllers
        )
        if wanted:
            for group in (mount, mount / "coldframe", self._root):
                (group / "cgroup.subtree_control").write_text(wanted)

    def create(self, sandbox_id: str, *, cpus: float, memory_bytes: int, pids: int) -> Path:
        group = self._root / sandbox_id
        group.mkdir(exist_ok=True)
        if "memory" in self._controllers:
            (group / "memory.max").write_text(str(memory_bytes))
        if "pids" in self._controllers:
            (group / "pids.max").write_text(str(pids))
        if "cpu" in self._controllers:
            quota = int(cpus * CPU_PERIOD_US)
            (group / "cpu.max").write_text(f"{quota} {CPU_PERIOD_US}")
        return group

    def remove(self, sandbox_id: str) -> None:
        """Ends every process in the group, then removes it with its children."""
        group = self._root / sandbox_id
        if not group.is_dir():
            return
        deadline = time.monotonic() + KILL_DEADLINE_S
        while True:
            try:
                (group / "cgroup.kill").write_text("1")
                for child in sorted(group.rglob("*"), reverse=True):
                    if child.is_dir():
                        child.rmdir()
                group.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                # A killed process leaves its group a moment later.
                if time.monotonic() > deadline:
                    log.warning("control group stays", group=str(group), error=str(error))
                    return
                time.sleep(0.005)
            else:
                return

    def sandboxes(self) -> set[str]:
        """Ids of the sandboxes that have a group here, one that was left behind among them."""
        return {path.name for path in self._root.iterdir() if path.is_dir()}

    def leave(self) -> None:
        """Removes the node's own group, where no sandbox is left in it."""
        for group in (self._root, self._root.parent):
            try:
                group.rmdir()
            except OSError:
                return
