"""Measures cells beside `jupyter_client` straight to such a kernel, and Jupyter Kernel Gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from bench.errors import BaselineFailed
from bench.jupyter_baseline import JupyterClient, KernelGateway
from bench.pool import Pool, pool_of
from bench.report import Goal, Part, Row, baseline_of
from bench.sampling import Contestant, since_ms, take_turns, timed
from bench.site import Site
from bench.summary import Summary, summarise

GROUP = "Cells: 1+1, in a warm context"
FIRST_GROUP = "A new context, and its first cell: 1+1"

CELL = "1+1"
PYTHON = "Python over HTTP"
TYPESCRIPT = "TypeScript over HTTP"
DIRECT = "jupyter_client, straight to the kernel"
GATEWAY = "Jupyter Kernel Gateway, over its WebSocket"
FIRST_PYTHON = "Python, sandbox from the pool"
FIRST_TYPESCRIPT = "TypeScript, sandbox from the pool"
FIRST_DIRECT = "jupyter_client: start a kernel"

IN_A_ROW = 20
OVER_DIRECT_GOAL_MS = 5.0
FIRST_GOAL_MS = 60.0


def measure_code(site: Site) -> Part:
    python = site.settings.state_dir / "jupyter/bin/python"
    with ExitStack() as stack:
        sandbox = site.sandboxes.make(site.api)
        stack.callback(site.sandboxes.remove, sandbox.name)
        contestants = [
            Contestant(name, timed(_runner(site, sandbox.name, language)))
            for name, language in ((PYTHON, "python"), (TYPESCRIPT, "typescript"))
        ]
        left_out = []
        for add in (_add_direct, _add_gateway):
            try:
                contestants.append(add(python, stack))
            except (BaselineFailed, OSError) as error:
                left_out.append(str(error))
        samples = take_turns(
            contestants, rounds=site.sizes.warm_rounds, warm_ups=1, in_a_row=IN_A_ROW
        )
    warm = {name: summarise(taken) for name, taken in samples.items()}
    first = {}
    try:
        with pool_of(site) as pool:
            pool.wait()
            first = _first_cells(site, pool, python)
    except BaselineFailed as error:
        left_out.append(str(error))
    rows = (*_rows(GROUP, warm, DIRECT), *_rows(FIRST_GROUP, first, FIRST_DIRECT))
    return Part(rows=rows, goals=_goals(warm, first), left_out=tuple(left_out))


def _first_cells(site: Site, pool: Pool, python: Path) -> dict[str, Summary]:
    contestants = [
        Contestant(FIRST_PYTHON, lambda: _first_cell_ms(site, pool, "python")),
        Contestant(FIRST_TYPESCRIPT, lambda: _first_cell_ms(site, pool, "typescript")),
    ]
    if python.is_file():
        contestants.append(Contestant(FIRST_DIRECT, lambda: _first_direct_ms(python)))
    samples = take_turns(contestants, rounds=site.sizes.create_rounds, warm_ups=0)
    return {name: summarise(taken) for name, taken in samples.items()}


def _runner(site: Site, sandbox: str, language: str) -> Callable[[], None]:
    context = site.api.make_context(sandbox, language)
    return lambda: site.api.run_cell(sandbox, CELL, context=context)


def _first_cell_ms(site: Site, pool: Pool, language: str) -> float:
    pool.wait()
    sandbox = site.sandboxes.make(site.api)
    started_s = time.perf_counter()
    _runner(site, sandbox.name, language)()
    taken_ms = since_ms(started_s)
    site.sandboxes.remove(sandbox.name)
    return taken_ms


def _first_direct_ms(python: Path) -> float:
    with closing(JupyterClient(python)) as kernel:
        started_s = time.perf_counter()
        kernel.start()
        kernel.run(CELL)
        return since_ms(started_s)


def _add_direct(python: Path, stack: ExitStack) -> Contestant:
    kernel = stack.enter_context(closing(JupyterClient(python)))
    kernel.start()
    return Contestant(DIRECT, timed(lambda: kernel.run(CELL)))


def _add_gateway(python: Path, stack: ExitStack) -> Contestant:
    gateway = stack.enter_context(closing(KernelGateway(python)))
    return Contestant(GATEWAY, timed(lambda: gateway.run(CELL)))


def _rows(group: str, summaries: Mapping[str, Summary], direct: str) -> tuple[Row, ...]:
    """All beside what goes straight to a kernel, where that was measured."""
    known = summaries.get(direct)
    baseline = baseline_of("jupyter_client", known) if known else None
    return tuple(
        Row(
            group,
            name,
            summary,
            baseline=None if name == direct else baseline,
            ours=name not in (DIRECT, GATEWAY, FIRST_DIRECT),
        )
        for name, summary in summaries.items()
    )


def _goals(warm: Mapping[str, Summary], first: Mapping[str, Summary]) -> tuple[Goal, ...]:
    goals = []
    if DIRECT in warm:
        for name in (PYTHON, TYPESCRIPT):
            over_ms = warm[name].median - warm[DIRECT].median
            title = f"{name} − jupyter_client"
            goals.append(Goal(title, over_ms, "ms", OVER_DIRECT_GOAL_MS, at_least=False))
    for name in (FIRST_PYTHON, FIRST_TYPESCRIPT) if first else ():
        title = f"first cell of a new context: {name}"
        goals.append(Goal(title, first[name].median, "ms", FIRST_GOAL_MS, at_least=False))
    return tuple(goals)
