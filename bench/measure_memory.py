"""Looks at the memory of each of the platform's processes and of an idle runtime."""

from __future__ import annotations

import redis

from bench.docker_baseline import DockerBaseline
from bench.errors import BaselineFailed
from bench.processes import PlatformProcess, pss_kib, runtime_pid
from bench.report import Baseline, Part, Row, Unit, single
from bench.site import Site

GROUP = "Memory (proportional set size) at the end of this run"
RUNTIME_GOAL_MIB = 40.0


def measure_memory(site: Site) -> Part:
    rows: list[Row] = []
    left_out: list[str] = []
    for process in site.processes:
        _add(rows, _name_of(process, site.processes), process.pid)
    if not rows:
        left_out.append("memory: the platform's processes are not to be seen from here")
    try:
        _add(rows, "redis", _redis_pid(site))
    except (BaselineFailed, redis.exceptions.RedisError) as error:
        left_out.append(f"memory of redis: {error}")
    try:
        rows.append(_idle_runtime(site))
    except BaselineFailed as error:
        left_out.append(f"memory of an idle runtime: {error}")
    return Part(rows=tuple(rows), left_out=tuple(left_out))


def _idle_runtime(site: Site) -> Row:
    """After an exec, before a first code run."""
    sandbox = site.sandboxes.make(site.api)
    try:
        site.api.exec(sandbox.name, "echo hi")
        docker = DockerBaseline(sandbox.id)
        docker.close()
        pid = runtime_pid(docker.init_pid)
        kib = None if pid is None else pss_kib(pid)
    finally:
        site.sandboxes.remove(sandbox.name)
    if kib is None:
        raise BaselineFailed("its process cannot be seen")
    goal = Baseline("goal", RUNTIME_GOAL_MIB)
    return Row(GROUP, "one idle runtime in its container", single(kib / 1024), Unit.MIB, goal)


def _add(rows: list[Row], name: str, pid: int) -> None:
    kib = pss_kib(pid)
    if kib is not None:
        rows.append(Row(GROUP, name, single(kib / 1024), Unit.MIB))


def _name_of(process: PlatformProcess, processes: tuple[PlatformProcess, ...]) -> str:
    if process.program != "web":
        return {"worker": "celery worker"}.get(process.program, process.program)
    is_child = any(other.pid == process.parent_pid for other in processes)
    return "web, gunicorn worker" if is_child else "web, gunicorn master"


def _redis_pid(site: Site) -> int:
    if site.redis_url is None:
        raise BaselineFailed("COLDFRAME_REDIS_URL is not known")
    with redis.Redis.from_url(site.redis_url, decode_responses=True) as client:
        info: dict[str, object] = client.info("server")
    return int(str(info["process_id"]))
