"""What goes wrong: each fault kills one thing and puts it back, as a machine's operator would."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker.errors

from tests.chaos.ledger import Books
from tests.engine import Engine
from tests.platform import Platform

LONGEST_AWAY_S = 1.5


class Faults:
    """Chosen by a generator of random numbers, so that a seed names a run."""

    def __init__(
        self, platform: Platform, engine: Engine, books: Books, rng: random.Random
    ) -> None:
        self._platform = platform
        self._engine = engine
        self._books = books
        self._rng = rng
        self._all: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._away("worker", platform.kill),
            "worker stopped": lambda: self._away("worker", platform.stop),
            "web killed": lambda: self._away("web", platform.kill),
            "redis killed": lambda: self._away("redis", platform.kill),
            "redis stopped": lambda: self._away("redis", platform.stop),
            "engine killed": lambda: self._engine_away(engine.kill),
            "engine stopped": lambda: self._engine_away(engine.stop),
            "engine frozen": self._engine_frozen,
            "container killed": lambda: self._kill_in_sandbox(_kill_container),
            "runtime killed": lambda: self._kill_in_sandbox(_kill_runtime),
            "worker and redis killed": self._worker_and_redis,
        }
        self.names = sorted(self._all)

    def strike(self, name: str) -> None:
        """Back when what was killed was started again."""
        self._all[name]()

    def _away(self, program: str, end: Callable[[str], None]) -> None:
        end(program)
        self._pause()
        self._platform.start(program)

    def _worker_and_redis(self) -> None:
        self._platform.kill("redis")
        self._platform.kill("worker")
        self._pause()
        self._platform.start("redis")
        self._platform.start("worker")

    def _engine_away(self, end: Callable[[], None]) -> None:
        end()
        self._pause()
        self._engine.start()

    def _engine_frozen(self) -> None:
        self._engine.freeze()
        self._pause()
        self._engine.thaw()

    def _kill_in_sandbox(self, kill: Callable[[Any], None]) -> None:
        client = self._engine.client()
        try:
            containers = client.containers.list(
                filters={"label": "coldframe.sandbox"}, ignore_removed=True
            )
            if not containers:
                return
            container = self._rng.choice(sorted(containers, key=lambda one: str(one.name)))
            # It may end by itself meanwhile, as a victim of the fault before.
            ended = suppress(docker.errors.APIError, ProcessLookupError, FileNotFoundError)
            with ended, _standing_still(container):
                sandbox_id = container.labels["coldframe.sandbox"]
                sandboxes = self._platform.state_dir / "sandboxes"
                self._books.read_ledger(sandbox_id, sandboxes, killed=True)
                kill(container)
        finally:
            client.close()

    def _pause(self) -> None:
        time.sleep(self._rng.uniform(0, LONGEST_AWAY_S))


@contextmanager
def _standing_still(container: Any) -> Iterator[None]:
    """So that its ledger is whole when it is read, and nothing follows."""
    container.pause()
    try:
        yield
    finally:
        with suppress(docker.errors.APIError):
            container.unpause()


def _kill_container(container: Any) -> None:
    os.kill(_pid_of(container), signal.SIGKILL)


def _kill_runtime(container: Any) -> None:
    """The one child of the container's init."""
    children = Path(f"/proc/{_pid_of(container)}/task/{_pid_of(container)}/children")
    for pid in children.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def _pid_of(container: Any) -> int:
    container.reload()
    pid = int(container.attrs["State"]["Pid"])
    if pid == 0:  # To a signal it would mean ourselves.
        raise ProcessLookupError
    return pid
