"""Opens connections to Redis that neither hang nor hide what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from queue import Empty
from typing import Any, TypeAlias

import redis
from redis.backoff import ExponentialBackoff
from redis.commands.core import Script
from redis.retry import Retry

from workers.contract.errors import StoreFull, StoreUnavailable
from workers.contract.settings import StoreSettings

PRELUDES = ("nudge", "turns")
"""Put before each script: Redis has no modules."""

RedisClient: TypeAlias = Any
"""A `redis.Redis` that answers in bytes. redis-py's annotations name every answer of every mode
(text, bytes, sync, async) and so say nothing; what an answer is, is checked where it is read."""


RedisConnection: TypeAlias = Any
"""A `redis.connection.Connection`, whose methods have no annotations at all."""


class _Pool(redis.BlockingConnectionPool):
    """Hands connections on as they are.

    redis-py's own looks at the socket before each command, and counts for a telemetry that we have
    not: it takes as long as a short command itself. A connection that Redis has closed meanwhile is
    found out by the command, which is sent again.
    """

    def get_connection(self, *_: object, **__: object) -> RedisConnection:
        try:
            connection = self.pool.get(timeout=self.timeout)
        except Empty:
            raise redis.exceptions.ConnectionError("all connections are in use") from None
        if connection is None:
            connection = self.make_connection()  # type: ignore[no-untyped-call]
        try:
            connection.connect()  # Nothing where it is.
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: RedisConnection) -> None:
        if connection.should_reconnect():
            connection.disconnect()
        self.pool.put_nowait(connection)


def connect(settings: StoreSettings, *, max_connections: int) -> RedisClient:
    """A client with a bounded pool: a caller waits for a connection, and opens none beyond."""
    on_tcp = {} if settings.redis_url.startswith("unix:") else {"socket_keepalive": True}
    pool = _Pool.from_url(
        settings.redis_url,
        max_connections=max_connections,
        timeout=settings.socket_timeout_s,
        socket_timeout=settings.socket_timeout_s,
        socket_connect_timeout=settings.connect_timeout_s,
        **on_tcp,
        health_check_interval=0,
        protocol=2,
        # One retry: enough for a connection that was closed while it lay in the pool.
        retry=Retry(ExponentialBackoff(base=0.01, cap=0.05), 1),
    )
    return redis.Redis(connection_pool=pool)


def load_script(client: RedisClient, name: str) -> Script:
    """A script of ours, able to send jobs to their queues."""
    script: Script = client.register_script(_script_source(name))
    return script


def all_scripts() -> list[str]:
    """The sources of all that `load_script` gives: what a Redis needs that loads no others."""
    names = sorted(Path(file.name).stem for file in _scripts().iterdir())
    return [_script_source(name) for name in names if name not in PRELUDES]


@contextmanager
def store_errors() -> Iterator[None]:
    """Translates redis-py's errors into ours."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise StoreFull("Redis is out of memory") from error
    except redis.exceptions.RedisError as error:
        raise StoreUnavailable(f"Redis: {error}") from error


def _script_source(name: str) -> str:
    return "".join((_scripts() / f"{part}.lua").read_text() for part in (*PRELUDES, name))


def _scripts() -> Traversable:
    return files("workers.contract") / "scripts"
