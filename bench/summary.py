"""Sums up samples as median and 95th percentile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Samples of one thing, in whatever unit they were taken."""

    count: int
    median: float
    p95: float


def summarise(samples: Sequence[float]) -> Summary:
    """At least one sample."""
    ordered = sorted(samples)
    return Summary(
        count=len(ordered), median=percentile(ordered, 0.5), p95=percentile(ordered, 0.95)
    )


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Between the two nearest samples, in proportion (R's type 7, NumPy's `linear`)."""
    place = (len(ordered) - 1) * fraction
    below = math.floor(place)
    above = math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
