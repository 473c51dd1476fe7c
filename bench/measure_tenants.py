"""Measures one owner's execs while another one has heaped up jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.api import Api
from bench.report import Baseline, Goal, Part, Row, baseline_of
from bench.sampling import timed
from bench.site import Site
from bench.summary import summarise

GROUP = "An owner's echo hi, while another's jobs wait"
COMMAND = "echo hi"
NOTHING = "nothing waits"
HEAPED = ["sleep", "0.1"]
GOAL_TIMES = 2.0

AT_ONCE: dict[str, int | None] = {"two at once": 2, "no limit": None}
"""What the other one's key allows to run."""


def measure_tenants(site: Site) -> Part:
    sandbox = site.sandboxes.make(site.api)
    usual_ms = _sample(site, sandbox.name)
    baseline = baseline_of(NOTHING, summarise(usual_ms))
    rows, goals = [_row(NOTHING, usual_ms, None)], []
    for limit, at_once in AT_ONCE.items():
        with _heap(site, at_once):
            taken_ms = _sample(site, sandbox.name)
        name = f"{site.sizes.heaped_jobs} jobs, {limit}"
        rows.append(_row(name, taken_ms, baseline))
        if at_once is not None:
            times = summarise(taken_ms).median / summarise(usual_ms).median
            goals.append(Goal(f"beside {name}", times, "x", GOAL_TIMES, at_least=False))
    site.sandboxes.remove(sandbox.name)
    return Part(rows=tuple(rows), goals=tuple(goals))


@contextmanager
def _heap(site: Site, at_once: int | None) -> Iterator[None]:
    """Jobs of another owner that wait, in a sandbox of its own; they end with it."""
    owner = site.sandboxes.new_owner()
    key_id, key = site.api.make_key(owner, at_once)
    with Api(replace(site.settings, api_key=key)) as other:
        name = other.put_sandbox("heap").name
        try:
            for _ in range(site.sizes.heaped_jobs):
                other.start_program(name, HEAPED)
            yield
        finally:
            other.delete_sandbox(name)
            site.api.revoke_key(key_id)


def _sample(site: Site, sandbox: str) -> list[float]:
    sample = timed(lambda: site.api.exec(sandbox, COMMAND))
    sample()  # Its shell starts.
    return [sample() for _ in range(site.sizes.neighbour_rounds)]


def _row(name: str, taken_ms: list[float], baseline: Baseline | None) -> Row:
    return Row(GROUP, name, summarise(taken_ms), baseline=baseline)
