"""Takes samples of several things in turn, so that a machine's moods hit them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of the things that are compared."""

    name: str
    sample: Callable[[], float]
    """Does it once; returns the milliseconds that count."""
    every: int = 1
    """Takes part in each round (1), each second one (2), …"""


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """A sample that counts all of `call`."""

    def sample() -> float:
        started_s = time.perf_counter()
        call()
        return since_ms(started_s)

    return sample


def since_ms(started_s: float) -> float:
    """Milliseconds since `time.perf_counter()` said `started_s`."""
    return (time.perf_counter() - started_s) * 1000


def take_turns(
    contestants: Sequence[Contestant], *, rounds: int, warm_ups: int, in_a_row: int = 1
) -> dict[str, list[float]]:
    """A B C A B C …: the samples of each by its name; the first `warm_ups` rounds do not count.

    With `in_a_row` each takes that many samples at its turn, and there are as many fewer turns:
    for what is warm only after its own kind, as a user's calls are.
    """
    samples: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(-warm_ups, rounds // in_a_row):
        for contestant in contestants:
            if number % contestant.every == 0:
                taken = [contestant.sample() for _ in range(in_a_row)]
                if number >= 0:
                    samples[contestant.name] += taken
    return samples
