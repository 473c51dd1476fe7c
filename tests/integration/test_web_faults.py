"""The web while Redis is away, hangs, is full, or drops the connection that wakes readers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from werkzeug.test import TestResponse

from tests.integration.web_client import (
    AT_ONCE,
    STREAM,
    Json,
    Web,
    code_of,
    json_of,
    received,
    wait_for,
    web_on,
)
from tests.integration.web_node import FakeNode
from tests.redis_server import RedisServer
from workers.contract.jobs import Job
from workers.contract.store import JobStore, Submitted

EXEC = "/v1/sandboxes/box/exec"

AT_ONCE_S = 15
"""Less than a heartbeat of 20 s, or a Redis that never answers; more than a busy machine takes."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be stopped."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def node(server: RedisServer) -> Iterator[FakeNode]:
    with FakeNode(server) as node:
        yield node


@pytest.fixture
def web(server: RedisServer, node: FakeNode) -> Iterator[Web]:
    with web_on(server) as web:
        web.sandbox()
        web.exec("say warm")
        yield web


def timed(web: Web, method: str, path: str, body: Json | None) -> tuple[TestResponse, float]:
    started = time.monotonic()
    answer = web.send(method, path, body)
    return answer, time.monotonic() - started


ROUTES = [
    ("POST", EXEC, {"command": "say hi"}),
    ("POST", "/v1/sandboxes/box/code", {"code": "1"}),
    ("PUT", "/v1/sandboxes/other", {}),
    ("DELETE", "/v1/sandboxes/box", None),
    ("GET", "/v1/sandboxes", None),
    ("GET", "/v1/jobs", None),
    ("GET", f"/v1/jobs/{'a' * 26}/events", None),
    ("GET", "/v1/nodes", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_without_redis_every_route_says_so_at_once(
    web: Web, server: RedisServer, method: str, path: str, body: Json | None
) -> None:
    server.stop()

    answer, took_s = timed(web, method, path, body)

    assert (answer.status_code, code_of(answer)) == (503, "store_unavailable")
    assert answer.headers["Retry-After"] == "2"
    assert took_s < AT_ONCE_S


@pytest.mark.parametrize(("method", "path", "body"), ROUTES[:6])
def test_a_redis_that_hangs_hangs_nobody(
    web: Web, server: RedisServer, method: str, path: str, body: Json | None
) -> None:
    assert server._process is not None
    server._process.send_signal(signal.SIGSTOP)
    try:
        answer, took_s = timed(web, method, path, body)
    finally:
        server._process.send_signal(signal.SIGCONT)

    assert (answer.status_code, code_of(answer)) == (503, "store_unavailable")
    assert took_s < AT_ONCE_S


def test_health_does_not_need_redis_and_readiness_says_what_is_missing(
    web: Web, server: RedisServer
) -> None:
    server.stop()

    assert web.send("GET", "/healthz").status_code == 200
    ready = web.send("GET", "/readyz")
    assert (ready.status_code, code_of(ready)) == (503, "not_ready")
    assert "Redis" in json_of(ready)["error"]["details"]["reasons"][0]
    assert "coldframe_redis_up 0.0" in web.send("GET", "/metrics").text


def test_the_web_recovers_by_itself(web: Web, server: RedisServer) -> None:
    server.stop()
    assert web.send("POST", EXEC, {"command": "say hi"}).status_code == 503

    server.start()

    wait_for(lambda: web.send("GET", "/readyz").status_code == 200, "the node beats again")
    assert web.exec("say back")["stdout"] == "back\n"


def test_a_stream_outlives_a_restart_of_redis(
    web: Web, server: RedisServer, node: FakeNode
) -> None:
    with ThreadPoolExecutor(2) as pool:
        streaming = pool.submit(web.send, "POST", EXEC, {"command": "hold"}, STREAM)
        waiting = pool.submit(web.send, "POST", EXEC, {"argv": ["hold"]})
        wait_for(
            lambda: (
                [job["status"] for job in json_of(web.send("GET", "/v1/jobs"))["jobs"][:2]]
                == ["running"] * 2
            ),
            "both run",
        )
        time.sleep(1.1)  # Redis writes to its disk once a second.

        server.kill()
        time.sleep(0.5)
        server.start()
        node.let_go.set()

        events = received(streaming.result(timeout=20).text)
        assert [event.event["type"] for event in events] == ["start", "stdout", "complete"]
        assert [event.id for event in events] == ["1-1", "1-2", "1-3"]
        assert json_of(waiting.result(timeout=20))["stdout"] == "holding\n"


def test_a_stream_ends_without_a_terminal_event_when_redis_stays_away(
    server: RedisServer, node: FakeNode
) -> None:
    with web_on(server, patience_s=0.5) as web:
        web.sandbox()
        with ThreadPoolExecutor(2) as pool:
            streaming = pool.submit(web.send, "POST", EXEC, {"command": "hold"}, STREAM)
            waiting = pool.submit(web.send, "POST", EXEC, {"argv": ["hold"]})
            wait_for(lambda: len(json_of(web.send("GET", "/v1/jobs"))["jobs"]) == 2, "both are in")

            server.stop()

            answer = streaming.result(timeout=20)
            assert answer.status_code == 200
            types = [event.event["type"] for event in received(answer.text)]
            assert "complete" not in types
            assert "error" not in types
            assert code_of(waiting.result(timeout=20)) == "store_unavailable"


def test_readers_miss_nothing_while_their_wake_up_is_cut_again_and_again(
    web: Web, server: RedisServer
) -> None:
    killer = redis.Redis(port=server.port)
    with ThreadPoolExecutor(8) as pool:
        streams = [
            pool.submit(web.send, "POST", EXEC, {"argv": ["count", "300"]}, STREAM)
            for _ in range(8)
        ]
        while not all(stream.done() for stream in streams):
            killer.client_kill_filter(_type="pubsub")
            time.sleep(0.1)
    killer.close()

    for stream in streams:
        events = received(stream.result().text)
        assert [event.id for event in events] == [f"1-{seq}" for seq in range(1, 303)]
        assert events[-1].event["type"] == "complete"


def test_nothing_new_is_accepted_while_redis_is_nearly_full(web: Web, server: RedisServer) -> None:
    # Not in a session: what the node cannot claim for want of memory would block its line.
    program = {"argv": ["say", "hi"]}
    with redis.Redis(port=server.port) as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", int(used * 1.05))

        wait_for(
            lambda: " % " in web.send("POST", EXEC, program, AT_ONCE).text,
            "the web has looked",
        )
        answers = [
            web.send("POST", EXEC, program),
            web.send("PUT", "/v1/sandboxes/other", {}),
        ]
        found = web.send("PUT", "/v1/sandboxes/box", {})
        client.config_set("maxmemory", 0)

    assert [(a.status_code, code_of(a)) for a in answers] == [(503, "store_full")] * 2
    assert found.status_code == 200
    wait_for(lambda: web.send("GET", "/readyz").status_code == 200, "it is ready")
    wait_for(lambda: web.send("POST", EXEC, program).status_code == 200, "it accepts again")


def test_a_job_that_was_accepted_is_told_so_even_if_redis_goes_away_in_that_moment(
    web: Web, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = JobStore.submit

    def submit_and_stop(self: JobStore, job: Job, **options: Any) -> Submitted:
        submitted = submit(self, job, **options)
        time.sleep(1.1)  # Redis writes to its disk once a second.
        server.kill()
        return submitted

    monkeypatch.setattr(JobStore, "submit", submit_and_stop)
    started = time.monotonic()

    answer = web.send("POST", EXEC, {"command": "say hi"}, AT_ONCE)

    assert answer.status_code == 202
    assert time.monotonic() - started < AT_ONCE_S
    server.start()
    assert web.events(json_of(answer)["id"])[-1].event["type"] == "complete"


def test_a_job_that_begins_while_the_wake_up_is_cut_is_answered_without_a_heartbeat(
    server: RedisServer, node: FakeNode
) -> None:
    with web_on(server, heartbeat_s=20.0) as web, redis.Redis(port=server.port) as killer:
        web.sandbox()
        with ThreadPoolExecutor(1) as pool:
            # The hub has a connection to lose only while somebody reads.
            other = pool.submit(web.send, "POST", EXEC, {"argv": ["hold"]}, STREAM)
            wait_for(lambda: killer.client_list(_type="pubsub"), "the hub has subscribed")
            killer.client_kill_filter(_type="pubsub")
            wait_for(lambda: not killer.client_list(_type="pubsub"), "it is cut")

            answer, took_s = timed(web, "POST", EXEC, {"command": "say hi"})
            node.let_go.set()
            other.result()

    assert json_of(answer)["stdout"] == "hi\n"
    assert took_s < AT_ONCE_S
