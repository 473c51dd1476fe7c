"""Knows a process again, so that a pid that was given to another program is never taken for it."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENDED_STATES = frozenset("ZX")  # a zombie has ended: only its parent has not asked yet


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A pid is used again, but not at the same tick of the same boot."""

    pid: int
    started_ticks: int
    """When it started, in clock ticks since the machine's boot."""
    boot_id: str

    @property
    def is_running(self) -> bool:
        return identify(self.pid) == self

    def end(self, *, grace_s: float) -> None:
        """SIGTERM, after `grace_s` SIGKILL; then what is left of the session that it led."""
        with _handle(self) as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                if not _ends_within(handle, grace_s):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    _ends_within(handle, grace_s)
                _kill_session(self.pid)

    def kill(self) -> None:
        """SIGKILL for this process alone, at once; back when it has ended."""
        with _handle(self) as handle:
            if handle is not None:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ends_within(handle, timeout_s=10.0)


def identify(pid: int) -> ProcessIdentity | None:
    """None: there is no such process, or it has ended."""
    fields = _stat_fields(pid)
    if fields is None or fields[0] in _ENDED_STATES:
        return None
    boot_id = _BOOT_ID.read_text().strip()
    return ProcessIdentity(pid=pid, started_ticks=int(fields[19]), boot_id=boot_id)


@contextmanager
def _handle(identity: ProcessIdentity) -> Iterator[int | None]:
    """A pidfd of just this process; None: it has ended. Signals sent by it can hit no other."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Looked at after the open: from here on the pid cannot change hands under us.
        yield handle if identity.is_running else None
    finally:
        os.close(handle)


def _ends_within(handle: int, timeout_s: float) -> bool:
    ready, _, _ = select.select([handle], [], [], timeout_s)
    return bool(ready)


def _kill_session(session_id: int) -> None:
    """Ends what a session's leader left behind, such as gunicorn's children after a SIGKILL.

    The kernel gives a pid to nobody while a session bears it as its name.
    """
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal() or int(directory.name) == session_id:
            continue
        fields = _stat_fields(int(directory.name))
        if fields is not None and int(fields[3]) == session_id:
            try:
                os.kill(int(directory.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _stat_fields(pid: int) -> list[str] | None:
    """/proc/<pid>/stat from the state on (proc(5) counts it as the third field)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name before it stands in brackets and may hold spaces and brackets itself.
    return text.rpartition(")")[2].split()
