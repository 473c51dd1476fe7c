"""Measures a sandbox's execs while another one on its node uses up all that it gets at."""

from __future__ import annotations

from contextlib import ExitStack

from bench.report import Baseline, Goal, Part, Row, baseline_of
from bench.sampling import timed
from bench.site import Site
from bench.summary import percentile, summarise

GROUP = "A neighbour's echo hi, while a sandbox runs"
COMMAND = "echo hi"
NOTHING = "nothing"
P99_GOAL = 2.0

ATTACKS = {
    "a fork bomb": "b() { b | b & }; b 2>/dev/null; sleep 600",
    "out of memory, over and over": (
        "while :; do python3 -c 'bytearray(10 << 30)'; done 2>/dev/null"
    ),
    "a hundred busy loops": "for i in $(seq 100); do (while :; do :; done) & done; wait",
    "a disk that is filled and emptied": (
        "while :; do head -c 9G /dev/zero > f; rm f; done 2>/dev/null"
    ),
}


def measure_neighbours(site: Site) -> Part:
    with ExitStack() as stack:
        neighbour, attacker = (site.sandboxes.make(site.api).name for _ in range(2))
        for name in (neighbour, attacker):
            stack.callback(site.sandboxes.remove, name)
        usual_ms = _sample(site, neighbour)
        usual_p99_ms = percentile(sorted(usual_ms), 0.99)
        baseline = baseline_of(NOTHING, summarise(usual_ms))
        rows = [_row(NOTHING, usual_ms, None)]
        goals = []
        for attack, command in ATTACKS.items():
            session = attack.replace(" ", "-").replace(",", "")
            site.api.make_session(attacker, session)
            job = site.api.start_exec(attacker, command, session=session)
            taken_ms = _sample(site, neighbour)
            site.api.cancel_job(job)
            rows.append(_row(attack, taken_ms, baseline))
            times = percentile(sorted(taken_ms), 0.99) / usual_p99_ms
            goals.append(
                Goal(f"neighbour's p99 beside {attack}", times, "x", P99_GOAL, at_least=False)
            )
    return Part(rows=tuple(rows), goals=tuple(goals))


def _sample(site: Site, neighbour: str) -> list[float]:
    sample = timed(lambda: site.api.exec(neighbour, COMMAND))
    sample()  # Its shell starts.
    return [sample() for _ in range(site.sizes.neighbour_rounds)]


def _row(name: str, taken_ms: list[float], baseline: Baseline | None) -> Row:
    p99_ms = percentile(sorted(taken_ms), 0.99)
    return Row(GROUP, name, summarise(taken_ms), baseline=baseline, note=f"p99 {p99_ms:.1f} ms")
