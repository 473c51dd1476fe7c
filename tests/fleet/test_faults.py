"""Two nodes at work: one is cut off from Redis for a while, then the other is killed for good.

`COLDFRAME_TEST_CUT_S` says how long the cut is, in seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import httpx
import pytest

from stack.certificates import WEB, make_certificates
from stack.ports import free_port
from tests.client import Client, Received, check_stream, wait_for
from tests.conftest import DRIVER
from tests.engine import Engine
from tests.platform import Platform
from tests.redis_server import RedisServer
from tests.wire import Wire

CUT_S = float(os.environ.get("COLDFRAME_TEST_CUT_S", "20"))
LOST_AFTER_S = "12"
NODES = ("node-1", "node-2")
LEDGER = "/workspace/ledger"
JOBS_PER_PHASE = 40
END_DEADLINE_S = 90.0

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="nodes have engines of their own")


class Sent(NamedTuple):
    """A job that was accepted."""

    id: str
    box: str
    line: str


class Fleet(NamedTuple):
    """A web without a node, and two nodes; the first one's wire to Redis can be cut."""

    api: Client
    nodes: dict[str, Platform]
    engines: dict[str, Engine]
    wire: Wire

    def ready(self) -> set[str]:
        found = self.api.http.get("/v1/nodes").json()["nodes"]
        return {node["id"] for node in found if node["ready"]}

    def make_box(self, name: str, node: str) -> None:
        """On this node: the others are drained for the while."""
        others = self.ready() - {node}
        for other in others:
            self.api.http.post(f"/v1/nodes/{other}/drain")
        wait_for(lambda: self._drained() == others, "the others are drained")
        assert self.api.sandbox(name, network="none")["node"] == node
        for other in others:
            self.api.http.post(f"/v1/nodes/{other}/undrain")
        wait_for(lambda: not self._drained(), "nobody is drained")

    def _drained(self) -> set[str]:
        found = self.api.http.get("/v1/nodes").json()["nodes"]
        return {node["id"] for node in found if node["drained"]}

    def ledger(self, box_id: str, node: str) -> Counter[str]:
        """Read from the node's disk, where the sandbox may be no more."""
        path = self.nodes[node].state_dir / "sandboxes" / box_id / "volume" / LEDGER[1:]
        return Counter(path.read_text().splitlines() if path.exists() else ())


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("f")
    certificates = directory / "tls"
    (directory / "redis").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(directory / "redis"))
        wire = stack.enter_context(Wire(server.port))
        urls = {"node-1": f"redis://127.0.0.1:{wire.port}/0", "node-2": server.url}
        nodes, engines = {}, {}
        for node in NODES:
            engine = Engine(directory / node[-1])
            stack.callback(engine.leave)
            engine.start()
            platform = Platform(
                directory / node,
                "docker",
                DOCKER_HOST=engine.host,
                COLDFRAME_NODE=node,
                COLDFRAME_REDIS_URL=urls[node],
                COLDFRAME_RELAY_ADDRESS=f"127.0.0.1:{free_port()}",
                COLDFRAME_TLS_DIR=str(make_certificates(certificates, node)),
                COLDFRAME_NODE_LOST_S=LOST_AFTER_S,
            )
            stack.callback(platform.down)
            stack.callback(engine.ensure)
            platform.set_up_with_image(engine.load_small_image())
            for program in ("worker", "relay"):
                platform.start(program)
            nodes[node], engines[node] = platform, engine
        web = Platform(
            directory / "w",
            "local",
            COLDFRAME_NODE="none",
            COLDFRAME_REDIS_URL=server.url,
            COLDFRAME_TLS_DIR=str(make_certificates(certificates, WEB)),
            COLDFRAME_LOCAL_PYTHON="/usr/bin/python3",
        )
        web.set_up()
        stack.callback(web.stop, "web")
        web.start("web")
        api = stack.enter_context(web.connected())
        fleet = Fleet(api, nodes, engines, wire)
        wait_for(lambda: _nodes_ready(fleet), "both nodes are ready", 90)
        yield fleet
        wire.mend()


def _nodes_ready(fleet: Fleet) -> bool:
    try:
        return fleet.ready() == set(NODES)
    except httpx.TransportError:
        return False


def test_no_job_is_lost_or_run_twice_and_each_stream_has_one_ending(
    fleet: Fleet, archive: str
) -> None:
    boxes = {"a1": "node-1", "b1": "node-1", "a2": "node-2", "b2": "node-2"}
    ids = {}
    for box, node in boxes.items():
        fleet.make_box(box, node)
        ids[box] = str(fleet.api.http.get(f"/v1/sandboxes/{box}").json()["id"])
    sent: list[Sent] = []
    builds: list[str] = []
    told: dict[str, list[Received]] = {}

    def send(phase: str) -> None:
        for number in range(JOBS_PER_PHASE):
            box = list(boxes)[number % len(boxes)]
            line = f"{phase}-{number}"
            command = f"echo {line} >> {LEDGER}; sleep 0.2; echo {line}"
            job = fleet.api.start_exec(box, command)
            sent.append(Sent(job, box, line))
        steps = [{"name": "s", "commands": ["cat greeting.txt", "sleep 3"]}]
        body = {"archive": archive, "steps": steps, "retries": 2, "sandbox": {"network": "none"}}
        builds.extend(fleet.api.submit("/v1/builds", body) for _ in range(3))

    def follow(job: str) -> None:
        told[job] = fleet.api.follow_to_the_end(job, deadline_s=CUT_S + 2 * END_DEADLINE_S)

    followers: list[threading.Thread] = []

    def follow_new() -> None:
        for job in (*(one.id for one in sent), *builds):
            if job not in {thread.name for thread in followers}:
                thread = threading.Thread(target=follow, args=(job,), name=job, daemon=True)
                followers.append(thread)
                thread.start()

    send("before")
    follow_new()
    fleet.wire.cut()
    send("cut")
    follow_new()
    time.sleep(CUT_S)  # It is what is tested, and nothing tells its end.
    fleet.wire.mend()
    wait_for(lambda: fleet.ready() == set(NODES), "the cut node is back", 60)
    send("mended")
    follow_new()
    for program in ("worker", "relay"):
        fleet.nodes["node-2"].kill(program)
    fleet.engines["node-2"].kill()
    send("killed")
    follow_new()
    for thread in followers:
        thread.join(timeout=CUT_S + 2 * END_DEADLINE_S)

    assert set(told) == {*(one.id for one in sent), *builds}
    for job in sent:
        received = told[job.id]
        check_stream(received)
        last = received[-1].event
        lines = fleet.ledger(ids[job.box], boxes[job.box])[job.line]
        if last["type"] == "complete":
            assert (last["conclusion"], lines) == ("success", 1), job
        else:
            assert last["code"] == "node_lost", job
            assert lines <= 1, job
    for build in builds:
        last = told[build][-1].event
        attempt = int(told[build][-1].id.partition("-")[0])
        check_stream([one for one in told[build] if one.id.startswith(f"{attempt}-")], attempt)
        assert (last["type"], last.get("conclusion")) == ("complete", "success"), last
    ends = Counter(told[job.id][-1].event["type"] for job in sent)
    assert ends["complete"] >= JOBS_PER_PHASE // 2
    late = fleet.api.exec("a1", f"echo late >> {LEDGER}; cat {LEDGER}")
    assert late["stdout"].splitlines()[-1] == "late"
    fleet.api.http.delete("/v1/nodes/node-2")
    wait_for(
        lambda: fleet.api.http.get("/v1/sandboxes/a2").json()["state"] == "failed",
        "the node that was killed is forgotten",
    )
