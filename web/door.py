"""Asks the runtimes of sandboxes, by way of their node's relay, for calls that do not queue."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sandbox_runtime.protocol.calls import RuntimeCalls
from sandbox_runtime.protocol.connections import Connections, unreachable
from sandbox_runtime.protocol.errors import NotAuthorized, RuntimeFault, RuntimeUnreachable
from web.errors import RuntimeRefused, SandboxUnreachable
from web.names import SandboxNames
from workers.contract.errors import SandboxNotRunning, SandboxPaused
from workers.contract.sandboxes import Sandbox, SandboxState
from workers.contract.store import SandboxStore

MAX_IDLE_CONNECTIONS = 64

T = TypeVar("T")


class Door:
    """Safe to share between threads."""

    def __init__(
        self, *, relay_socket: Path | None, names: SandboxNames, sandboxes: SandboxStore
    ) -> None:
        """`relay_socket`: None where no relay runs; then no sandbox can be asked."""
        self._names = names
        self._sandboxes = sandboxes
        self._relay = Connections(_dialler(relay_socket), max_idle=MAX_IDLE_CONNECTIONS)

    def close(self) -> None:
        self._relay.close()

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
            return act(sandbox, RuntimeCalls(self._relay, sandbox.id))
        except (RuntimeUnreachable, NotAuthorized) as fault:
            raise SandboxUnreachable(fault.message) from fault
        except RuntimeFault as fault:
            raise RuntimeRefused(fault) from fault


def _dialler(relay_socket: Path | None) -> Callable[[float], socket.socket]:
    def dial(timeout_s: float) -> socket.socket:
        if relay_socket is None:
            raise RuntimeUnreachable("no relay runs on this node")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(relay_socket))
        except OSError as error:
            connection.close()
            raise unreachable(error) from error
        return connection

    return dial
