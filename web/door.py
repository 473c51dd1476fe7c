"""Asks the runtimes of sandboxes, by way of their node's relay, for calls that do not queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sandbox_runtime.protocol.calls import RuntimeCalls
from sandbox_runtime.protocol.errors import NotAuthorized, RuntimeFault, RuntimeUnreachable
from web.errors import RuntimeRefused, SandboxUnreachable
from web.names import SandboxNames
from web.relays import Relays
from workers.contract.errors import SandboxNotRunning, SandboxPaused
from workers.contract.sandboxes import Sandbox, SandboxState
from workers.contract.store import SandboxStore

T = TypeVar("T")


class Door:
    """Safe to share between threads."""

    def __init__(self, *, relays: Relays, names: SandboxNames, sandboxes: SandboxStore) -> None:
        self._names = names
        self._sandboxes = sandboxes
        self._relays = relays

    def use(self, owner: str, name: str, act: Callable[[Sandbox, RuntimeCalls], T]) -> T:
        """Acts on the sandbox of this name, which is started or made first where it is not there.

        `act` may be called twice: it changes nothing before it was refused. What it raises of the
        runtime becomes `RuntimeRefused` or `SandboxUnreachable`; raises as `SandboxNames.use`,
        too.
        """

        return self._names.use(owner, name, lambda sandbox: self.use_one(sandbox, act))

    def use_one(self, sandbox: Sandbox, act: Callable[[Sandbox, RuntimeCalls], T]) -> T:
        """As `use`, of a sandbox that is there; where it does not run, it is left alone."""
        match self._sandboxes.state(sandbox.id):
            case SandboxState.RUNNING:
                return self.ask(sandbox, act)
            case SandboxState.PAUSED:
                raise SandboxPaused(f"The sandbox {sandbox.name} is paused.")
            case state:
                raise SandboxNotRunning(sandbox.name, state)

    def ask(self, sandbox: Sandbox, act: Callable[[Sandbox, RuntimeCalls], T]) -> T:
        """As `use`, of a sandbox that runs."""
        try:
            return act(sandbox, RuntimeCalls(self._relays.of(sandbox.node), sandbox.id))
        except (RuntimeUnreachable, NotAuthorized) as fault:
            raise SandboxUnreachable(fault.message) from fault
        except RuntimeFault as fault:
            raise RuntimeRefused(fault) from fault
