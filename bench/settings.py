"""Says which platform is measured: from the environment, or from its state directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench.errors import InvalidSettings

DEFAULT_STATE_DIR = ".coldframe"
CLIENT_ENV = "client.env"
NOOP_REDIS_URL = "COLDFRAME_BENCH_REDIS_URL"
NOOP_PREFIX = "COLDFRAME_BENCH_PREFIX"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the platform is, and what opens it."""

    host: str
    port: int
    api_key: str = field(repr=False)
    state_dir: Path
    """Where the platform keeps its sandboxes' sockets; it may be on another machine."""
    redis_url: str | None = field(repr=False)
    """None: to be learnt from the platform's processes."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises `InvalidSettings`."""
        state_dir = Path(environ.get("COLDFRAME_STATE_DIR") or DEFAULT_STATE_DIR).absolute()
        path = state_dir / CLIENT_ENV
        written = assignments(path.read_text()) if path.is_file() else {}
        url = environ.get("COLDFRAME_URL") or written.get("COLDFRAME_URL")
        api_key = environ.get("COLDFRAME_API_KEY") or written.get("COLDFRAME_API_KEY")
        if not url or not api_key:
            raise InvalidSettings(
                f"COLDFRAME_URL and COLDFRAME_API_KEY are not set, and {path} does not say them: "
                "start the platform first (make up)"
            )
        host, port = _address(url)
        return cls(
            host=host,
            port=port,
            api_key=api_key,
            state_dir=state_dir,
            redis_url=environ.get("COLDFRAME_REDIS_URL") or None,
        )


@dataclass(frozen=True, slots=True)
class NoopSettings:
    """What the worker of the no-op tasks is told."""

    redis_url: str = field(repr=False)
    prefix: str
    """Of each key that Celery writes for it."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> NoopSettings:
        return cls(redis_url=environ[NOOP_REDIS_URL], prefix=environ[NOOP_PREFIX])

    def environment(self, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
        return {**inherited, NOOP_REDIS_URL: self.redis_url, NOOP_PREFIX: self.prefix}


def assignments(text: str) -> dict[str, str]:
    """The NAME=VALUE lines of a file that a shell could source."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip().removeprefix("export "): value.strip() for name, value in pairs}


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidSettings(f"COLDFRAME_URL must be an http:// address, not {url!r}")
    return parts.hostname, parts.port or 80
