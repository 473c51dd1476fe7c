"""The web program's settings, read from the environment once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.contract.previews import PreviewAddress, preview_address
from workers.contract.settings import Environment, StoreSettings, store_settings

REDIS_TIMEOUT_S = 1.0
"""For each try of each call. redis-py tries twice and connects anew between, so that a Redis that
hangs costs a client two seconds, and its answer 503 comes within three."""

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, repr=False)
class Secret:
    """A text that no log shows."""

    value: str

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True)
class Settings:
    """All that the web is told from outside."""

    store: StoreSettings
    api_key: Secret | None
    """The operator's, which is in no database; None: there are only those that are."""
    database_url: Secret
    host: str
    port: int
    processes: int
    flower_socket: Path | None
    """Where Flower listens; None where it does not run."""
    relay_socket: Path | None
    """Where the node's relay listens; None where it does not run."""
    previews: PreviewAddress
    tls_dir: Path | None
    """What the web shows to relays on other machines; None: there are none."""
    heartbeat_s: float
    """A stream in which nothing happens is written to so often."""
    max_body_bytes: int
    max_archive_bytes: int
    max_upload_bytes: int
    """Of a file that is streamed; the sandbox's volume bounds it, too."""
    wait_limit_s: float | None
    """How long a waiting POST is held; None: as long as its job may take, and a minute."""
    max_readers: int
    """Streams and waiting requests of one process at a time."""
    redis_full_percent: float
    """Above this share of Redis' `maxmemory` nothing new is accepted."""
    capacity_limit_s: float
    """How long a request waits for a node to have room for its sandbox."""
    redis_connections: int = 256
    """The bound of the command pool; streams share one connection besides."""
    patience_s: float = 60.0
    """How long a stream is kept open while Redis is away."""
    create_limit_s: float = 60.0
    """How long a request waits for its sandbox to run."""
    remove_limit_s: float = 30.0
    """How long a request waits for a sandbox to be gone."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises `InvalidSettings` with all that is wrong."""
        environment = Environment(environ)
        flower_socket = environment.text("COLDFRAME_FLOWER_SOCKET", "")
        relay_socket = environment.text("COLDFRAME_RELAY_SOCKET", "")
        tls_dir = environment.text("COLDFRAME_TLS_DIR", "")
        api_key = environment.text("COLDFRAME_API_KEY", "")
        settings = cls(
            store=dataclasses.replace(
                store_settings(environment),
                socket_timeout_s=REDIS_TIMEOUT_S,
                connect_timeout_s=REDIS_TIMEOUT_S,
            ),
            api_key=Secret(api_key) if api_key else None,
            database_url=database_url(environment),
            host=environment.text("COLDFRAME_HOST", "127.0.0.1"),
            port=environment.integer("COLDFRAME_PORT", 8700),
            processes=environment.integer("COLDFRAME_WEB_PROCESSES", 1, at_least=1),
            flower_socket=Path(flower_socket) if flower_socket else None,
            relay_socket=Path(relay_socket) if relay_socket else None,
            previews=preview_address(environment),
            tls_dir=Path(tls_dir) if tls_dir else None,
            heartbeat_s=environment.number("COLDFRAME_HEARTBEAT_S", 15.0, at_least=0.1),
            max_body_bytes=environment.integer(
                "COLDFRAME_MAX_BODY_BYTES", 8 * MEBIBYTE, at_least=1024
            ),
            max_archive_bytes=environment.integer(
                "COLDFRAME_MAX_ARCHIVE_BYTES", 32 * MEBIBYTE, at_least=1024
            ),
            max_upload_bytes=environment.integer(
                "COLDFRAME_MAX_UPLOAD_BYTES", 16 * 1024 * MEBIBYTE, at_least=1024
            ),
            # 0 stands for "not set": a limit of nothing would make no sense.
            wait_limit_s=environment.number("COLDFRAME_WAIT_LIMIT_S", 0.0) or None,
            max_readers=environment.integer("COLDFRAME_MAX_READERS", 8192, at_least=1),
            capacity_limit_s=environment.number("COLDFRAME_CAPACITY_WAIT_S", 10.0),
            redis_full_percent=environment.number(
                "COLDFRAME_REDIS_FULL_PERCENT", 90.0, at_least=1.0
            ),
        )
        environment.check()
        return settings


def database_url(environment: Environment) -> Secret:
    """A file of SQLite in the state directory, unless another one is named."""
    state_dir = Path(environment.text("COLDFRAME_STATE_DIR", ".coldframe")).absolute()
    default = f"sqlite:///{state_dir / 'coldframe.db'}"
    return Secret(environment.text("COLDFRAME_DATABASE_URL", default))
