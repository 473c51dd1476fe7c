"""Two nodes, each with an engine, a state directory and a relay of its own."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from stack.certificates import WEB, make_certificates
from stack.ports import free_port
from tests.client import Client, check_stream, stdout_of, wait_for
from tests.conftest import DRIVER
from tests.engine import Engine
from tests.platform import Platform

FAR = "node-2"
LOST_S = 60.0
"""A node that is gone is lost by then."""

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="the second node has an engine")


class Fleet(NamedTuple):
    """The first node has the web; sandboxes of the second have a small image."""

    near: Platform
    far: Platform
    api: Client
    relay: tuple[str, int]
    certificates: Path

    def nodes(self) -> dict[str, dict[str, object]]:
        return {node["id"]: node for node in self.api.http.get("/v1/nodes").json()["nodes"]}

    def drain(self, node: str, *, ends: bool = False) -> None:
        order = "undrain" if ends else "drain"
        answer = self.api.http.post(f"/v1/nodes/{node}/{order}")
        assert answer.status_code == 204, answer.text
        wait_for(lambda: self.nodes()[node]["drained"] is not ends, f"{node} is told to {order}")

    def far_sandbox(self, name: str) -> dict[str, object]:
        """One on the second node."""
        self.drain("node-1")
        try:
            box = self.api.sandbox(name)
        finally:
            self.drain("node-1", ends=True)
        assert box["node"] == FAR
        return box

    def start_far(self) -> None:
        for program in ("worker", "relay"):
            self.far.start(program)
        wait_for(
            lambda: FAR in self.nodes() and self.nodes()[FAR]["ready"],
            "the second node is ready",
            deadline_s=90,
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("f")
    certificates = directory / "tls"
    relay = ("127.0.0.1", free_port())
    engine = Engine(directory / "e")
    near = Platform(
        directory / "n",
        DRIVER,
        COLDFRAME_TLS_DIR=str(make_certificates(certificates, WEB)),
        COLDFRAME_NODE_LOST_S="12",
    )
    near_up = False
    try:
        near.up()
        near_up = True
        far = Platform(
            directory / "f",
            "docker",
            DOCKER_HOST=engine.host,
            COLDFRAME_NODE=FAR,
            COLDFRAME_REDIS_URL=near.redis_url,
            COLDFRAME_RELAY_ADDRESS=f"{relay[0]}:{relay[1]}",
            COLDFRAME_TLS_DIR=str(make_certificates(certificates, FAR)),
        )
        engine.start()
        far.set_up_with_image(engine.load_small_image())
        with near.connected() as api:
            fleet = Fleet(near, far, api, relay, certificates)
            fleet.start_far()
            yield fleet
            far.down()
    finally:
        if near_up:
            near.down()
        engine.leave()


def test_a_node_says_what_it_has(fleet: Fleet) -> None:
    node = fleet.nodes()[FAR]

    assert node["cpus"] >= 1  # type: ignore[operator]
    assert 0 < node["memoryFreeMb"] <= node["memoryMb"]  # type: ignore[operator]
    assert 0 < node["diskFreeMb"] <= node["diskMb"]  # type: ignore[operator]
    assert "full" not in node


def test_a_sandbox_on_another_node_is_used_like_any_other(fleet: Fleet) -> None:
    fleet.far_sandbox("far")
    files = "/v1/sandboxes/far/files"
    content = b"x" * 3_000_000

    ran = fleet.api.exec("far", "echo $((6 * 7)) > /workspace/answer; cat /workspace/answer")
    read = fleet.api.http.get(files, params={"path": "/workspace/answer"})
    wrote = fleet.api.http.put(
        files,
        params={"path": "/workspace/big"},
        content=content,
        headers={"Content-Type": "application/octet-stream"},
    )
    again = fleet.api.http.get(files, params={"path": "/workspace/big"})
    process = fleet.api.http.post("/v1/sandboxes/far/processes", json={"command": "sleep 600"})
    listed = fleet.api.http.get("/v1/sandboxes/far/processes").json()["processes"]

    assert ran["stdout"] == "42\n"
    assert read.content == b"42\n"
    assert (wrote.status_code, again.content) == (200, content)
    assert [one["id"] for one in listed] == [process.json()["id"]]
    fleet.api.remove("far")


def test_a_relay_serves_nobody_but_the_web(fleet: Fleet) -> None:
    box = fleet.far_sandbox("guarded")
    request = f"GET /sandboxes/{box['id']}/ping HTTP/1.1\r\nHost: relay\r\n\r\n".encode()

    def ask(name: str | None) -> bytes:
        """What it answers to who has this name's certificate; None: to who has none."""
        context = ssl.create_default_context(cafile=fleet.certificates / WEB / "ca.pem")
        if name is not None:
            own = fleet.certificates / name
            context.load_cert_chain(own / "cert.pem", own / "key.pem")
        try:
            with (
                socket.create_connection(fleet.relay, 10) as plain,
                context.wrap_socket(plain, server_hostname=FAR) as connection,
            ):
                connection.sendall(request)
                return connection.recv(65536)
        except OSError:
            return b""

    with socket.create_connection(fleet.relay, 10) as plain:
        plain.sendall(request)
        without_tls = plain.recv(65536)

    assert b"bootId" in ask(WEB) or b"200 OK" in ask(WEB)
    assert ask(None) == b""
    assert ask(FAR) == b""
    assert b"HTTP" not in without_tls
    fleet.api.remove("guarded")


def test_a_full_platform_says_so_and_makes_sandboxes_again_when_it_is_not(fleet: Fleet) -> None:
    for node in ("node-1", FAR):
        fleet.drain(node)
    refused = fleet.api.http.put("/v1/sandboxes/none", json={})
    for node in ("node-1", FAR):
        fleet.drain(node, ends=True)
    made = fleet.api.sandbox("none")

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_node")
    assert "drained" in refused.json()["error"]["message"]
    assert made["state"] == "running"
    fleet.api.remove("none")


def test_the_second_worker_of_a_name_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    impostor = Platform(
        tmp_path / "i",
        "local",
        COLDFRAME_NODE=FAR,
        COLDFRAME_REDIS_URL=fleet.near.redis_url,
        COLDFRAME_LOCAL_PYTHON="/usr/bin/python3",
    )
    impostor.set_up()
    impostor.start("worker")
    try:
        wait_for(lambda: not impostor.runs("worker"), "it has ended", deadline_s=60)
        assert "is the node node-2" in impostor.log("worker")
        assert fleet.nodes()[FAR]["driver"] == "docker"
    finally:
        impostor.stop("worker")


def test_jobs_of_a_node_that_is_gone_end_and_it_finishes_nothing_twice(fleet: Fleet) -> None:
    fleet.far_sandbox("cut")
    sandbox = "cut"
    count = "for n in $(seq 1000); do echo $n >> /workspace/count; sleep 0.2; done"
    running = fleet.api.start_exec(sandbox, count)
    waiting = fleet.api.start_exec(sandbox, "echo never > /workspace/never")
    wait_for(lambda: fleet.api.job(running)["status"] == "running", "it runs")

    fleet.far.signal("worker", signal.SIGSTOP)
    ended = [fleet.api.follow_to_the_end(job, deadline_s=LOST_S) for job in (running, waiting)]
    late = fleet.api.exec(sandbox, "echo late")
    others = fleet.api.sandbox("other")
    fleet.far.signal("worker", signal.SIGCONT)
    wait_for(lambda: FAR in fleet.nodes(), "the node is back")

    for received in ended:
        check_stream(received)
        assert received[-1].event["code"] == "node_lost"
    assert late["error"]["code"] == "node_lost"
    assert others["node"] == "node-1"

    def lines() -> str:
        read = fleet.api.exec(sandbox, "cat /workspace/count; ls /workspace")
        return str(read["stdout"])

    # The execution that was declared lost is ended: what it writes stops.
    wait_for(lambda: lines() == lines(), "nothing is written any more")
    assert "never" not in lines()
    for received, job in zip(ended, (running, waiting), strict=True):
        assert fleet.api.follow_to_the_end(job) == received or [
            event.id for event in fleet.api.follow_to_the_end(job)
        ] == [event.id for event in received]
    for name in (sandbox, "other"):
        fleet.api.remove(name)


def test_a_build_whose_node_is_killed_runs_again_elsewhere(fleet: Fleet, archive: str) -> None:
    steps = [
        {
            "name": "work",
            # The small image has no Python.
            "commands": ["cat greeting.txt", "[ -x /usr/bin/python3 ] || sleep 600"],
        }
    ]
    fleet.drain("node-1")
    build = fleet.api.submit("/v1/builds", {"archive": archive, "steps": steps, "retries": 1})
    wait_for(lambda: fleet.api.job(build).get("node") == FAR, "it runs on the second node")
    fleet.drain("node-1", ends=True)

    fleet.far.kill("worker")
    received = fleet.api.follow_to_the_end(build, deadline_s=LOST_S + 60)
    fleet.start_far()

    record = fleet.api.job(build)
    assert (record["conclusion"], record["attempt"], record["node"]) == ("success", 2, "node-1")
    assert received[-1].event["type"] == "complete"
    second = [event for event in received if event.id.startswith("2-")]
    check_stream(second, attempt=2)
    assert stdout_of(second) == "hello\n"

    def is_clean() -> bool:
        names = {box["name"] for box in fleet.api.http.get("/v1/sandboxes").json()["sandboxes"]}
        return not any(name.startswith("build-") for name in names)

    wait_for(is_clean, "the lost node has removed the build's first sandbox")


def test_a_node_that_is_gone_for_good_is_removed(fleet: Fleet) -> None:
    fleet.far_sandbox("left")
    there = fleet.api.http.delete(f"/v1/nodes/{FAR}")
    fleet.far.stop("worker")
    removed = fleet.api.http.delete(f"/v1/nodes/{FAR}")

    assert (there.status_code, there.json()["error"]["code"]) == (409, "node_running")
    assert removed.status_code == 202
    wait_for(
        lambda: fleet.api.http.delete(f"/v1/nodes/{FAR}").status_code == 404, "it is forgotten"
    )
    assert fleet.api.http.get("/v1/sandboxes/left").json()["state"] == "failed"
    # Its name is free: it is made anew where there is a node.
    assert fleet.api.sandbox("left")["node"] == "node-1"
    fleet.api.remove("left")
    fleet.start_far()


def test_a_web_without_certificates_says_so(fleet: Fleet, tmp_path: Path) -> None:
    fleet.far_sandbox("closed")
    webless = Platform(
        tmp_path / "w",
        "local",
        COLDFRAME_NODE="node-3",
        COLDFRAME_REDIS_URL=fleet.near.redis_url,
        COLDFRAME_LOCAL_PYTHON="/usr/bin/python3",
    )
    webless.set_up()
    webless.start("web")
    try:
        with webless.connected() as api:
            wait_for(lambda: _answers(api), "the web answers")
            answer = api.http.get("/v1/sandboxes/closed/files", params={"path": "/workspace"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "sandbox_unreachable")
        assert "COLDFRAME_TLS_DIR" in answer.json()["error"]["message"]
    finally:
        webless.stop("web")
    fleet.api.remove("closed")


def _answers(api: Client) -> bool:
    try:
        return api.http.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
