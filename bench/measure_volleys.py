"""Measures many execs at once, each in a session of its own."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from bench.api import Api
from bench.report import Part, Row, baseline_of
from bench.sampling import Contestant, take_turns
from bench.site import Site
from bench.summary import summarise

GROUP = "At once: echo hi, each in a session of its own"
SANDBOXES = 10
WAIT_LIMIT_S = 60.0
REST_S_PER_EXEC = 0.03
"""After a volley: the workers still acknowledge what has settled of each exec."""


@dataclass(frozen=True, slots=True)
class _Seat:
    """A session, and a connection to ask for work in it."""

    api: Api
    sandbox: str
    session: str

    def exec(self, barrier: threading.Barrier) -> tuple[float, float]:
        """When it was sent and when it was answered, by `time.perf_counter()`."""
        barrier.wait(WAIT_LIMIT_S)
        started_s = time.perf_counter()
        self.api.exec(self.sandbox, "echo hi", session=self.session)
        return started_s, time.perf_counter()


def measure_volleys(site: Site) -> Part:
    """For each size: the wall time of a volley, and the time of each exec in it."""
    most = max(site.sizes.volleys)
    with ExitStack() as stack:
        seats = _seats(site, most, stack)
        pool = stack.enter_context(ThreadPoolExecutor(most))
        execs_ms: dict[int, list[float]] = {size: [] for size in site.sizes.volleys}
        rounds = max(site.sizes.volleys.values())
        contestants = [
            Contestant(
                str(size),
                lambda size=size: _volley_ms(seats[:size], pool, execs_ms[size]),  # type: ignore[misc]
                every=rounds // count,
            )
            for size, count in site.sizes.volleys.items()
        ]
        walls_ms = take_turns(contestants, rounds=rounds, warm_ups=0)
    rows: list[Row] = []
    alone = baseline_of("one alone", summarise(execs_ms[min(execs_ms)]))
    for size in site.sizes.volleys:
        wall = summarise(walls_ms[str(size)])
        each = summarise(execs_ms[size])
        note = f"{size / wall.median * 1000:.0f} execs/s"
        rows.append(Row(GROUP, f"{size} at once: all of them", wall, baseline=alone, note=note))
        rows.append(Row(GROUP, f"{size} at once: each", each, baseline=alone))
    return Part(rows=tuple(rows))


def _seats(site: Site, count: int, stack: ExitStack) -> list[_Seat]:
    """Spread over the sandboxes; each session's shell runs already."""
    names = []
    for _ in range(min(SANDBOXES, count)):
        sandbox = site.sandboxes.make(site.api)
        stack.callback(site.sandboxes.remove, sandbox.name)
        names.append(sandbox.name)
    seats = []
    for number in range(count):
        sandbox_name, session = names[number % len(names)], f"seat-{number}"
        site.api.make_session(sandbox_name, session)
        api = stack.enter_context(Api(site.settings))
        api.exec(sandbox_name, "true", session=session)
        seats.append(_Seat(api, sandbox_name, session))
    return seats


def _volley_ms(seats: list[_Seat], pool: ThreadPoolExecutor, execs_ms: list[float]) -> float:
    """Adds each exec's time to `execs_ms`; returns the time of all."""
    barrier = threading.Barrier(len(seats))
    futures = [pool.submit(seat.exec, barrier) for seat in seats]
    spans_s = [future.result(WAIT_LIMIT_S) for future in futures]
    execs_ms += [(ended_s - started_s) * 1000 for started_s, ended_s in spans_s]
    time.sleep(REST_S_PER_EXEC * len(seats))
    first_s = min(started_s for started_s, _ in spans_s)
    return (max(ended_s for _, ended_s in spans_s) - first_s) * 1000
