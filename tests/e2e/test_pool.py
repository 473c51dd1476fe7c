"""Sandboxes that are ready before they are asked for, through the whole platform."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
import redis

from tests.client import Client, wait_for
from tests.platform import NODE, Platform

READY = 2
KIND = "default/egress/default"


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    bounds = {"COLDFRAME_POOL_MIN": str(READY), "COLDFRAME_POOL_MAX": str(READY)}
    with Platform.running(tmp_path_factory.mktemp("p") / "s", "docker", **bounds) as platform:
        yield platform


@pytest.fixture(scope="module")
def api(pooling: Platform) -> Iterator[Client]:
    with pooling.connected() as client:
        yield client


@pytest.fixture(scope="module")
def store(pooling: Platform) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(pooling.redis_url, decode_responses=True) as client:
        yield client


def ready(store: redis.Redis) -> list[str]:
    """The ids in the pool, once it is full."""
    wait_for(lambda: len(listed(store)) == READY, "the pool is full", deadline_s=60)
    return listed(store)


def listed(store: redis.Redis) -> list[str]:
    return [str(entry).split(" ")[0] for entry in store.lrange(f"cf:pool:{KIND}", 0, -1)]


def containers(ids: list[str]) -> set[str]:
    """Which of the sandboxes have a container."""
    names = subprocess.run(
        ["docker", "ps", "--all", "--format", "{{.Names}}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.split()
    return {sandbox_id for sandbox_id in ids if f"coldframe-{sandbox_id}" in names}


def test_a_new_sandbox_is_one_of_the_pool_with_the_limits_and_variables_asked_for(
    api: Client, store: redis.Redis
) -> None:
    waiting = ready(store)

    sandbox = api.sandbox("taken", memoryMb=256, env={"WORD": "hello"}, labels={"a": "b"})

    assert (sandbox["id"], sandbox["state"]) == (waiting[0], "running")
    result = api.exec("taken", 'echo "$WORD"; grep -c . /proc/meminfo > /dev/null; whoami')
    assert result["stdout"].split()[0] == "hello"
    hog = api.exec("taken", "python3 -c 'x = b\"1\" * (400 << 20)'")
    assert hog["oomKilled"] is True
    assert "hello" in api.code("taken", "import os; print(os.environ['WORD'])")["logs"]["stdout"][0]
    api.remove("taken")


def test_the_first_cell_of_a_sandbox_of_the_pool_is_counted_as_its_first(
    api: Client, store: redis.Redis
) -> None:
    waiting = ready(store)

    assert api.sandbox("first-cell")["id"] == waiting[0]

    assert api.code("first-cell", "1 + 1")["executionCount"] == 1
    api.remove("first-cell")


def test_a_sandbox_that_was_used_never_goes_back(api: Client, store: redis.Redis) -> None:
    waiting = ready(store)
    taken = api.sandbox("used")["id"]
    api.exec("used", "echo secret > /workspace/file")

    api.remove("used")

    assert taken in waiting
    assert taken not in ready(store)
    assert containers([taken]) == set()


def test_what_the_pool_is_not_made_for_is_made_for_itself(api: Client, store: redis.Redis) -> None:
    waiting = ready(store)

    made = api.sandbox("large-disk", diskMb=4096)

    assert made["id"] not in waiting
    assert listed(store) == waiting
    api.remove("large-disk")


def test_one_that_is_taken_while_its_worker_is_away_is_there_when_it_returns(
    api: Client, store: redis.Redis, pooling: Platform
) -> None:
    waiting = ready(store)
    pooling.kill("worker")

    taken = api.sandbox("meanwhile", env={"WORD": "kept"})["id"]

    assert taken == waiting[0]
    pooling.start("worker")
    pooling.wait_until_ready(api)
    assert api.exec("meanwhile", 'echo "$WORD"')["stdout"] == "kept\n"
    # The others of the former worker's are gone, with their containers.
    left = [sandbox_id for sandbox_id in waiting if sandbox_id != taken]
    wait_for(lambda: not set(ready(store)) & set(left), "the pool is made anew")
    assert containers([taken, *left]) == {taken}
    api.remove("meanwhile")


def test_a_redis_that_forgot_the_pool_is_told_it_again(api: Client, store: redis.Redis) -> None:
    waiting = ready(store)

    store.delete(f"cf:pool:{KIND}")

    assert set(ready(store)) == set(waiting)
    assert api.sandbox("after-loss")["node"] == NODE
    api.remove("after-loss")


def test_one_of_the_pool_that_dies_is_replaced(api: Client, store: redis.Redis) -> None:
    waiting = ready(store)

    subprocess.run(
        ["docker", "kill", f"coldframe-{waiting[0]}"], check=True, capture_output=True, timeout=30
    )

    wait_for(lambda: waiting[0] not in listed(store), "it is withdrawn", deadline_s=30)
    assert len(ready(store)) == READY
    assert containers(waiting[:1]) == set()
