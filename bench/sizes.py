"""How many samples each measurement takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """All counts of one run."""

    warm_rounds: int
    create_rounds: int
    """`docker run` takes part in each second one."""
    volleys: dict[int, int]
    """How often so many execs are sent at once."""
    stream_rounds: int
    reader_counts: tuple[int, ...]
    reader_exec_rounds: int
    neighbour_rounds: int
    heaped_jobs: int
    idle_sandboxes: int
    preview_rounds: int


FULL = Sizes(
    warm_rounds=200,
    create_rounds=10,
    volleys={1: 50, 10: 25, 100: 5},
    stream_rounds=5,
    reader_counts=(1000, 5000),
    reader_exec_rounds=50,
    neighbour_rounds=200,
    heaped_jobs=5000,
    idle_sandboxes=200,
    preview_rounds=3,
)

QUICK = Sizes(
    warm_rounds=20,
    create_rounds=2,
    volleys={1: 4, 10: 2, 100: 1},
    stream_rounds=1,
    reader_counts=(20, 100),
    reader_exec_rounds=5,
    neighbour_rounds=20,
    heaped_jobs=200,
    idle_sandboxes=5,
    preview_rounds=1,
)
