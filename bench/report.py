"""The result of a bench: rows, the goals that they are held against, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.summary import Summary, summarise


class Unit(StrEnum):
    """What a row's numbers count."""

    MS = "ms"
    MIB = "MiB"
    KIB = "KiB"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a row is a multiple of."""

    name: str
    value: float
    """In the row's unit."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured."""

    group: str
    name: str
    summary: Summary
    unit: Unit = Unit.MS
    baseline: Baseline | None = None
    """None: there is nothing to compare it with."""
    note: str = ""
    ours: bool = True
    """Whether it is the platform, or what it is compared with."""

    @property
    def ratio(self) -> float | None:
        """How many times the baseline the median is; None without a baseline."""
        if self.baseline is None or self.baseline.value == 0:
            return None
        return self.summary.median / self.baseline.value


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that the platform promises, beside what was measured."""

    name: str
    measured: float
    unit: str
    bound: float
    at_least: bool
    """Whether `bound` is the least that is good, or the most."""

    @property
    def is_met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


@dataclass(frozen=True, slots=True)
class Part:
    """What one measurement contributes."""

    rows: tuple[Row, ...] = ()
    goals: tuple[Goal, ...] = ()
    left_out: tuple[str, ...] = ()
    """What could not be measured here, and why."""


@dataclass(frozen=True, slots=True)
class Report:
    """All of one run."""

    title: str
    rows: tuple[Row, ...]
    goals: tuple[Goal, ...]
    left_out: tuple[str, ...]


def joined(title: str, parts: Sequence[Part]) -> Report:
    return Report(
        title=title,
        rows=tuple(row for part in parts for row in part.rows),
        goals=tuple(goal for part in parts for goal in part.goals),
        left_out=tuple(reason for part in parts for reason in part.left_out),
    )


def single(value: float) -> Summary:
    """A thing that was looked at once."""
    return summarise([value])


def baseline_of(name: str, summary: Summary) -> Baseline:
    return Baseline(name, summary.median)
