"""Stops sandboxes that nobody uses, and removes those whose time is over.

Time is counted by the node's own monotonic clock, from when it first sees what it counts from: a
clock that jumps ends no sandbox early. A restarted worker begins to count idleness anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from workers.contract.errors import Fault
from workers.contract.sandboxes import Sandbox, SandboxState
from workers.contract.store import THERE, Activity, SandboxStore
from workers.drivers.driver import DriverFault
from workers.lifecycle import Sandboxes

IDLE = "idle"
EXPIRED = "expired"

LONGEST_STEP_S = 2.0
"""What one round adds to idleness at most: where it comes late, so may what would tell of use."""

log = structlog.get_logger(__name__)


class Watch(NamedTuple):
    """What was last seen of a sandbox, and when."""

    used: str
    at: float
    idle_s: float
    """For how long that is what was seen."""
    expires_at: str | None
    deadline: float | None


class Reaper:
    """One thread's: not to be shared."""

    def __init__(
        self,
        *,
        sandboxes: Sandboxes,
        records: SandboxStore,
        idle_timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sandboxes = sandboxes
        self._records = records
        self._idle_timeout_s = idle_timeout_s
        self._monotonic = monotonic
        self._wall = wall
        self._watched: dict[str, Watch] = {}

    def look(self) -> None:
        """One round. Raises `StoreUnavailable`."""
        sandboxes = self._sandboxes.all()
        activities = self._records.activities([sandbox.id for sandbox in sandboxes])
        watched: dict[str, Watch] = {}
        due = []
        for sandbox, activity in zip(sandboxes, activities, strict=True):
            if activity is None:
                continue
            watch = self._watch(self._watched.get(sandbox.id), activity)
            watched[sandbox.id] = watch
            due.append((sandbox, activity, watch))
        self._watched = watched
        for sandbox, activity, watch in due:
            if self._sandboxes.is_changing(sandbox.id):
                continue
            try:
                self._act(sandbox, activity, watch)
            except (DriverFault, Fault) as fault:
                # The others are looked at all the same.
                log.warning("reaper waits", sandbox_id=sandbox.id, reason=str(fault))

    def _watch(self, before: Watch | None, activity: Activity) -> Watch:
        now = self._monotonic()
        in_use = activity.open_jobs > 0 or activity.state is not SandboxState.RUNNING
        if before is None or before.used != activity.used or in_use:
            idle_s = 0.0
        else:
            idle_s = before.idle_s + min(now - before.at, LONGEST_STEP_S)
        if before is not None and before.expires_at == activity.expires_at:
            deadline = before.deadline
        elif activity.expires_at is None:
            deadline = None
        else:
            left = datetime.fromisoformat(activity.expires_at) - self._wall()
            deadline = now + left.total_seconds()
        return Watch(activity.used, now, idle_s, activity.expires_at, deadline)

    def _act(self, sandbox: Sandbox, activity: Activity, watch: Watch) -> None:
        now = self._monotonic()
        told = (activity.expires_at, activity.idle_timeout_ms)
        if told != (sandbox.expires_at, sandbox.idle_timeout_ms):
            self._sandboxes.remember(self._records.get(sandbox.id))
        if watch.deadline is not None and now > watch.deadline and activity.state in THERE:
            (newest,) = self._records.activities([sandbox.id])
            if newest is not None and newest.expires_at == watch.expires_at:  # Not renewed since.
                self._sandboxes.remove(sandbox, EXPIRED)
        elif activity.state is SandboxState.STOPPING:
            self._sandboxes.stop(sandbox)  # The message for it was lost, or could not be obeyed.
        elif activity.state is SandboxState.CREATING and sandbox.state is SandboxState.STOPPED:
            self._sandboxes.start(sandbox)
        elif activity.state is SandboxState.RUNNING and not sandbox.spec.keep_alive:
            asked_ms = activity.idle_timeout_ms
            timeout_s = self._idle_timeout_s if asked_ms is None else asked_ms / 1000
            if watch.idle_s > timeout_s and self._records.move(
                sandbox,
                to=SandboxState.STOPPING,
                since=(SandboxState.RUNNING,),
                reason=IDLE,
                unless_used_since=activity.used,
            ):
                self._sandboxes.stop(sandbox, IDLE)
