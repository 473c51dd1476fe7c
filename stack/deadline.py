"""Waits for a thing to be so, and no longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_INTERVAL_S = 0.05


def wait_until(is_so: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether it became so in time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True
