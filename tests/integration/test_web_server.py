"""The web as it is served: gunicorn with gevent, real sockets, clients that leave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from stack.ports import free_port
from tests.integration.web_client import AT_ONCE, AUTH, KEY, STREAM, received, wait_for
from tests.integration.web_node import FakeNode
from tests.redis_server import RedisServer

EXEC = "/v1/sandboxes/box/exec"
HEARTBEAT_S = 0.5


class Served:
    """A gunicorn of the test's own."""

    def __init__(self, server: RedisServer, repository: Path, log: Path) -> None:
        self.port = free_port()
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._repository = repository
        self._environment = {
            **os.environ,
            "COLDFRAME_API_KEY": KEY,
            "COLDFRAME_REDIS_URL": server.url,
            "COLDFRAME_PORT": str(self.port),
            "COLDFRAME_HEARTBEAT_S": str(HEARTBEAT_S),
            "COLDFRAME_MAX_BODY_BYTES": "65536",
        }

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "--config", "web/gunicorn_conf.py"),
                    "web.app:create_app()",
                ],
                cwd=self._repository,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, "gunicorn answers", 20)

    def end(self, sign: signal.Signals) -> None:
        assert self.process is not None
        workers = psutil.Process(self.process.pid).children()
        self.process.send_signal(sign)
        self.process.wait(timeout=20)
        if sign is signal.SIGKILL:
            for worker in workers:
                worker.kill()
            psutil.wait_procs(workers, timeout=10)

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers=AUTH, timeout=20, trust_env=False
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def readers(self) -> float:
        return float(_metric(self.client, "coldframe_readers"))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200
        except httpx.TransportError:
            return False


def _metric(client: object, name: str) -> str:
    assert callable(client)
    with client() as http:
        lines = http.get("/metrics").text.splitlines()
    return str(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture(scope="module")
def served(
    redis_server: RedisServer, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    redis_server.empty()
    served = Served(redis_server, repository, tmp_path_factory.mktemp("web") / "web.log")
    served.start()
    yield served
    served.end(signal.SIGTERM)


@pytest.fixture
def node(redis_server: RedisServer) -> Iterator[FakeNode]:
    redis_server.empty()
    with FakeNode(redis_server) as node:
        yield node


@pytest.fixture
def http(served: Served, node: FakeNode) -> Iterator[httpx.Client]:
    with served.client() as client:
        assert client.put("/v1/sandboxes/box", json={}).status_code == 201
        yield client


@contextmanager
def streaming(
    http: httpx.Client, command: str, **fields: object
) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
    body = {"command": command, **fields}
    with http.stream("POST", EXEC, json=body, headers=STREAM) as response:
        assert response.status_code == 200
        yield response, response.iter_lines()


def job_id_of(response: httpx.Response) -> str:
    return str(response.headers["Location"])[-26:]


def status_of(http: httpx.Client, job_id: str) -> str:
    job = http.get(f"/v1/jobs/{job_id}").json()
    return str(job.get("conclusion", job["status"]))


def test_events_arrive_while_the_job_runs(http: httpx.Client, node: FakeNode) -> None:
    with streaming(http, "hold") as (_, lines):
        seen = []
        for line in lines:
            seen.append(line)
            if '"holding\\n"' in line:
                node.let_go.set()

    assert seen[0] == ": ok"
    assert "".join(seen).count('"type":"complete"') == 1


def test_the_first_byte_comes_before_the_job_has_said_anything(
    http: httpx.Client, node: FakeNode
) -> None:
    head = http.post(EXEC, json={"command": "hold"}, headers=AT_ONCE).json()["id"]
    wait_for(lambda: status_of(http, head) == "running", "the head of the line runs")

    with streaming(http, "say queued") as (_, lines):
        first = next(lines)

    assert first == ": ok"
    assert status_of(http, head) == "running"
    node.let_go.set()


def test_a_silent_stream_hears_a_heartbeat(http: httpx.Client, node: FakeNode) -> None:
    with streaming(http, "hold") as (_, lines):
        beats = 0
        for line in lines:
            beats += line == ": hb"
            if beats == 3:
                break
    node.let_go.set()

    assert beats == 3


def test_a_reader_that_left_is_let_go_and_its_job_goes_on(
    served: Served, http: httpx.Client, node: FakeNode
) -> None:
    with streaming(http, "hold") as (response, lines):
        next(lines)
        job_id = job_id_of(response)
        wait_for(lambda: served.readers() == 1, "nobody else reads")

    wait_for(lambda: served.readers() == 0, "the reader is let go", 5)
    assert status_of(http, job_id) == "running"
    node.let_go.set()
    wait_for(lambda: status_of(http, job_id) == "success", "the job ends by itself")


def test_a_job_that_asked_for_it_is_cancelled_when_its_stream_is_left(http: httpx.Client) -> None:
    with streaming(http, "hold", cancelOnDisconnect=True) as (response, lines):
        next(lines)
        job_id = job_id_of(response)

    wait_for(lambda: status_of(http, job_id) == "cancelled", "the job is cancelled", 5)


def test_a_job_that_asked_for_it_is_cancelled_when_its_waiting_client_leaves(
    served: Served, http: httpx.Client
) -> None:
    body = b'{"command": "hold", "cancelOnDisconnect": true}'
    with served.connect() as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (EXEC.encode(), KEY.encode(), len(body), body)
        )
        wait_for(lambda: len(http.get("/v1/jobs").json()["jobs"]) == 1, "the job is there")
        job_id = http.get("/v1/jobs").json()["jobs"][0]["id"]
        wait_for(lambda: status_of(http, job_id) == "running", "it runs")

    wait_for(lambda: status_of(http, job_id) == "cancelled", "the job is cancelled", 5)


def test_a_waiting_client_that_leaves_frees_its_place_and_ends_nothing(
    served: Served, http: httpx.Client, node: FakeNode
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.post(EXEC, json={"command": "hold"}, timeout=0.5)

    wait_for(lambda: served.readers() == 0, "the place is free", 5)
    job_id = http.get("/v1/jobs").json()["jobs"][0]["id"]
    assert status_of(http, job_id) == "running"


def test_a_killed_web_loses_nothing_of_a_stream(
    redis_server: RedisServer, repository: Path, tmp_path: Path, node: FakeNode
) -> None:
    own = Served(redis_server, repository, tmp_path / "web.log")
    own.start()
    with own.client() as http:
        http.put("/v1/sandboxes/box", json={})
        seen = ""
        with streaming(http, "hold") as (response, lines):
            job_id = job_id_of(response)
            for line in lines:
                if line.startswith("id: "):
                    seen = line.removeprefix("id: ")
                if '"holding' in line:
                    break
            own.end(signal.SIGKILL)
    own.start()
    node.let_go.set()

    with own.client() as http:
        answer = http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": seen})
    own.end(signal.SIGTERM)

    assert seen == "1-2"
    assert [(e.id, e.event["type"]) for e in received(answer.text)] == [("1-3", "complete")]


def test_a_web_that_is_asked_to_stop_does_not_wait_for_its_streams(
    redis_server: RedisServer, repository: Path, tmp_path: Path, node: FakeNode
) -> None:
    own = Served(redis_server, repository, tmp_path / "web.log")
    own.start()
    with own.client() as http:
        http.put("/v1/sandboxes/box", json={})
        with streaming(http, "hold") as (_, lines):
            next(lines)
            started = time.monotonic()

            own.end(signal.SIGTERM)

            assert time.monotonic() - started < 9
    assert "Traceback" not in own.log.read_text()


def test_two_hundred_readers_see_the_same_over_one_connection_for_wake_ups(
    http: httpx.Client, served: Served, node: FakeNode
) -> None:
    job_id = http.post(EXEC, json={"command": "hold"}, headers=AT_ONCE).json()["id"]

    def read(_: int) -> str:
        with served.client() as own:
            return own.get(f"/v1/jobs/{job_id}/events").text

    with ThreadPoolExecutor(200) as pool:
        readers = [pool.submit(read, n) for n in range(200)]
        wait_for(lambda: served.readers() == 200, "all read", 30)
        clients = node.stream._client.client_list()
        node.let_go.set()
        texts = {str([event.id for event in received(r.result())]) for r in readers}

    assert texts == {"['1-1', '1-2', '1-3']"}
    assert sum(int(client["sub"]) > 0 for client in clients) == 1
    wait_for(lambda: served.readers() == 0, "all places are free")


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_a_body_over_the_limit_is_refused_however_it_is_sent(
    served: Served, http: httpx.Client, how: str
) -> None:
    body = b'{"command": "' + b"x" * 100_000 + b'"}'
    content = body if how == "length" else iter([body[:50_000], body[50_000:]])

    answer = http.post(EXEC, content=content, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert http.get("/v1/jobs").status_code == 200


def test_a_body_that_stops_halfway_holds_up_nobody(served: Served, http: httpx.Client) -> None:
    with served.connect() as slow:
        slow.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\n"
            b'Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"command"'
            % (EXEC.encode(), KEY.encode())
        )

        answer = http.post(EXEC, json={"command": "say hi"})

    assert answer.json()["stdout"] == "hi\n"


def test_what_reads_like_a_second_request_is_none(served: Served, node: FakeNode) -> None:
    with served.connect() as connection:
        connection.sendall(
            b"POST /v1/jobs/x/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"
        )
        answer = connection.recv(65536).decode()

    assert answer.startswith(("HTTP/1.1 400", "HTTP/1.1 401"))
    assert answer.count("HTTP/1.1") == 1


def test_nothing_of_what_went_on_left_a_traceback_or_the_key_in_the_log(served: Served) -> None:
    text = served.log.read_text()

    assert "Traceback" not in text
    assert KEY not in text
