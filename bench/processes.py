"""Finds the platform's processes on this machine and what memory they take, from /proc."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
RUNTIME_MODULE = "sandbox_runtime"
CELERY_PROGRAMS = ("worker", "beat", "flower")

_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_OPEN_FILES = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PlatformProcess:
    """One process of web, worker, beat, Flower or the relay."""

    program: str
    pid: int
    parent_pid: int


def platform_processes(state_dir: Path) -> list[PlatformProcess]:
    """Those that were started for this state directory and that we may look at."""
    found = []
    for pid in _pids():
        environment = environment_of(pid)
        if environment.get("COLDFRAME_STATE_DIR") == str(state_dir):
            program = program_of(_arguments(pid))
            if program is not None:
                found.append(PlatformProcess(program, pid, _parent(pid)))
    return found


def program_of(arguments: list[str]) -> str | None:
    """Which of the platform's programs a command line starts; None: none of them."""
    if any("gunicorn" in argument for argument in arguments[:3]):
        return "web"
    if any(Path(argument).name == "celery" for argument in arguments[:3]):
        return next((name for name in CELERY_PROGRAMS if name in arguments), None)
    if arguments[1:3] == ["-m", "relay"]:
        return "relay"
    return None


def runtime_pid(init_pid: int) -> int | None:
    """The runtime below a container's first process; None where it cannot be seen."""
    parents = {pid: _parent(pid) for pid in _pids()}
    for pid in _descendants(init_pid, parents):
        if RUNTIME_MODULE in _arguments(pid):
            return pid
    return None


def environment_of(pid: int) -> dict[str, str]:
    """Empty where the process has ended or is somebody else's."""
    entries = _read(pid, "environ").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def pss_kib(pid: int) -> int | None:
    """Its share of the memory that it uses (pages used by n processes count 1/n); None: gone."""
    return parse_pss_kib(_read(pid, "smaps_rollup"))


def peak_rss_kib(pid: int) -> int | None:
    """None: gone."""
    found = _PEAK.search(_read(pid, "status"))
    return None if found is None else int(found.group(1))


def parse_pss_kib(text: str) -> int | None:
    found = _PSS.search(text)
    return None if found is None else int(found.group(1))


def open_files_limit(pid: int) -> int:
    """0 where it cannot be told."""
    found = _OPEN_FILES.search(_read(pid, "limits"))
    return 0 if found is None else int(found.group(1))


def _descendants(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    for child, parent in parents.items():
        if parent == pid:
            yield child
            yield from _descendants(child, parents)


def _pids() -> list[int]:
    return sorted(int(path.name) for path in PROC.iterdir() if path.name.isdecimal())


def _arguments(pid: int) -> list[str]:
    return _read(pid, "cmdline").rstrip("\0").split("\0")


def _parent(pid: int) -> int:
    # The name before it stands in brackets and may hold spaces and brackets itself.
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text(errors="replace")
    except OSError:
        return ""
