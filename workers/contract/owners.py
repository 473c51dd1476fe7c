"""What owners may have at a time, and how often they may ask."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from workers.contract.connection import RedisClient, load_script, store_errors


class Limits(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Of the key that a request is made with, on what its owner has; None: no limit."""

    sandboxes: int | None = None
    jobs_at_once: int | None = None
    """Jobs over it wait until one of the owner's ends."""
    open_jobs: int | None = None
    """Queued and running; over it no job is accepted."""
    requests_per_second: int | None = None
    """Of this key alone."""


NO_LIMITS = Limits()


class Allowance(NamedTuple):
    """What is left of a key's requests."""

    is_allowed: bool
    limit: int
    """In one second."""
    remaining: int
    """That could be made at once."""


class RequestRates:
    """Counts requests by key, for all web processes together.

    A key has a second's worth of requests to spend at once, and gets them back evenly.

        cf:rate:<key id>   hash   tokens, at_ms: what was left, and when
    """

    def __init__(self, client: RedisClient) -> None:
        self._take = load_script(client, "take_request")

    def take(self, key_id: str, per_second: int) -> Allowance:
        """Raises `StoreUnavailable`."""
        with store_errors():
            allowed, remaining = self._take([f"cf:rate:{key_id}"], [per_second])
        return Allowance(bool(allowed), per_second, int(remaining))
