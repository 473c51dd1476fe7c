"""Docker's engine goes away and comes back: said at once, and nothing that was accepted is lost."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.client import Client, check_stream, stdout_of, wait_for
from tests.conftest import DRIVER
from tests.platform import Platform

ENGINE = Path("/var/run/docker.sock")

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="there is no engine to go away")


class Door:
    """A socket in front of the engine's own, that can be shut without touching the engine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener: socket.socket | None = None
        self._through: list[socket.socket] = []

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Who stands in it is cut off too. May be called again."""
        if self._listener is None:
            return
        self.path.unlink()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        for connection in self._through:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._through.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._through.append(connection)
            threading.Thread(target=_forward, args=(connection,), daemon=True).start()


def _forward(front: socket.socket) -> None:
    with front, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as back:
        back.connect(str(ENGINE))
        with selectors.DefaultSelector() as selector:
            selector.register(front, selectors.EVENT_READ, back)
            selector.register(back, selectors.EVENT_READ, front)
            while True:
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(65536)
                        target.sendall(data)
                    except OSError:
                        return
                    if not data:
                        return


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door = Door(tmp_path_factory.mktemp("d") / "docker.sock")
    door.open()
    yield door
    door.shut()


@pytest.fixture(scope="module")
def own_platform(door: Door, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own, whose engine is behind the door."""
    state_dir = tmp_path_factory.mktemp("p") / "s"
    with Platform.running(state_dir, "docker", DOCKER_HOST=f"unix://{door.path}") as platform:
        yield platform


@pytest.fixture(scope="module")
def behind(own_platform: Platform) -> Iterator[Client]:
    with own_platform.connected() as client:
        yield client


def test_an_engine_that_is_away_is_said_and_what_was_accepted_runs_when_it_is_back(
    behind: Client, door: Door, archive: str
) -> None:
    behind.sandbox("before")

    door.shut()
    wait_for(lambda: behind.http.get("/readyz").status_code == 503, "the engine is missed")
    refused = behind.http.put("/v1/sandboxes/new", json={}, timeout=3)
    still_runs = behind.exec("before", "echo still here")
    door.open()
    wait_for(lambda: behind.http.get("/readyz").status_code == 200, "the engine is found")

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_node"
    assert "Docker" in refused.text
    assert still_runs["stdout"] == "still here\n"
    assert behind.sandbox("after")["state"] == "running"


def test_a_build_that_was_accepted_waits_for_the_engine(
    behind: Client, door: Door, archive: str
) -> None:
    door.shut()
    body = {"archive": archive, "steps": [{"name": "show", "commands": ["cat greeting.txt"]}]}
    job_id = behind.submit("/v1/builds", body)
    with behind.following(job_id) as events:
        assert next(events).event["type"] == "start"
    door.open()

    received = behind.follow_to_the_end(job_id)

    check_stream(received)
    assert stdout_of(received) == "hello\n"
    assert received[-1].event["conclusion"] == "success"


def test_a_build_that_was_accepted_outlives_a_redis_that_goes_away_before_its_sandbox_is_made(
    own_platform: Platform, behind: Client, door: Door, archive: str
) -> None:
    door.shut()
    body = {"archive": archive, "steps": [{"name": "show", "commands": ["cat greeting.txt"]}]}
    job_id = behind.submit("/v1/builds", body)
    with behind.following(job_id) as events:
        assert next(events).event["type"] == "start"
    own_platform.stop("redis")
    door.open()
    worker_log = own_platform.state_dir / "logs" / "worker.log"
    wait_for(lambda: "waiting for redis" in worker_log.read_text(), "the build waits for Redis")
    own_platform.start("redis")

    received = behind.follow_to_the_end(job_id)

    check_stream(received)
    assert stdout_of(received) == "hello\n"
    assert received[-1].event["conclusion"] == "success"


def test_a_worker_that_starts_without_the_engine_loses_none_of_its_sandboxes(
    own_platform: Platform, behind: Client, door: Door
) -> None:
    behind.sandbox("kept")
    behind.exec("kept", "left=over")

    own_platform.kill("worker")
    door.shut()
    own_platform.start("worker")
    job_id = behind.start_exec("kept", "echo $left")
    wait_for(lambda: behind.job(job_id)["status"] == "running", "the job was claimed")
    door.open()

    received = behind.follow_to_the_end(job_id)
    check_stream(received)
    assert stdout_of(received) == "over\n"
