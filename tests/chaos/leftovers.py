"""Finds what a platform has left on its machine: nothing may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.engine import Engine
from tests.platform import NODE
from workers.drivers.driver import owner_of

CGROUPS = Path("/sys/fs/cgroup")


def of_sandboxes(state_dir: Path, engine: Engine) -> Iterator[str]:
    """Containers, directories, mounts and groups of sandboxes, loop devices and processes."""
    owner = owner_of(state_dir, NODE)
    client = engine.client()
    label = f"coldframe.owner={owner}"
    for container in client.containers.list(
        all=True, filters={"label": label}, ignore_removed=True
    ):
        yield f"container {container.name} ({container.status})"
    client.close()
    sandboxes = state_dir / "sandboxes"
    yield from (f"directory {path}" for path in sorted(sandboxes.glob("*")))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if f"{sandboxes}/" in line:
            yield f"mount {line.split()[4]}"
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if str(sandboxes) in file.read_text():
                yield f"loop device {file}"
    for root in (CGROUPS, *CGROUPS.iterdir()):
        yield from (f"group {path}" for path in (root / "coldframe" / owner).glob("*/"))
    yield from _processes(f"coldframe/{owner}/", "cgroup")


def of_programs(state_dir: Path) -> Iterator[str]:
    """Processes of the platform itself."""
    yield from _processes(f"COLDFRAME_STATE_DIR={state_dir}", "environ")


def _processes(sign: str, file: str) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if sign in (process / file).read_text(errors="replace").split("\0" * 2)[0]:
                command = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
                yield f"process {process.name} ({command.strip()[:80]})"
