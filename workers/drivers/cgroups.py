"""Makes the control groups of sandboxes: what each may use, and what is ended together.

<hierarchy>/coldframe/<owner>/<sandbox>/    both together: a broken runtime stays under it, too
    <container>/                            made by the engine: the runtime, with its own limits
    user/                                   what user code starts, with the limits asked for
        <job>/                              v2: made by the runtime, ended by `cgroup.kill`

User code is beside the runtime, not with it: a runtime that shares its group with a fork bomb
cannot start a thread, and is killed where memory runs out.

In v1 each controller has a hierarchy; a v2 that is mounted beside them (hybrid) has no controller,
and is there for `cgroup.kill`. Where v2 is all there is, one tree does all of it.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from workers.drivers.driver import RUNTIME_LIMITS, Limits

ROOT = Path("/sys/fs/cgroup")
UNIFIED = (ROOT / "unified", ROOT)
"""Where cgroup v2 is mounted: beside v1, or alone."""

LIMITING = ("memory", "pids", "cpu")
JOBS = "jobs"
COLDFRAME = "coldframe"
USER = "user"
KILL_DEADLINE_S = 10.0
CPU_PERIOD_US = 100_000

USER_CPU_SHARES = 64
USER_CPU_WEIGHT = 6
"""The runtime has 1024 shares, or a weight of 100: it comes first when both want a processor."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Hierarchies:
    """Those of this machine in which we can make groups."""

    jobs: Path | None = None
    """cgroup v2; None: what a job has started is looked for in /proc."""
    limiting: dict[str, Path] = field(default_factory=dict)
    """By controller; empty: user code shares the limits of its container."""

    @property
    def is_v2_alone(self) -> bool:
        return self.jobs in self.limiting.values()


def find_hierarchies() -> Hierarchies:
    """What can be used here, found by making a group in each."""
    jobs = next((mount for mount in UNIFIED if (mount / "cgroup.controllers").is_file()), None)
    if jobs is not None and not _can_make_groups(jobs):
        return Hierarchies()
    if jobs == ROOT:
        there = set((jobs / "cgroup.controllers").read_text().split())
        return Hierarchies(jobs, dict.fromkeys(LIMITING, jobs) if there >= set(LIMITING) else {})
    limiting = {name: ROOT / name for name in LIMITING if _can_make_groups(ROOT / name)}
    return Hierarchies(jobs, limiting if len(limiting) == len(LIMITING) else {})


class SandboxCgroups:
    """The groups of one node's sandboxes."""

    def __init__(self, hierarchies: Hierarchies, owner: str) -> None:
        self._hierarchies = hierarchies
        self._path = Path(COLDFRAME) / owner

    @property
    def kills(self) -> bool:
        """Whether a job ends with all that it has started, daemons too."""
        return self._hierarchies.jobs is not None

    @property
    def limits(self) -> bool:
        """Whether user code has limits of its own, apart from the runtime's."""
        return bool(self._hierarchies.limiting)

    def parent(self, sandbox_id: str) -> str:
        """The group to make the container's in, as the engine is told it."""
        return f"/{self._path}/{sandbox_id}"

    def create(self, sandbox_id: str, limits: Limits | None) -> dict[str, Path]:
        """Makes a sandbox's groups; those of its user by controller, and `jobs`, for its runtime.

        Without limits there is `jobs` alone. Raises `OSError`.
        """
        user = self._path / sandbox_id / USER
        hierarchies = self._hierarchies
        groups = {JOBS: hierarchies.jobs / user} if hierarchies.jobs else {}
        if limits is not None and not hierarchies.is_v2_alone:
            groups |= {name: mount / user for name, mount in hierarchies.limiting.items()}
        for group in groups.values():
            group.mkdir(parents=True, exist_ok=True)
        if limits is not None and hierarchies.limiting:
            if hierarchies.jobs and hierarchies.is_v2_alone:
                _pass_on_controllers(hierarchies.jobs, self._path / sandbox_id)
            self.set_limits(sandbox_id, limits)
        return groups

    def set_limits(self, sandbox_id: str, limits: Limits) -> None:
        """Also while it runs. Raises `OSError`, as where it uses more memory than it is to have."""
        is_v2 = self._hierarchies.is_v2_alone
        of_user = _files(limits, is_v2)
        of_both = _files(limits.with_those_of(RUNTIME_LIMITS), is_v2)
        for name, mount in self._hierarchies.limiting.items():
            both = mount / self._path / sandbox_id
            writes = [
                *((both / USER / file, value) for file, value in of_user[name].items()),
                *((both / file, value) for file, value in of_both[name].items()),
            ]
            first, value = next(iter(of_both[name].items()))
            # No child may have more than its parent, nor a limit without swap more than one with
            # it, not for a moment either: what shrinks goes from the inside, what grows from the
            # outside.
            if _number(value) > _number((both / first).read_text()):
                writes.reverse()
            for path, limit in writes:
                path.write_text(limit)
            if name == "cpu":
                file, share = ("weight", USER_CPU_WEIGHT) if is_v2 else ("shares", USER_CPU_SHARES)
                (both / USER / f"cpu.{file}").write_text(str(share))

    def freeze(self, sandbox_id: str, *, frozen: bool) -> None:
        """v2: the engine freezes the container's group, which user code is not in."""
        if self._hierarchies.jobs and self._hierarchies.is_v2_alone:
            group = self._hierarchies.jobs / self._path / sandbox_id / USER
            (group / "cgroup.freeze").write_text("1" if frozen else "0")

    def remove(self, sandbox_id: str) -> None:
        """Ends every process that is left in a sandbox's groups, then removes them."""
        deadline = time.monotonic() + KILL_DEADLINE_S
        for root in self._roots():
            _remove_group(root / sandbox_id, deadline)

    def sandboxes(self) -> set[str]:
        """Ids of the sandboxes that have a group here, one that was left behind among them."""
        groups = [path for root in self._roots() for path in root.iterdir() if path.is_dir()]
        return {group.name for group in groups}

    def leave(self) -> None:
        """Removes the node's own groups, where no sandbox is left in them."""
        for mount in _mounts():
            for group in (mount / self._path, mount / COLDFRAME):
                with suppress(OSError):  # It is not there, or another node's are in it.
                    group.rmdir()

    def _roots(self) -> list[Path]:
        """In all hierarchies: the engine makes parents of a container's group in others, too."""
        return [path for mount in _mounts() if (path := mount / self._path).is_dir()]


def _mounts() -> set[Path]:
    return {ROOT, *(path for path in ROOT.iterdir() if path.is_dir())} if ROOT.is_dir() else set()


def _files(limits: Limits, is_v2: bool) -> dict[str, dict[str, str]]:
    """By controller: the files of a group and what to write to them. Memory is without swap."""
    memory, pids = str(limits.memory_bytes), str(limits.pids)
    quota = int(limits.cpus * CPU_PERIOD_US)
    if is_v2:
        return {
            "memory": {"memory.max": memory, "memory.swap.max": "0"},
            "pids": {"pids.max": pids},
            "cpu": {"cpu.max": f"{quota} {CPU_PERIOD_US}"},
        }
    return {
        "memory": {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory},
        "pids": {"pids.max": pids},
        "cpu": {"cpu.cfs_quota_us": str(quota)},
    }


def _number(text: str) -> float:
    """What a limit's file says; none is infinite."""
    first = text.split()[0]
    return math.inf if first in ("max", "-1") else float(first)


def _can_make_groups(mount: Path) -> bool:
    try:
        (mount / COLDFRAME).mkdir(exist_ok=True)
    except OSError:
        return False
    return True


def _pass_on_controllers(mount: Path, path: Path) -> None:
    """v2: what is below a group can be limited where the group says so."""
    wanted = " ".join(f"+{name}" for name in LIMITING)
    for group in (mount, *(mount / parent for parent in reversed(path.parents[:-1])), mount / path):
        (group / "cgroup.subtree_control").write_text(wanted)


def _remove_group(group: Path, deadline: float) -> None:
    while group.is_dir():
        try:
            kill = group / "cgroup.kill"
            if kill.exists():  # v1 has none: there it is the container's end that kills.
                kill.write_text("1")
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
