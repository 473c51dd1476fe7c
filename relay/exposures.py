"""Knows which ports of which sandboxes are exposed, without asking Redis for each request.

What it holds is true until the web says that it changed; what a sandbox's end changed shows when
nobody opens its door any more.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from typing import NamedTuple

from workers.contract.errors import SandboxNotFound
from workers.contract.ports import Port, PortStore
from workers.contract.previews import PreviewName
from workers.contract.sandboxes import SandboxState
from workers.contract.store import SandboxStore

REMEMBERED = 10_000


class Exposed(NamedTuple):
    """What is known of a sandbox."""

    sandbox_name: str
    ports: dict[int, Port]


class Exposures:
    """Lives on one event loop."""

    def __init__(self, ports: PortStore, sandboxes: SandboxStore) -> None:
        self._ports = ports
        self._sandboxes = sandboxes
        self._known: OrderedDict[str, Exposed] = OrderedDict()
        self._changes = 0

    async def find(self, name: PreviewName) -> Exposed | None:
        """None where this port is not exposed with this token. Raises `StoreUnavailable`."""
        known = self._known.get(name.sandbox_id) or await self._look(name.sandbox_id)
        port = known.ports.get(name.port) if known else None
        if port is None or not hmac.compare_digest(port.token, name.token):
            return None
        return known

    async def look_again(self, sandbox_id: str) -> set[int]:
        """The ports that are not exposed any more as they were. Raises `StoreUnavailable`."""
        before = self._known.pop(sandbox_id, None)
        self._changes += 1
        now = await self._look(sandbox_id)
        if before is None:
            return set()
        ports = now.ports if now else {}
        return {n for n, port in before.ports.items() if n not in ports or ports[n] != port}

    async def state(self, sandbox_id: str) -> SandboxState:
        """Of a sandbox that nobody answers for. Raises `StoreUnavailable`."""
        self._known.pop(sandbox_id, None)
        try:
            return await asyncio.to_thread(self._sandboxes.state, sandbox_id)
        except SandboxNotFound:
            return SandboxState.REMOVED

    async def _look(self, sandbox_id: str) -> Exposed | None:
        changes = -1
        while changes != self._changes:  # What was read before a change is not true any more.
            changes = self._changes
            try:
                exposed = await asyncio.to_thread(self._read, sandbox_id)
            except SandboxNotFound:
                return None
        if exposed.ports:  # The rest is not asked for by those who know a URL.
            self._known[sandbox_id] = exposed
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return exposed

    def _read(self, sandbox_id: str) -> Exposed:
        name = self._sandboxes.get(sandbox_id).name
        return Exposed(name, {port.port: port for port in self._ports.all_of(sandbox_id)})
