"""The Redis that the platform brings along."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stack.deadline import wait_until
from stack.errors import RedisFailed
from stack.ports import free_port
from stack.processes import Processes
from stack.programs import ProgramName
from stack.redis_server import answers, check_named, server_program, server_url, socket_path


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    processes = Processes(
        run_dir=tmp_path / "run",
        log_dir=tmp_path / "logs",
        working_dir=tmp_path,
        inherited=os.environ,
    )
    processes.start(server_program(tmp_path / "redis"))
    url = server_url(tmp_path / "redis")
    assert wait_until(lambda: answers(url), timeout_s=10)
    yield url
    processes.stop(ProgramName.REDIS, grace_s=10)


def test_it_forgets_nothing_and_is_there_for_its_owner_alone(url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        config = client.config_get("*")

    assert config["maxmemory-policy"] == "noeviction"
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert int(config["maxmemory"]) > 0
    assert config["port"] == "0"
    assert stat.S_IMODE(socket_path(tmp_path / "redis").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700


def test_a_redis_that_was_named_but_does_not_answer_is_an_error_without_its_password() -> None:
    with pytest.raises(RedisFailed) as told:
        check_named(f"redis://:secret@127.0.0.1:{free_port()}/0")

    assert "COLDFRAME_REDIS_URL" in str(told.value)
    assert "secret" not in str(told.value)
