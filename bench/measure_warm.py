"""Measures a warm exec beside Docker's, the runtime's own and a no-op Celery task."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack

from bench.docker_baseline import DockerBaseline
from bench.errors import BaselineFailed
from bench.noop_tasks import NoopTasks
from bench.report import Baseline, Goal, Part, Row, baseline_of
from bench.runtime_socket import RuntimeSocket
from bench.sampling import Contestant, since_ms, take_turns, timed
from bench.site import Site
from bench.summary import Summary, summarise

GROUP = "Warm: echo hi"
COMMAND = "echo hi"
CELL = "1+1"

EXEC = "warm exec over HTTP"
EXEC_SSE = "warm exec over HTTP, as SSE to complete"
CODE = "warm code run 1+1"
RUNTIME = "runtime's socket alone"
DOCKER_CLI = "docker exec, command line"
DOCKER_SDK = "docker exec, Docker SDK"
CELERY_RESULT = "no-op Celery task, result backend"
CELERY_PUBLISH = "no-op Celery task, pub/sub reply"

NOT_OURS = (DOCKER_CLI, DOCKER_SDK, CELERY_RESULT, CELERY_PUBLISH)

IN_A_ROW = 20
"""One docker exec between two of ours runs so much else that ours would start with cold caches."""

SPEEDUP_GOAL = 15.0
OVERHEAD_GOAL_MS = 4.0


def measure_warm(site: Site) -> Part:
    """All in one sandbox and its implicit session, in turns."""
    with ExitStack() as stack:
        sandbox = site.sandboxes.make(site.api)
        stack.callback(site.sandboxes.remove, sandbox.name)
        api, name = site.api, sandbox.name
        contestants = [
            Contestant(EXEC, timed(lambda: api.exec(name, COMMAND))),
            Contestant(EXEC_SSE, timed(lambda: api.exec_to_complete(name, COMMAND))),
            Contestant(CODE, timed(lambda: api.run_python(name, CELL))),
        ]
        left_out = []
        for add in (_add_runtime, _add_docker, _add_celery):
            try:
                contestants += add(site, sandbox.id, stack)
            except (BaselineFailed, OSError) as error:
                left_out.append(str(error))
        samples = take_turns(
            contestants,
            rounds=site.sizes.warm_rounds,
            warm_ups=1,
            in_a_row=IN_A_ROW,
        )
        summaries = {contestant: summarise(taken) for contestant, taken in samples.items()}
    return Part(rows=_rows(summaries), goals=_goals(summaries), left_out=tuple(left_out))


def _add_runtime(site: Site, sandbox_id: str, stack: ExitStack) -> list[Contestant]:
    runtime = RuntimeSocket(site.run_dir(sandbox_id))
    stack.callback(runtime.close)

    def sample() -> float:
        started_s = time.perf_counter()
        execution, n = runtime.exec(COMMAND)
        taken_ms = since_ms(started_s)
        runtime.acknowledge(execution, n)
        return taken_ms

    return [Contestant(RUNTIME, sample)]


def _add_docker(_: Site, sandbox_id: str, stack: ExitStack) -> list[Contestant]:
    docker = DockerBaseline(sandbox_id)
    stack.callback(docker.close)
    return [
        Contestant(DOCKER_CLI, timed(lambda: docker.exec_by_cli(COMMAND))),
        Contestant(DOCKER_SDK, timed(lambda: docker.exec_by_sdk(COMMAND))),
    ]


def _add_celery(site: Site, _: str, stack: ExitStack) -> list[Contestant]:
    if site.redis_url is None:
        raise BaselineFailed("no-op Celery tasks: COLDFRAME_REDIS_URL is not known")
    tasks = NoopTasks(site.redis_url, f"bench-{site.run_id}")
    stack.callback(tasks.close)
    tasks.start()
    return [
        Contestant(CELERY_RESULT, timed(tasks.by_result_backend)),
        Contestant(CELERY_PUBLISH, timed(tasks.by_publish)),
    ]


def _rows(summaries: Mapping[str, Summary]) -> tuple[Row, ...]:
    return tuple(
        Row(GROUP, name, summary, baseline=_baseline(name, summaries), ours=name not in NOT_OURS)
        for name, summary in summaries.items()
    )


def _baseline(name: str, summaries: Mapping[str, Summary]) -> Baseline | None:
    """The warm exec's is the no-op task; everything else is held against the warm exec."""
    of = EXEC if name != EXEC else _faster_noop(summaries)
    return None if of is None else baseline_of(of, summaries[of])


def _goals(summaries: Mapping[str, Summary]) -> tuple[Goal, ...]:
    exec_ms = summaries[EXEC].median
    goals = []
    if DOCKER_CLI in summaries:
        speedup = summaries[DOCKER_CLI].median / exec_ms
        goals.append(Goal("docker exec CLI / warm exec", speedup, "x", SPEEDUP_GOAL, at_least=True))
    noop = _faster_noop(summaries)
    if noop is not None:
        overhead_ms = exec_ms - summaries[noop].median
        name = f"warm exec − no-op Celery ({noop.rpartition(', ')[2]}, the faster)"
        goals.append(Goal(name, overhead_ms, "ms", OVERHEAD_GOAL_MS, at_least=False))
    return tuple(goals)


def _faster_noop(summaries: Mapping[str, Summary]) -> str | None:
    """The harder one to be compared with; None where there is no Celery of ours."""
    measured = [name for name in (CELERY_RESULT, CELERY_PUBLISH) if name in summaries]
    return min(measured, key=lambda name: summaries[name].median, default=None)
