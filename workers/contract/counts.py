"""What has happened on the whole platform so far, counted by the scripts that have it happen.

cf:counts   hash   jobs <kind> <conclusion>   jobs that ended so
                   wait <kind> <ms | more>    jobs that waited no longer than this, and than the
                                              next lower bound longer, until they ran
                   waited_ms <kind>           how long they waited, together
                   events                     events of jobs
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from workers.contract.connection import RedisClient, store_errors

WAIT_BOUNDS_MS = (10, 100, 1000, 10_000, 60_000)
"""As `claim.lua` has them."""

LONGER = "more"


class Waits(msgspec.Struct):
    """Of jobs of one kind."""

    buckets: dict[str, int] = {}
    """By their bound; of what is in none of the lower ones."""
    sum_ms: int = 0


class Counts(msgspec.Struct):
    """Since Redis was emptied last."""

    jobs: dict[tuple[str, str], int] = {}
    """By kind and conclusion."""
    waits: dict[str, Waits] = {}
    """By kind."""
    events: int = 0


class CountStore:
    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def all(self) -> Counts:
        """Raises `StoreUnavailable`."""
        with store_errors():
            return counts_of(self._client.hgetall("cf:counts"))


def counts_of(fields: Mapping[bytes, bytes]) -> Counts:
    counts = Counts()
    for name, value in fields.items():
        match name.decode().split(" "), int(value):
            case ["jobs", kind, conclusion], number:
                counts.jobs[kind, conclusion] = number
            case ["wait", kind, bound], number:
                counts.waits.setdefault(kind, Waits()).buckets[bound] = number
            case ["waited_ms", kind], number:
                counts.waits.setdefault(kind, Waits()).sum_ms = number
            case ["events"], number:
                counts.events = number
            case _:
                pass  # Of a newer version.
    return counts
