"""Waits until the pool of the platform has a sandbox of the default kind ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from bench.errors import BaselineFailed
from bench.site import Site

POOL_KEYS = tuple(f"cf:pool:default/{network}/default" for network in ("egress", "none"))
"""The default network is what the node can give."""
POOL_DEADLINE_S = 60.0
LOOK_S = 0.05


class Pool:
    def __init__(self, store: redis.Redis) -> None:
        self._store = store

    def wait(self) -> None:
        """Raises `BaselineFailed`."""
        deadline = time.monotonic() + POOL_DEADLINE_S
        while not any(self._store.llen(key) for key in POOL_KEYS):
            if time.monotonic() > deadline:
                raise BaselineFailed("pool: nothing is ready (COLDFRAME_POOL_MIN=0?)")
            time.sleep(LOOK_S)


@contextmanager
def pool_of(site: Site) -> Iterator[Pool]:
    """Raises `BaselineFailed` where it cannot be looked at."""
    if site.redis_url is None:
        raise BaselineFailed("pool: COLDFRAME_REDIS_URL is not known")
    with redis.Redis.from_url(site.redis_url) as store:
        yield Pool(store)
