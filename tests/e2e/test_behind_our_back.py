"""Sandboxes die, freeze and lose their processes without the platform's doing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
import redis

from tests.client import Client, check_stream, is_ready, stdout_of, wait_for
from tests.conftest import DRIVER
from tests.platform import Platform

TOLD_WITHIN_S = 5.0
"""Of a sandbox that has died."""

SILENT_WITHIN_S = 20.0
"""Of one whose runtime is silent, to who asks it for something."""

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="they are the engine's containers")

Kill = Callable[[Any], None]


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def box(api: Client) -> Iterator[str]:
    api.sandbox("unlucky")
    yield "unlucky"
    api.remove("unlucky")


def container_of(engine: docker.DockerClient, api: Client, box: str) -> Any:
    sandbox_id = api.http.get(f"/v1/sandboxes/{box}").json()["id"]
    return engine.containers.get(f"coldframe-{sandbox_id}")


def runtime_of(container: Any) -> int:
    """The one child of the container's init."""
    pid = container.attrs["State"]["Pid"]
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def remove(container: Any) -> None:
    container.remove(force=True)


def kill(container: Any) -> None:
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)


def kill_runtime(container: Any) -> None:
    os.kill(runtime_of(container), signal.SIGKILL)


def freeze_runtime(container: Any) -> None:
    os.kill(runtime_of(container), signal.SIGSTOP)


def freeze(container: Any) -> None:
    def is_frozen() -> bool:
        try:
            container.pause()
        except docker.errors.APIError:
            return False  # A busy machine: the engine gives up soon.
        return True

    wait_for(is_frozen, "it is frozen")


@pytest.mark.parametrize("strike", [remove, kill, kill_runtime])
def test_jobs_of_a_sandbox_that_died_end_soon_and_its_name_gets_a_new_one(
    api: Client, engine: docker.DockerClient, box: str, strike: Kill
) -> None:
    running = api.start_exec(box, "echo begun; sleep 600")
    waiting = api.start_exec(box, "echo never")
    with api.following(running) as events:
        assert next(events).event["type"] == "start"
        assert next(events).event["data"] == "begun\n"
        struck_at = time.monotonic()
        strike(container_of(engine, api, box))
        end = list(events)[-1]

    assert end.event["code"] == "sandbox_lost"
    assert end.event["hint"]
    assert end.at - struck_at < TOLD_WITHIN_S
    received = api.follow_to_the_end(waiting)
    check_stream(received)
    assert received[-1].event["code"] == "sandbox_lost"
    assert api.exec(box, "echo new")["stdout"] == "new\n"


@pytest.mark.parametrize("strike", [freeze_runtime, freeze])
def test_a_sandbox_that_is_silent_is_given_up_and_harms_no_other(
    api: Client, engine: docker.DockerClient, box: str, strike: Kill
) -> None:
    api.sandbox("lucky")
    strike(container_of(engine, api, box))

    asked_at = time.monotonic()
    asked = api.start_exec(box, "echo never")
    others = [api.exec("lucky", f"echo {n}")["durationMs"] for n in range(20)]
    end = api.follow_to_the_end(asked)[-1]

    assert len(others) == 20
    assert end.event["code"] == "sandbox_lost"
    assert end.at - asked_at < SILENT_WITHIN_S
    assert api.exec(box, "echo new")["stdout"] == "new\n"
    api.remove("lucky")


def test_user_code_that_kills_all_that_it_can_ends_its_session_and_not_its_sandbox(
    api: Client, box: str
) -> None:
    api.exec(box, "before=set; echo kept > /workspace/file")

    # Not by bash itself, which the kernel would spare.
    api.exec(box, "bash -c 'kill -9 -1'; :", timeoutMs=10_000)

    result = api.exec(box, "cat /workspace/file; echo ${before:-unset}")
    assert result["stdout"] == "kept\nunset\n"


def test_a_redis_that_was_emptied_costs_the_open_jobs_and_no_sandbox(
    platform: Platform, api: Client, box: str
) -> None:
    """Who waits for a job is told; sandboxes, with their files and sessions, are back soon."""
    api.exec(box, "variable=kept; echo kept > /workspace/file")
    sandbox_id = api.http.get(f"/v1/sandboxes/{box}").json()["id"]
    open_job = api.submit(f"/v1/sandboxes/{box}/exec", {"argv": ["sleep", "600"]})
    wait_for(lambda: api.job(open_job)["status"] == "running", "it runs")

    with redis.Redis.from_url(platform.redis_url) as client:
        client.flushall()

    def is_back() -> bool:
        found = api.http.get(f"/v1/sandboxes/{box}")
        return found.status_code == 200 and found.json()["id"] == sandbox_id

    wait_for(is_back, "the sandbox is told again")
    assert api.http.get(f"/v1/jobs/{open_job}/events").status_code == 404
    assert api.exec(box, "cat /workspace/file; echo $variable")["stdout"] == "kept\nkept\n"
    wait_for(lambda: api.exec(box, "pgrep -c sleep")["stdout"] == "0\n", "the job has ended")
    assert stdout_of(api.follow_to_the_end(api.start_exec(box, "echo works"))) == "works\n"
    wait_for(lambda: is_ready(api), "the node has told of itself again")
