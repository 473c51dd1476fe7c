"""Finds the sandbox that a name stands for, awake, for the requests that use one.

It remembers which it was, so that a warm command asks Redis twice less.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from web.placement import Placement
from web.requests import check
from web.schemas import SandboxName
from workers.contract.errors import (
    ContextNotFound,
    SandboxNotFound,
    SandboxNotRunning,
    SandboxPaused,
    SessionNotFound,
)
from workers.contract.jobs import new_id
from workers.contract.sandboxes import Sandbox, SandboxSpec, SandboxState
from workers.contract.store import SandboxStore

REMEMBERED = 10_000

T = TypeVar("T")


class SandboxNames:
    """What it remembers may be out of date.

    An id is never used again, and nothing is accepted for a sandbox that does not run: who is
    refused with what was remembered forgets it and looks again.
    """

    def __init__(
        self, *, sandboxes: SandboxStore, placement: Placement, now: Callable[[], str]
    ) -> None:
        self._sandboxes = sandboxes
        self._placement = placement
        self._now = now
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Sandbox] = OrderedDict()

    def use(self, owner: str, name: str, act: Callable[[Sandbox], T]) -> T:
        """Acts on the sandbox of this name, which is started or made first where it is not there.

        `act` may be called twice: it changes nothing before it raises that the sandbox is not
        there, does not run, or has no such session. Raises what it raises, `SandboxPaused`, and
        as `Placement.find_or_make`.
        """
        with self._lock:
            remembered = self._known.get((owner, name))
        if remembered is not None:
            try:
                return act(remembered)
            except (ContextNotFound, SandboxNotFound, SandboxNotRunning, SessionNotFound):
                pass  # It sleeps, or another sandbox has the name now.
        return act(self._awake(owner, name))

    def _awake(self, owner: str, name: str) -> Sandbox:
        check("name", name, SandboxName)
        with self._lock:
            self._known.pop((owner, name), None)
        wanted = Sandbox(
            id=new_id(), name=name, owner=owner, spec=SandboxSpec(), created_at=self._now()
        )
        sandbox, _ = self._placement.find_or_make(wanted, network=None)
        if sandbox.state is SandboxState.PAUSED:
            raise SandboxPaused(f"The sandbox {name} is paused.")
        with self._lock:
            self._known[owner, name] = sandbox
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return sandbox
