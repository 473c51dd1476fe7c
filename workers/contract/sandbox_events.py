"""The events of a sandbox's life, as clients read them; each change of its state is one.

The last event of a sandbox is `removed` or `failed`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from workers.contract.jobs import JobError
from workers.contract.sandboxes import SandboxState

REQUESTED = "requested"
"""The reason of what somebody asked for; a node's own are in `reaper.py`."""


class SandboxEventType(StrEnum):
    """What happened."""

    CREATED = "created"
    STARTING = "starting"
    """Again, after it was stopped."""
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    RENEWED = "renewed"
    OUT_OF_MEMORY = "out_of_memory"
    """A program of its user was ended for want of memory."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    REMOVING = "removing"
    REMOVED = "removed"
    FAILED = "failed"


EVENT_OF_STATE = {
    SandboxState.CREATING: SandboxEventType.STARTING,
    SandboxState.RUNNING: SandboxEventType.STARTED,
    SandboxState.PAUSED: SandboxEventType.PAUSED,
    SandboxState.STOPPING: SandboxEventType.STOPPING,
    SandboxState.STOPPED: SandboxEventType.STOPPED,
    SandboxState.REMOVING: SandboxEventType.REMOVING,
    SandboxState.REMOVED: SandboxEventType.REMOVED,
    SandboxState.FAILED: SandboxEventType.FAILED,
}


class SandboxEvent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One thing that happened to a sandbox."""

    type: SandboxEventType
    timestamp: str
    sandbox: str
    """Its name."""
    sandbox_id: str
    reason: str = ""
    """Of `stopping`, `stopped`, `removing`, `removed`: `requested`, `idle`, `expired` …"""
    error: JobError | None = None
    """Of `failed`: why."""
