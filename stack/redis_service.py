"""The Redis of docker-compose.yml: its users have rights of their own, and none brings a script.

<socket's directory>/
    redis.sock    where it listens once it has our scripts: a start that forgot them is not seen
    redis/        where it is made ready, its own user's alone
        redis.sock, redis.conf, users.acl
        loader    the password of who loads the scripts, another at each start

`python -m stack.redis_service` serves; `… healthy` says by its exit code whether it does.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import redis
from kombu.transport import redis as kombu_redis

from stack import redis_server
from stack.deadline import wait_until
from stack.private_file import write_private
from stack.settings import RedisServiceSettings
from workers.contract.access import LOADER, PROGRAMS, users_file
from workers.contract.connection import all_scripts
from workers.contract.settings import InvalidSettings

DATA_READ_S = 600.0
"""For as long it may read its data before it answers."""

END_S = 60.0
"""For as long it may write when it is told to end."""

KOMBU_SCRIPTS = (kombu_redis.REFRESH_BINDING, kombu_redis.SWEEP_BINDINGS)
"""Celery's transport would bring them along where it does not find them."""

SOCKET_MODE = 0o770
"""The services share a group, and each has a password."""

NOT_STARTED = 2


def main(arguments: Sequence[str]) -> int:
    try:
        settings = RedisServiceSettings.from_env([user.name for user in PROGRAMS])
    except InvalidSettings as mistakes:
        sys.stderr.write(f"coldframe redis: {mistakes}\n")
        return NOT_STARTED
    match arguments:
        case []:
            return serve(settings)
        case ["healthy"]:
            return 0 if has_scripts(settings) else 1
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return NOT_STARTED


def serve(settings: RedisServiceSettings) -> int:
    """The server's exit code, when it has ended."""
    server = subprocess.Popen([redis_server.server_binary(), _prepare(settings)])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        _open(settings, server)
        return server.wait()
    finally:
        server.terminate()
        server.wait(timeout=END_S)


def has_scripts(settings: RedisServiceSettings) -> bool:
    """Whether it answers where the services look for it, and can run all that they ask for."""
    hashes = [hashlib.sha1(source.encode()).hexdigest() for source in _scripts()]
    try:
        with _as_loader(settings, settings.socket) as client:
            return all(client.script_exists(*hashes))
    except (OSError, redis.exceptions.RedisError):
        return False


def _prepare(settings: RedisServiceSettings) -> Path:
    """Writes what the server is started with; the path of its configuration."""
    directory = _directory(settings)
    directory.mkdir(mode=0o700, exist_ok=True)
    loader = secrets.token_urlsafe(32)
    passwords = {user: settings.passwords[user.name] for user in PROGRAMS}
    users, config = directory / "users.acl", directory / "redis.conf"
    write_private(_loader(settings), loader)
    write_private(users, users_file({**passwords, LOADER: loader}))
    text = redis_server.config(
        socket=redis_server.socket_path(directory), directory=settings.data_dir, mode=SOCKET_MODE
    )
    write_private(config, f'{text}aclfile "{users}"\n')
    return config


def _open(settings: RedisServiceSettings, server: subprocess.Popen[bytes]) -> None:
    """Loads the scripts, then puts the socket where the services look for it."""
    socket = redis_server.socket_path(_directory(settings))
    with _as_loader(settings, socket) as client:
        wait_until(lambda: server.poll() is not None or _answers(client), timeout_s=DATA_READ_S)
        if server.poll() is not None:
            return
        for source in _scripts():
            client.script_load(source)
    socket.replace(settings.socket)


def _scripts() -> list[str]:
    return [*all_scripts(), *KOMBU_SCRIPTS]


def _as_loader(settings: RedisServiceSettings, socket: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket),
        username=LOADER.name,
        password=_loader(settings).read_text(),
        socket_timeout=redis_server.PING_TIMEOUT_S,
    )


def _answers(client: redis.Redis) -> bool:
    """Not while it reads its data."""
    try:
        return bool(client.ping())
    except redis.exceptions.RedisError:
        return False


def _directory(settings: RedisServiceSettings) -> Path:
    return settings.socket.parent / "redis"


def _loader(settings: RedisServiceSettings) -> Path:
    return _directory(settings) / "loader"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
