"""Knows what goes on at this moment: by sandbox, so that it is kept awake, and bounded."""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

from relay.routes import Place

MAX_PER_SANDBOX = 512
"""Connections into one sandbox at a time."""


class Passing(Protocol):
    """One request with its answer, or one tunnel."""

    def abort(self) -> None: ...


class Traffic:
    """Lives on one event loop."""

    def __init__(self) -> None:
        self._passing: dict[Place, set[Passing]] = defaultdict(set)
        self._counts: dict[str, int] = defaultdict(int)
        self._used: set[str] = set()

    def enter(self, place: Place, passing: Passing) -> bool:
        """False where as many as may be are under way to this sandbox."""
        sandbox_id, _ = place
        if self._counts[sandbox_id] >= MAX_PER_SANDBOX:
            return False
        self._passing[place].add(passing)
        self._counts[sandbox_id] += 1
        self._used.add(sandbox_id)
        return True

    def leave(self, place: Place, passing: Passing) -> None:
        sandbox_id, _ = place
        self._passing[place].discard(passing)
        if not self._passing[place]:
            del self._passing[place]
        self._counts[sandbox_id] -= 1
        if not self._counts[sandbox_id]:
            del self._counts[sandbox_id]

    def abort(self, place: Place) -> None:
        """Ends what is under way to a place."""
        for passing in list(self._passing.get(place, ())):
            passing.abort()

    def take_used(self) -> set[str]:
        """The sandboxes that were in use since this was last asked."""
        used = self._used | self._counts.keys()
        self._used = set()
        return used
