"""A whole platform for tests: its own state, port, Redis and node, started as `make up` does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from container.image_names import DEFAULT_IMAGE, record_image
from stack.client_env import ClientEnv
from stack.ports import free_port
from stack.programs import ProgramName
from stack.settings import StackSettings
from stack.stack import Stack
from tests.client import Client, wait_for

NODE = "node-1"


class Platform:
    """Programs can be stopped, killed and started while the rest goes on."""

    def __init__(self, state_dir: Path, driver: str, **variables: str) -> None:
        environ = {
            **{name: value for name, value in os.environ.items() if "COLDFRAME" not in name},
            "COLDFRAME_STATE_DIR": str(state_dir),
            "COLDFRAME_DRIVER": driver,
            "COLDFRAME_PORT": str(free_port()),
            "COLDFRAME_PREVIEW_PORT": str(free_port()),
            "COLDFRAME_NODE": NODE,
            # Nobody's sandboxes would take the processors from those that a test is about.
            "COLDFRAME_POOL_MIN": "0",
            "COLDFRAME_POOL_MAX": "0",
            **variables,
        }
        self._started_at = datetime.now(UTC)
        self._stack = Stack(StackSettings.from_env(environ), progress=print, inherited=environ)

    @classmethod
    @contextmanager
    def running(cls, state_dir: Path, driver: str, **variables: str) -> Iterator[Platform]:
        """One that is up within the block; what it left behind is an error."""
        platform = cls(state_dir, driver, **variables)
        try:
            platform.up()
            yield platform
        finally:
            platform.down()

    def up(self) -> None:
        self._stack.up()

    def up_with_image(self, image_id: str) -> None:
        """As `up`, on an engine of the tests' own (`DOCKER_HOST`) that has this image alone."""
        self.set_up_with_image(image_id)
        for program in ("redis", "web", "worker", "relay"):
            self.start(program)

    def set_up(self) -> None:
        """Without a program that runs."""
        (self.state_dir / "driver").write_text(self._stack.prepare())

    def set_up_with_image(self, image_id: str) -> None:
        self.set_up()
        record_image(self.state_dir, DEFAULT_IMAGE, image_id)

    def down(self) -> None:
        self._stack.down()

    def client(self) -> Client:
        return Client(self.access.url, self.access.api_key)

    @property
    def access(self) -> ClientEnv:
        """The API's address and key."""
        return self._stack.client_env

    @contextmanager
    def connected(self) -> Iterator[Client]:
        client = self.client()
        with client.http:
            yield client

    @property
    def redis_url(self) -> str:
        return self._stack.redis_url

    @property
    def state_dir(self) -> Path:
        return self._stack.settings.state_dir

    def kill(self, program: str) -> None:
        self._stack.kill(ProgramName(program))

    def stop(self, program: str) -> None:
        self._stack.stop(ProgramName(program))

    def start(self, program: str) -> None:
        self._started_at = datetime.now(UTC)
        self._stack.start(ProgramName(program))

    def runs(self, program: str) -> bool:
        return self._stack.processes.find(ProgramName(program)) is not None

    def signal(self, program: str, number: signal.Signals) -> None:
        os.kill(self.pid(program), number)

    def log(self, program: str) -> str:
        return self._stack.processes.log_path(ProgramName(program)).read_text()

    def pid(self, program: str) -> int:
        running = self._stack.processes.find(ProgramName(program))
        assert running is not None, f"{program} does not run"
        return running.identity.pid

    def wait_until_ready(self, api: Client) -> None:
        """Also, where the worker was started: by its own word, not by its predecessor's."""

        def is_ready() -> bool:
            nodes = api.http.get("/v1/nodes")
            return nodes.status_code == 200 and any(
                node["ready"] and datetime.fromisoformat(node["heartbeatAt"]) >= self._started_at
                for node in nodes.json()["nodes"]
            )

        wait_for(is_ready, "the platform is ready")
