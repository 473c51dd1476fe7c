"""The platform of docker-compose.yml for tests: with a project, a directory, ports of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from container.ca_bundle import SETTING, find_ca_bundle
from container.services_image import REPOSITORY, ensure_services_image
from stack.client_env import ClientEnv
from stack.ports import free_port
from tests.client import Client, wait_for
from workers.drivers.driver import owner_of

COMMAND_TIMEOUT_S = 900.0
"""The first `up` of a machine builds the image that sandboxes start from."""

BACK_S = 90.0


class Compose:
    """Its containers can be killed while the rest goes on."""

    def __init__(self, directory: Path) -> None:
        self._project = f"coldframe-{secrets.token_hex(4)}"
        self.state_dir = directory / "state"
        self._env_file = directory / "env"
        self._url = ""
        self._docker = docker.from_env()
        self._environ = {
            **{name: value for name, value in os.environ.items() if "COLDFRAME" not in name},
            "COMPOSE_PROJECT_NAME": self._project,
            "COLDFRAME_STATE_DIR": str(self.state_dir),
            "COLDFRAME_NODE": self._project,
            "COLDFRAME_HEALTH_INTERVAL": "3s",
            "COLDFRAME_POOL_MIN": "0",
            "COLDFRAME_POOL_MAX": "0",
        }

    @classmethod
    @contextmanager
    def running(cls, directory: Path) -> Iterator[Compose]:
        """One that is up within the block."""
        compose = cls(directory)
        try:
            compose.up()
            yield compose
        finally:
            try:
                compose.down()
            finally:
                compose.forget()

    def up(self) -> None:
        tag = ensure_services_image(
            ca_bundle=find_ca_bundle(os.environ.get(SETTING)), progress=print
        )
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._environ |= {
            "COLDFRAME_IMAGE": tag,
            "COLDFRAME_PORT": str(port),
            "COLDFRAME_PREVIEW_PORT": str(free_port()),
        }
        subprocess.run(
            ["sh", "container/services/new-env", str(self._env_file)], cwd=REPOSITORY, check=True
        )
        # As systemd leaves `/`: what is mounted below it in a container is mounted here, too.
        self.state_dir.mkdir()
        _run("mount", "--bind", str(self.state_dir), str(self.state_dir))
        _run("mount", "--make-shared", str(self.state_dir))
        self.compose("up", "-d", "--no-build")
        for service in self.services():
            self.wait_until_healthy(service)

    def down(self) -> None:
        """As docs/operations.md says it."""
        if not self._url:
            return
        self.compose("stop", "worker")
        self.compose(
            "run", "--rm", "--no-deps", "worker", "python", "-m", "workers", "remove-sandboxes"
        )
        self.compose("down", "-v")
        self._url = ""

    def forget(self) -> None:
        """Whatever became of it: what `down` could not remove, its mounts, its directory."""
        for container in (*self.containers(), *self._sandboxes()):
            with suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
        for left in (*self._networks(), *self._volumes()):
            with suppress(docker.errors.APIError):
                left.remove()
        subprocess.run(["umount", "--recursive", "--lazy", self.state_dir], check=False)
        shutil.rmtree(self.state_dir, ignore_errors=True)
        self._docker.close()

    def compose(self, *arguments: str) -> str:
        """What `docker-compose` printed."""
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        done = subprocess.run(
            [*command, "--env-file", str(self._env_file), *arguments],
            check=False,
            cwd=REPOSITORY,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}"
        return done.stdout

    def services(self) -> list[str]:
        """Those that are to run for good."""
        named = self.compose("config", "--services").split()
        return sorted(service for service in named if service != "prepare")

    def containers(self) -> list[Any]:
        return list(self._docker.containers.list(all=True, filters=self._own()))

    def state(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        (container,) = self._docker.containers.list(all=True, filters=self._own(service))
        return dict(container.attrs["State"])

    def wait_until_healthy(self, service: str, *, not_as: str = "") -> None:
        """Since a later start than `not_as`."""

        def is_healthy() -> bool:
            state = self.state(service)
            return bool(state["StartedAt"] != not_as and state["Health"]["Status"] == "healthy")

        wait_for(is_healthy, f"{service} is healthy", deadline_s=BACK_S)

    def kill(self, service: str) -> None:
        """As an accident does: `docker kill` would be the operator's own wish, and no accident."""
        os.kill(int(self.state(service)["Pid"]), signal.SIGKILL)

    def leftovers(self) -> dict[str, list[str]]:
        """What there still is of it on this machine, by kind."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        groups = Path("/sys/fs/cgroup").glob(f"**/coldframe/{self._owner}")
        return {
            "containers": [container.name for container in self.containers()],
            "sandboxes": [container.name for container in self._sandboxes()],
            "networks": [network.name for network in self._networks()],
            "volumes": [volume.name for volume in self._volumes()],
            "control groups": [str(group) for group in groups],
            "mounts": [line for line in mounts if f"{self.state_dir}/" in line],
            "directories": [path.name for path in (self.state_dir / "sandboxes").iterdir()],
        }

    @property
    def access(self) -> ClientEnv:
        """The API's address and key."""
        return ClientEnv(self._url, self._secrets()["COLDFRAME_API_KEY"])

    def secrets(self) -> list[str]:
        """The API key, and all services' passwords."""
        return list(self._secrets().values())

    @contextmanager
    def connected(self) -> Iterator[Client]:
        client = Client(self.access.url, self.access.api_key)
        with client.http:
            yield client

    def _sandboxes(self) -> list[Any]:
        return list(
            self._docker.containers.list(
                all=True, filters={"label": f"coldframe.node={self._project}"}
            )
        )

    def _networks(self) -> list[Any]:
        return list(self._docker.networks.list(filters=self._own()))

    def _volumes(self) -> list[Any]:
        return list(self._docker.volumes.list(filters=self._own()))

    def _secrets(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._env_file.read_text().splitlines())

    @property
    def _owner(self) -> str:
        return owner_of(self.state_dir, self._project)

    def _own(self, service: str = "") -> dict[str, str | list[str] | bool]:
        """What finds the project's own, or those of one service."""
        labels = [f"com.docker.compose.project={self._project}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        return {"label": labels}


def need_compose() -> None:
    if shutil.which("docker-compose") is None and _fails("docker", "compose", "version"):
        pytest.skip("docker-compose is not installed")
    if os.geteuid() != 0:
        pytest.skip("not root, who alone can share a mount and see what is left")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _fails(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode != 0
