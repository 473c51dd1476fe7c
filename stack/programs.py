"""Says how each of the platform's programs is started, and with which environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from stack.settings import StackSettings

FLOWER_KEPT_TASKS = 10_000
FLOWER_FORGETS_WORKERS_S = 60

# The worker may be in the middle of many jobs: they live on in their sandboxes, so it need not
# wait for them, but it tells Redis and Flower that it goes.
GRACE_S = 10.0
REDIS_GRACE_S = 20.0  # it writes what it has to its disk

SOURCES = ("web", "workers", "relay", "sandbox_runtime", "requirements.txt")

_SET_BY_US = "COLDFRAME_"


class ProgramName(StrEnum):
    """The programs, in the order in which they are started."""

    REDIS = "redis"
    WEB = "web"
    WORKER = "worker"
    RELAY = "relay"
    BEAT = "beat"
    FLOWER = "flower"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to be run: what differs here makes a running one out of date."""

    name: ProgramName
    argv: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment variables that it gets beside those of whoever starts it."""
    version: str = ""
    """Changes with the code that it runs."""
    grace_s: float = GRACE_S
    """How long it may take to end when asked to."""

    @property
    def fingerprint(self) -> str:
        content = json.dumps([self.argv, sorted(self.settings.items()), self.version])
        return hashlib.sha256(content.encode()).hexdigest()

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The caller's environment without its Coldframe settings, and this program's own."""
        plain = {
            name: value for name, value in inherited.items() if not name.startswith(_SET_BY_US)
        }
        return {**plain, **self.settings}


@dataclass(frozen=True, slots=True)
class Platform:
    """What the programs agree on, once Redis, driver and key are known."""

    settings: StackSettings
    driver: str
    redis_url: str = field(repr=False)
    api_key: str = field(repr=False)
    local_python: Path | None
    """Driver local: the Python that user code gets."""
    version: str
    """Changes with the code that the programs run."""


def redis_program(server: Path, config: Path, *, version: str) -> Program:
    return Program(
        name=ProgramName.REDIS,
        argv=(str(server), str(config)),
        version=version,
        grace_s=REDIS_GRACE_S,
    )


def platform_programs(platform: Platform, *, python: str) -> tuple[Program, ...]:
    """All but Redis, to be run by the interpreter `python`."""
    state_dir = platform.settings.state_dir
    celery = (python, "-m", "celery", "--app", "workers.celery_app")
    shared = platform_settings(platform)
    table = {
        ProgramName.WEB: (
            (
                *(python, "-m", "gunicorn", "--no-control-socket"),
                *("--config", "web/gunicorn_conf.py", "web.app:create_app()"),
            ),
            {
                **shared,
                "COLDFRAME_API_KEY": platform.api_key,
                "COLDFRAME_DATABASE_URL": platform.settings.database_url,
            },
        ),
        ProgramName.WORKER: (
            (*celery, "worker", "--hostname", f"worker@{platform.settings.node}"),
            shared,
        ),
        ProgramName.RELAY: ((python, "-m", "relay"), shared),
        ProgramName.BEAT: (
            (*celery, "beat", "--schedule", str(state_dir / "beat-schedule"), "--pidfile="),
            shared,
        ),
        ProgramName.FLOWER: (
            (
                *celery,
                "flower",
                f"--unix_socket={platform.settings.flower_socket}",
                "--url_prefix=flower",
                f"--max_tasks={FLOWER_KEPT_TASKS}",
                f"--purge_offline_workers={FLOWER_FORGETS_WORKERS_S}",
            ),
            # Its socket lies in a directory of ours alone: only the web reaches it, and asks for
            # the key first.
            {**shared, "FLOWER_UNAUTHENTICATED_API": "true"},
        ),
    }
    return tuple(
        Program(name=name, argv=argv, settings=settings, version=platform.version)
        for name, (argv, settings) in table.items()
    )


def platform_settings(platform: Platform) -> dict[str, str]:
    """The settings that all programs share; the operator's further ones are passed on."""
    settings = platform.settings
    local_python = "" if platform.local_python is None else str(platform.local_python)
    return {
        **settings.passed_on,
        "COLDFRAME_REDIS_URL": platform.redis_url,
        "COLDFRAME_HOST": settings.host,
        "COLDFRAME_PORT": str(settings.port),
        "COLDFRAME_PREVIEW_PORT": str(settings.preview_port),
        "COLDFRAME_FLOWER_SOCKET": str(settings.flower_socket),
        "COLDFRAME_RELAY_SOCKET": str(settings.relay_socket),
        "COLDFRAME_NODE": settings.node,
        "COLDFRAME_STATE_DIR": str(settings.state_dir),
        "COLDFRAME_DRIVER": platform.driver,
        "COLDFRAME_LOCAL_PYTHON": local_python,
        "COLDFRAME_JOB_LIMIT": str(settings.job_limit),
        "COLDFRAME_CA_BUNDLE": settings.ca_bundle,
    }
