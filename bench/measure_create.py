"""Measures the time from asking for a sandbox to its first output."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack

from bench.api import Api
from bench.docker_baseline import DockerBaseline
from bench.errors import BaselineFailed
from bench.pool import pool_of
from bench.report import Goal, Part, Row, baseline_of
from bench.sampling import Contestant, since_ms, take_turns, timed
from bench.site import Site
from bench.summary import Summary, summarise

GROUP = "From nothing to the first output"
POOLED = "from the pool: create, first exec's first stdout"
COLD = "without it: create, first exec's first stdout"
DOCKER_RUN = "docker run --rm <same image> echo"

POOLED_GOAL_MS = 40.0
COLD_GOAL_MS = 250.0
"""Over `docker run`."""

UNUSUAL_DISK_MB = 1024


def measure_create(site: Site) -> Part:
    with ExitStack() as stack:
        unusual_mb = itertools.count(UNUSUAL_DISK_MB)
        contestants = [
            # A size that nobody has asked for before, so that none is ready.
            Contestant(COLD, lambda: _create_to_output_ms(site, disk_mb=next(unusual_mb)))
        ]
        left_out = []
        for add in (_add_pooled, _add_docker_run):
            try:
                contestants.append(add(site, stack))
            except BaselineFailed as error:
                left_out.append(str(error))
        samples = take_turns(contestants, rounds=site.sizes.create_rounds, warm_ups=0)
    summaries = {name: summarise(taken) for name, taken in samples.items()}
    return Part(rows=_rows(summaries), goals=_goals(summaries), left_out=tuple(left_out))


def _add_pooled(site: Site, stack: ExitStack) -> Contestant:
    pool = stack.enter_context(pool_of(site))
    pool.wait()

    def sample() -> float:
        pool.wait()
        return _create_to_output_ms(site)

    return Contestant(POOLED, sample)


def _add_docker_run(site: Site, stack: ExitStack) -> Contestant:
    # It only tells which image the sandboxes have.
    model = site.sandboxes.make(site.api)
    stack.callback(site.sandboxes.remove, model.name)
    docker = DockerBaseline(model.id)
    stack.callback(docker.close)
    return Contestant(DOCKER_RUN, timed(lambda: docker.run("echo", "hi")))


def _rows(summaries: dict[str, Summary]) -> tuple[Row, ...]:
    theirs = summaries.get(DOCKER_RUN)
    baseline = baseline_of("docker run", theirs) if theirs else None
    return tuple(
        Row(
            GROUP,
            name,
            summary,
            baseline=baseline if name != DOCKER_RUN else None,
            ours=name != DOCKER_RUN,
        )
        for name, summary in summaries.items()
    )


def _goals(summaries: dict[str, Summary]) -> tuple[Goal, ...]:
    goals = []
    if POOLED in summaries:
        measured = summaries[POOLED].median
        goals.append(Goal("create from the pool", measured, "ms", POOLED_GOAL_MS, at_least=False))
    if DOCKER_RUN in summaries:
        over = summaries[COLD].median - summaries[DOCKER_RUN].median
        goals.append(
            Goal("create without it − docker run", over, "ms", COLD_GOAL_MS, at_least=False)
        )
    return tuple(goals)


def _create_to_output_ms(site: Site, *, disk_mb: int | None = None) -> float:
    name = site.sandboxes.new_name()
    with Api(site.settings) as api:
        started_s = time.perf_counter()
        api.put_sandbox(name, disk_mb=disk_mb)
        api.exec_to_first_output(name, "echo hi")
        taken_ms = since_ms(started_s)
    site.sandboxes.remove(name)
    return taken_ms
