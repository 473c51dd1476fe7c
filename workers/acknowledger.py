"""Tells runtimes which of their events are kept; one that is frozen holds up no other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeFault

THREADS = 8

log = structlog.get_logger(__name__)


class Acknowledger:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="acknowledge")
        self._lock = threading.Lock()
        self._waiting: dict[RuntimeClient, dict[str, int]] = {}
        self._told: set[RuntimeClient] = set()
        """Those that a thread speaks to just now."""

    def tell(self, client: RuntimeClient, numbers: Mapping[str, int]) -> None:
        """Returns at once. By execution: the number up to which its events are kept."""
        with self._lock:
            self._waiting.setdefault(client, {}).update(numbers)
            if client in self._told:
                return  # Its thread takes these, too.
            self._told.add(client)
        self._pool.submit(self._tell, client)

    def stop(self) -> None:
        """What was not told is told by the next worker."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _tell(self, client: RuntimeClient) -> None:
        while True:
            with self._lock:
                numbers = self._waiting.pop(client, None)
                if numbers is None:
                    self._told.discard(client)
                    return
            try:
                client.acknowledge(numbers)
            except RuntimeFault as fault:
                log.debug("not acknowledged", reason=fault.message)
