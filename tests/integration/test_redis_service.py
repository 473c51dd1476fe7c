"""The Redis that several programs share: each has its own rights, and none brings a script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import pytest
import redis

from stack.redis_service import has_scripts
from stack.settings import RedisServiceSettings
from tests.client import wait_for
from workers.contract.access import PROGRAMS
from workers.contract.connection import connect, load_script
from workers.contract.settings import StoreSettings

NAMES = [user.name for user in PROGRAMS]

OF_THE_WHOLE_SERVER = (
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET dir",
    "CONFIG SET maxmemory 1",
    "KEYS *",
    "EVAL return(1) 0",
    "EVAL_RO return(1) 0",
    "SCRIPT LOAD return(1)",
    "SCRIPT FLUSH",
    "FUNCTION LIST",
    "DEBUG SLEEP 0",
    "ACL LIST",
    "ACL SETUSER web allkeys",
    "CLIENT LIST",
    "MONITOR",
    "SHUTDOWN NOSAVE",
    "SWAPDB 0 1",
    "REPLICAOF 127.0.0.1 1",
    "MODULE LIST",
)

NOT_THEIRS = {
    "web": (
        "GET cf:leader",
        "LPUSH cf:dead-letters x",
        "SET cf:node:n1 {}",
        "SADD _kombu.binding.placement x",
        "PUBLISH /0.celery.pidbox {}",
        "SCAN 0",
    ),
    "worker": ("HGETALL cf:idempotency:o:k", "GET another", "PUBLISH another x", "INFO"),
    "relay": ("HGETALL cf:job:j", "LPUSH placement {}", "GET cf:leader", "SUBSCRIBE cf:events:j"),
    "beat": ("HGETALL cf:sandbox:s", "LPUSH node.n1 {}", "LPOP placement", "GET cf:leader"),
    "flower": ("HGETALL cf:job:j", "HGETALL cf:sandbox:s", "LPUSH placement {}", "BRPOP node.n1 1"),
}


class Service:
    """`python -m stack.redis_service`, with a password for each program."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "redis.sock"
        (directory / "data").mkdir()
        passwords = {f"COLDFRAME_REDIS_{name.upper()}_PASSWORD": f"{name:/<32}" for name in NAMES}
        self._environ = {
            **os.environ,
            "COLDFRAME_REDIS_SOCKET": str(self._socket),
            "COLDFRAME_STATE_DIR": str(directory / "data"),
            **passwords,
        }
        self.settings = RedisServiceSettings.from_env(NAMES, self._environ)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stack.redis_service"], env=self._environ
        )
        wait_for(lambda: has_scripts(self.settings), "Redis has the scripts")

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=30)

    def kill_server(self) -> int:
        """The service's exit code, once its Redis was killed."""
        assert self._process is not None
        (server,) = psutil.Process(self._process.pid).children()
        server.kill()
        return self._process.wait(timeout=30)

    def url(self, name: str) -> str:
        return f"unix://{name}:{quote(self.settings.passwords[name], safe='')}@{self._socket}"

    def connected(self, name: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(name))

    def nobody(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._socket))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("r"))
    service.start()
    yield service
    service.stop()


def test_who_gives_no_name_may_do_nothing(service: Service) -> None:
    with service.nobody() as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", OF_THE_WHOLE_SERVER)
def test_no_program_may_do_what_is_about_the_whole_server(
    service: Service, name: str, command: str
) -> None:
    # DEBUG is refused to everybody, before anybody's rights are looked at.
    with (
        service.connected(name) as client,
        pytest.raises(redis.exceptions.ResponseError, match=r"no permissions|not allowed"),
    ):
        client.execute_command(*command.split())


@pytest.mark.parametrize(
    ("name", "command"), [(name, command) for name in NAMES for command in NOT_THEIRS[name]]
)
def test_no_program_may_touch_what_is_anothers(service: Service, name: str, command: str) -> None:
    with service.connected(name) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())


def test_a_script_may_do_no_more_than_its_caller(service: Service) -> None:
    client = connect(StoreSettings(service.url("relay"), retention_s=60), max_connections=1)
    send = load_script(client, "send")

    with pytest.raises(redis.exceptions.RedisError, match=r"(?i)no permissions"):
        send([], ["job", "task", "placement"])


def test_the_scripts_are_there_again_when_redis_was_killed(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.start()
    with service.connected("web") as client:
        client.set("cf:nudges", 7)
    assert service.stop() == 0
    service.start()

    assert service.kill_server() != 0

    service.start()
    with service.connected("web") as client:
        kept = client.get("cf:nudges")
    service.stop()
    assert kept == b"7"
