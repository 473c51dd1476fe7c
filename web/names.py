"""Remembers which sandbox a name stands for, so that a warm command asks Redis twice less."""

from __future__ import annotations

import threading
from collections import OrderedDict

from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore

REMEMBERED = 10_000


class SandboxNames:
    """What it remembers may be out of date.

    An id is never used again, and a job is only accepted for a sandbox that runs: who is refused
    with what was remembered forgets it and looks again.
    """

    def __init__(self, sandboxes: SandboxStore) -> None:
        self._sandboxes = sandboxes
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Sandbox] = OrderedDict()

    def remembered(self, owner: str, name: str) -> Sandbox | None:
        """None: look with `find`."""
        with self._lock:
            return self._known.get((owner, name))

    def find(self, owner: str, name: str) -> Sandbox:
        """As it is in Redis now. Raises `SandboxNotFound`."""
        with self._lock:
            self._known.pop((owner, name), None)
        sandbox = self._sandboxes.by_name(owner, name)
        with self._lock:
            self._known[owner, name] = sandbox
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return sandbox
