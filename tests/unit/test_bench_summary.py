"""Sampling in turns, and summing up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.sampling import Contestant, take_turns
from bench.summary import Summary, percentile, summarise


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([3.0], Summary(count=1, median=3.0, p95=3.0)),
        ([4.0, 1.0], Summary(count=2, median=2.5, p95=3.85)),
        ([5.0, 1.0, 3.0], Summary(count=3, median=3.0, p95=4.8)),
    ],
)
def test_samples_are_summed_up_in_any_order(samples: list[float], expected: Summary) -> None:
    summary = summarise(samples)

    assert summary.count == expected.count
    assert summary.median == pytest.approx(expected.median)
    assert summary.p95 == pytest.approx(expected.p95)


def test_a_percentile_lies_between_the_samples_around_it() -> None:
    ordered = [float(number) for number in range(101)]

    assert percentile(ordered, 0.95) == 95.0


def test_contestants_take_turns_and_warm_ups_do_not_count() -> None:
    order: list[str] = []

    samples = take_turns(
        [Contestant("a", _noting(order, "a")), Contestant("b", _noting(order, "b"))],
        rounds=2,
        warm_ups=1,
    )

    assert order == ["a", "b", "a", "b", "a", "b"]
    assert samples == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_contestant_can_sit_out_rounds() -> None:
    order: list[str] = []

    samples = take_turns(
        [
            Contestant("often", _noting(order, "o")),
            Contestant("rare", _noting(order, "r"), every=2),
        ],
        rounds=4,
        warm_ups=0,
    )

    assert "".join(order) == "orooro"
    assert len(samples["rare"]) == 2


def test_a_turn_can_be_several_samples_in_a_row() -> None:
    order: list[str] = []

    samples = take_turns(
        [Contestant("a", _noting(order, "a")), Contestant("b", _noting(order, "b"))],
        rounds=4,
        warm_ups=0,
        in_a_row=2,
    )

    assert "".join(order) == "aabbaabb"
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 4, "b": 4}


def _noting(order: list[str], name: str) -> Callable[[], float]:
    def sample() -> float:
        order.append(name)
        return float(len(order))

    return sample
