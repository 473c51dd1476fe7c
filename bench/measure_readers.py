"""Measures what readers cost that wait for events which do not come."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack

from bench.api import Api, Sandbox
from bench.processes import open_files_limit, pss_kib
from bench.report import Baseline, Part, Row, Unit, baseline_of, single
from bench.sampling import Contestant, take_turns, timed
from bench.site import Site
from bench.summary import Summary, summarise

GROUP = "Idle readers of SSE"
READERS_PER_JOB = 50
SLEEP_COMMAND = "sleep 3600"
SPARE_FILES = 256
"""Descriptors that a process needs beside its readers'."""
SETTLE_S = 2.0


def measure_readers(site: Site) -> Part:
    rows: list[Row] = []
    left_out: list[str] = []
    for count in site.sizes.reader_counts:
        limit = _files_for_readers(site)
        if count > limit:
            left_out.append(f"{count} idle readers: open files leave room for {limit}")
            continue
        part = _measure_count(site, count)
        rows += part.rows
        left_out += part.left_out
    return Part(rows=tuple(rows), left_out=tuple(left_out))


def _measure_count(site: Site, count: int) -> Part:
    with ExitStack() as stack:
        sandbox = site.sandboxes.make(site.api)
        stack.callback(site.sandboxes.remove, sandbox.name)
        jobs = _start_jobs(site.api, sandbox, count)
        before = _exec_samples(site, sandbox)
        kib_before = _web_kib(site)
        with ExitStack() as readers:
            for number in range(count):
                reader = readers.enter_context(Api(site.settings))
                reader.follow_job(jobs[number // READERS_PER_JOB])
            time.sleep(SETTLE_S)
            kib_with = _web_kib(site)
            meanwhile = summarise(_exec_samples(site, sandbox))
        time.sleep(SETTLE_S)
        # Before and after: a machine that became slower is not the readers' doing.
        without = summarise(before + _exec_samples(site, sandbox))
    rows = [_exec_row(count, meanwhile, without)]
    if kib_before and kib_with:
        rows += _memory_rows(count, kib_before, kib_with)
        return Part(rows=tuple(rows))
    return Part(rows=tuple(rows), left_out=(f"web's memory with {count} readers: not seen",))


def _exec_row(count: int, meanwhile: Summary, without: Summary) -> Row:
    baseline = baseline_of("without readers", without)
    return Row(GROUP, f"warm exec beside {count} readers", meanwhile, baseline=baseline)


def _memory_rows(count: int, kib_before: int, kib_with: int) -> list[Row]:
    mib = kib_with / 1024
    per_reader_kib = (kib_with - kib_before) / count
    baseline = Baseline("without readers", kib_before / 1024)
    return [
        Row(GROUP, f"web with {count} readers", single(mib), Unit.MIB, baseline),
        Row(GROUP, f"each of {count} readers", single(per_reader_kib), Unit.KIB),
    ]


def _start_jobs(api: Api, sandbox: Sandbox, count: int) -> list[str]:
    """A job that sleeps for each group of readers, in a session of its own.

    They end with their sandbox.
    """
    jobs = []
    for number in range(-(-count // READERS_PER_JOB)):
        session = f"sleeper-{number}"
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
