"""Says what a session of a sandbox is to its runtime."""

from __future__ import annotations

from sandbox_runtime.protocol.requests import Session
from workers.contract.sandboxes import Sandbox, runtime_session
from workers.contract.store import SandboxStore


def shell_of(sandboxes: SandboxStore, sandbox: Sandbox, session: str) -> Session:
    """With the variables as they are now. Raises `SandboxNotFound`, `SessionNotFound`."""
    record = sandboxes.session(sandbox.id, session)
    return runtime_session(sandboxes.get(sandbox.id), record)
