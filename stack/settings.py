"""The settings of the platform on one machine, read from the environment once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.contract.settings import Environment, InvalidSettings

DEFAULT_STATE_DIR = ".coldframe"
DEFAULT_PORT = 8700
DRIVERS = ("", "docker", "local")
MIN_PASSWORD_LENGTH = 24

_PREFIX = "COLDFRAME_"
# These are ours or a client's: a program that got them would differ from shell to shell.
_NOT_PASSED_ON = frozenset(
    {"COLDFRAME_URL", "COLDFRAME_API_KEY", "COLDFRAME_DATABASE_URL", "COLDFRAME_TOUR"}
)
_NODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class StackSettings:
    """What the operator decides."""

    state_dir: Path
    """Absolute: all that this platform keeps lies in it."""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    preview_port: int = DEFAULT_PORT + 1
    node: str = "node-1"
    driver: str = ""
    """`docker` or `local`; empty: what this machine can do best."""
    redis_url: str = field(default="", repr=False)
    """Empty: a server of our own."""
    database_url: str = field(default="", repr=False)
    """Empty: a file in the state directory."""
    job_limit: int = 320
    ca_bundle: str = ""
    """A PEM file that sandboxes trust; empty: the host's own."""
    local_python: Path | None = None
    """Driver local: a Python for user code; None: one is made in the state directory."""
    tour: bool = True
    """Whether `up` ends with the tour."""
    passed_on: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment's further COLDFRAME_ settings: the programs read them."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> StackSettings:
        """Raises `InvalidSettings` with all that is wrong."""
        environment = Environment(environ)
        local_python = environment.text("COLDFRAME_LOCAL_PYTHON", "")
        port = environment.integer("COLDFRAME_PORT", DEFAULT_PORT, at_least=1)
        settings = cls(
            state_dir=Path(environment.text("COLDFRAME_STATE_DIR", DEFAULT_STATE_DIR)).absolute(),
            host=environment.text("COLDFRAME_HOST", "127.0.0.1"),
            port=port,
            preview_port=environment.integer("COLDFRAME_PREVIEW_PORT", port + 1, at_least=1),
            node=environment.text("COLDFRAME_NODE", "node-1"),
            driver=environment.choice("COLDFRAME_DRIVER", "", DRIVERS),
            redis_url=environment.text("COLDFRAME_REDIS_URL", ""),
            database_url=environment.text("COLDFRAME_DATABASE_URL", ""),
            job_limit=environment.integer("COLDFRAME_JOB_LIMIT", 320, at_least=1),
            ca_bundle=environment.text("COLDFRAME_CA_BUNDLE", ""),
            local_python=Path(local_python).absolute() if local_python else None,
            tour=environment.choice("COLDFRAME_TOUR", "1", ("0", "1")) == "1",
            passed_on={
                name: value
                for name, value in environ.items()
                if name.startswith(_PREFIX) and name not in _NOT_PASSED_ON
            },
        )
        environment.check()
        settings.check()
        return settings

    def check(self) -> None:
        """Raises `InvalidSettings` where values do not fit each other or their use."""
        if _NODE.fullmatch(self.node) is None:
            raise InvalidSettings(
                "COLDFRAME_NODE must be lower-case letters, digits and hyphens (63 at most)"
            )
        if self.driver == "local" and not self.listens_on_loopback:
            raise InvalidSettings(
                "COLDFRAME_DRIVER=local runs trusted code only: COLDFRAME_HOST must be a loopback "
                "address"
            )

    @property
    def listens_on_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the API."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def run_dir(self) -> Path:
        """Pid files and sockets: gone after `down`."""
        return self.state_dir / "run"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "logs"

    @property
    def flower_socket(self) -> Path:
        return self.run_dir / "flower.sock"

    @property
    def relay_socket(self) -> Path:
        return self.run_dir / "relay.sock"


@dataclass(frozen=True)
class RedisServiceSettings:
    """What the Redis of docker-compose.yml is told."""

    socket: Path
    """Where it listens for the other services."""
    data_dir: Path
    passwords: Mapping[str, str] = field(repr=False)
    """By the name of their user."""

    @classmethod
    def from_env(
        cls, users: Sequence[str], environ: Mapping[str, str] = os.environ
    ) -> RedisServiceSettings:
        """Raises `InvalidSettings` with all that is wrong."""
        environment = Environment(environ)
        names = {user: f"COLDFRAME_REDIS_{user.upper()}_PASSWORD" for user in users}
        settings = cls(
            socket=Path(environment.required("COLDFRAME_REDIS_SOCKET")),
            data_dir=Path(environment.required("COLDFRAME_STATE_DIR")),
            passwords={user: environment.required(name) for user, name in names.items()},
        )
        environment.check()
        short = [
            names[user] for user in users if len(settings.passwords[user]) < MIN_PASSWORD_LENGTH
        ]
        if short:
            raise InvalidSettings(
                f"{', '.join(short)}: fewer than {MIN_PASSWORD_LENGTH} characters can be guessed"
            )
        return settings
