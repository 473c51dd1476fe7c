"""Measures what readers cost that wait for events which do not come."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack

from bench.api import Api, Sandbox
from bench.processes import open_files_limit, pss_kib
from bench.report import Baseline, Goal, Part, Row, Unit, baseline_of, single
from bench.sampling import Contestant, take_turns, timed
from bench.site import Site
from bench.summary import Summary, percentile, summarise

GROUP = "Idle readers of SSE"
READERS_PER_JOB = 25
SANDBOXES = 4
"""Among which the jobs that are read are spread."""
SLEEP_COMMAND = "sleep 3600"
SPARE_FILES = 256
"""Descriptors that a process needs beside its readers'."""
SETTLE_S = 2.0


def measure_readers(site: Site) -> Part:
    rows: list[Row] = []
    goals: list[Goal] = []
    left_out: list[str] = []
    for count in site.sizes.reader_counts:
        limit = _files_for_readers(site)
        if count > limit:
            left_out.append(f"{count} idle readers: open files leave room for {limit}")
            continue
        part = _measure_count(site, count)
        rows += part.rows
        goals += part.goals
        left_out += part.left_out
    return Part(rows=tuple(rows), goals=tuple(goals), left_out=tuple(left_out))


def _measure_count(site: Site, count: int) -> Part:
    with ExitStack() as stack:
        boxes = []
        for _ in range(SANDBOXES + 1):
            boxes.append(site.sandboxes.make(site.api))
            stack.callback(site.sandboxes.remove, boxes[-1].name)
        sandbox = boxes.pop()
        jobs = _start_jobs(site.api, boxes, count)
        before = _exec_samples(site, sandbox)
        kib_before = _web_kib(site)
        with ExitStack() as opened:
            readers = []
            for number in range(count):
                readers.append(opened.enter_context(Api(site.settings)))
                readers[-1].follow_job(jobs[number // READERS_PER_JOB])
            time.sleep(SETTLE_S)
            kib_with = _web_kib(site)
            meanwhile_ms = _exec_samples(site, sandbox)
            for job in jobs:
                site.api.cancel_job(job)
            told = sum(reader.is_told_the_end() for reader in readers)
        time.sleep(SETTLE_S)
        # Before and after: a machine that became slower is not the readers' doing.
        without = summarise(before + _exec_samples(site, sandbox))
    rows = [_exec_row(count, len(jobs), meanwhile_ms, without)]
    name = f"of {count} readers, told how their job ended"
    goal = Goal(name, told / count * 100, "%", 100.0, at_least=True)
    if kib_before and kib_with:
        rows += _memory_rows(count, kib_before, kib_with)
        return Part(rows=tuple(rows), goals=(goal,))
    left_out = f"web's memory with {count} readers: not seen"
    return Part(rows=tuple(rows), goals=(goal,), left_out=(left_out,))


def _exec_row(count: int, jobs: int, meanwhile_ms: list[float], without: Summary) -> Row:
    baseline = baseline_of("without readers", without)
    name = f"warm exec beside {count} readers of {jobs} jobs"
    p99_ms = percentile(sorted(meanwhile_ms), 0.99)
    return Row(GROUP, name, summarise(meanwhile_ms), baseline=baseline, note=f"p99 {p99_ms:.1f} ms")


def _memory_rows(count: int, kib_before: int, kib_with: int) -> list[Row]:
    mib = kib_with / 1024
    per_reader_kib = (kib_with - kib_before) / count
    baseline = Baseline("without readers", kib_before / 1024)
    return [
        Row(GROUP, f"web with {count} readers", single(mib), Unit.MIB, baseline),
        Row(GROUP, f"each of {count} readers", single(per_reader_kib), Unit.KIB),
    ]


def _start_jobs(api: Api, boxes: list[Sandbox], count: int) -> list[str]:
    """A job that sleeps for each group of readers, in a session of its own."""
    jobs = []
    for number in range(-(-count // READERS_PER_JOB)):
        session, sandbox = f"sleeper-{number}", boxes[number % len(boxes)]
        api.make_session(sandbox.name, session)
        jobs.append(api.start_exec(sandbox.name, SLEEP_COMMAND, session=session))
    return jobs


def _exec_samples(site: Site, sandbox: Sandbox) -> list[float]:
    execute = timed(lambda: site.api.exec(sandbox.name, "echo hi"))
    samples = take_turns(
        [Contestant("exec", execute)], rounds=site.sizes.reader_exec_rounds, warm_ups=2
    )
    return samples["exec"]


def _web_kib(site: Site) -> int:
    """Master and workers together; 0 where they cannot be seen."""
    return sum(pss_kib(pid) or 0 for pid in site.pids("web"))


def _files_for_readers(site: Site) -> int:
    """How many connections the bench and the web can hold."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = [hard, *(open_files_limit(pid) for pid in site.pids("web"))]
    return min(limits) - SPARE_FILES
