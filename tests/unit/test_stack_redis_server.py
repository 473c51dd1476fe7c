"""The Redis that the platform brings along."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stack.deadline import wait_until
from stack.errors import RedisFailed
from stack.ports import free_port
from stack.processes import Processes
from stack.programs import ProgramName
from stack.redis_server import RedisServer, answers, check_named, ensure_server, server_program


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = ensure_server(tmp_path, is_usable=lambda _: True)
    processes = Processes(
        run_dir=tmp_path / "run",
        log_dir=tmp_path / "logs",
        working_dir=tmp_path,
        inherited=os.environ,
    )
    processes.start(server_program(made, tmp_path))
    assert wait_until(lambda: answers(made.url), timeout_s=10)
    yield made
    processes.stop(ProgramName.REDIS, grace_s=10)


def test_it_forgets_nothing_and_lets_nobody_in_without_the_password(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        config = client.config_get("*")

    assert config["maxmemory-policy"] == "noeviction"
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert int(config["maxmemory"]) > 0
    assert not answers(f"redis://127.0.0.1:{server.port}/0")


def test_port_and_password_are_kept(tmp_path: Path) -> None:
    first = ensure_server(tmp_path, is_usable=lambda _: True)

    assert ensure_server(tmp_path, is_usable=lambda _: True) == first


def test_a_port_that_somebody_else_took_is_given_up_but_not_the_password(tmp_path: Path) -> None:
    first = ensure_server(tmp_path, is_usable=lambda _: True)

    second = ensure_server(tmp_path, is_usable=lambda port: port != first.port)

    assert second.port != first.port
    assert second.password == first.password


def test_a_redis_that_was_named_but_does_not_answer_is_an_error_without_its_password() -> None:
    with pytest.raises(RedisFailed) as told:
        check_named(f"redis://:secret@127.0.0.1:{free_port()}/0")

    assert "COLDFRAME_REDIS_URL" in str(told.value)
    assert "secret" not in str(told.value)


def test_the_password_is_not_printed() -> None:
    assert "secret" not in repr(RedisServer(port=1, password="secret"))
