"""Does with Docker alone what the platform is compared with."""

from __future__ import annotations

import subprocess

import docker
import docker.errors

from bench.errors import BaselineFailed

CALL_TIMEOUT_S = 120
API_VERSION = "1.41"
"""Docker Engine 20.10 and later."""


class DockerBaseline:
    """Works in the container of one of the platform's sandboxes."""

    def __init__(self, sandbox_id: str) -> None:
        """Raises `BaselineFailed` where Docker, or the sandbox's container, is not here."""
        self._name = f"coldframe-{sandbox_id}"
        try:
            # Asks nobody yet, so there is nothing to close where Docker is not here.
            self._client = docker.from_env(timeout=CALL_TIMEOUT_S, version=API_VERSION)
            self._container = self._client.containers.get(self._name)
        except docker.errors.DockerException as error:
            raise BaselineFailed(f"Docker: {error}") from error
        self._image = str(self._container.attrs["Image"])
        self.init_pid = int(self._container.attrs["State"]["Pid"])

    def join_bridge(self) -> str:
        """Its address on the engine's own bridge: on the sandbox's, this machine is kept out.

        Raises `BaselineFailed` where the sandbox has no network.
        """
        try:
            self._client.networks.get("bridge").connect(self._container)
            self._container.reload()
        except docker.errors.DockerException as error:
            raise BaselineFailed(f"Docker: {error}") from error
        networks = self._container.attrs["NetworkSettings"]["Networks"]
        return str(networks["bridge"]["IPAddress"])

    def close(self) -> None:
        self._client.close()

    def exec_by_cli(self, command: str) -> bytes:
        """What the command printed."""
        return _run(["docker", "exec", self._name, "bash", "-c", command])

    def exec_by_sdk(self, command: str) -> None:
        code, output = self._container.exec_run(["bash", "-c", command])
        if code != 0:
            raise BaselineFailed(f"docker exec ended with {code}: {output!r}")

    def run(self, *argv: str) -> None:
        """`docker run --rm` of the sandbox's image."""
        _run(["docker", "run", "--rm", "--entrypoint", argv[0], self._image, *argv[1:]])


def _run(argv: list[str]) -> bytes:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=CALL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BaselineFailed(f"{' '.join(argv[:2])}: {error}") from error
    if done.returncode != 0:
        raise BaselineFailed(f"{' '.join(argv[:2])} ended with {done.returncode}: {done.stderr!r}")
    return done.stdout
