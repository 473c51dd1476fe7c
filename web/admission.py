"""Refuses new work while Redis is nearly full, before it refuses the running jobs' output."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from workers.contract.connection import RedisClient, store_errors
from workers.contract.errors import StoreFull

LOOK_EVERY_S = 1.0


class Admission:
    """Looks at Redis' memory at most once a second, whatever comes in."""

    def __init__(
        self,
        client: RedisClient,
        full_percent: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._full_percent = full_percent
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._looked_at = -LOOK_EVERY_S
        self._used_percent = 0.0

    def check(self) -> None:
        """Raises `StoreFull`, `StoreUnavailable`."""
        with self._lock:
            due = self._monotonic() - self._looked_at >= LOOK_EVERY_S
            if due:
                self._looked_at = self._monotonic()
        if due:
            self._used_percent = self._measure()
        if self._used_percent > self._full_percent:
            raise StoreFull(f"Redis uses {self._used_percent:.0f} % of the memory that it may use.")

    def _measure(self) -> float:
        with store_errors():
            memory = self._client.info("memory")
        limit_bytes = int(memory["maxmemory"])
        # 0: no limit is set, and what the machine has is not known here.
        return 100 * int(memory["used_memory"]) / limit_bytes if limit_bytes else 0.0
