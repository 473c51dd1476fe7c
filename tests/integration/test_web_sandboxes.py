"""Sandboxes, sessions, contexts and nodes as a client of the HTTP API sees them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import redis
from werkzeug.test import TestResponse

from tests.integration.fake_relay import FakeRelay
from tests.integration.web_client import (
    AUTH,
    Json,
    Web,
    code_of,
    field_of,
    json_of,
    received,
    wait_for,
    web_on,
)
from tests.integration.web_node import NODE, FakeNode
from tests.redis_server import RedisServer
from workers.contract.connection import connect
from workers.contract.jobs import new_id
from workers.contract.queue import EndContext, EndSession, RemoveSandbox
from workers.contract.sandboxes import Sandbox, SandboxSpec, SandboxState, pool_kind
from workers.contract.settings import StoreSettings
from workers.contract.store import PoolStore, Ready, SandboxStore

SESSIONS = "/v1/sandboxes/box/sessions"
CONTEXTS = "/v1/sandboxes/box/contexts"


@pytest.fixture
def node(redis_server: RedisServer) -> Iterator[FakeNode]:
    redis_server.empty()
    with FakeNode(redis_server) as node:
        yield node


@pytest.fixture
def web(redis_server: RedisServer, node: FakeNode) -> Iterator[Web]:
    with FakeRelay() as relay, web_on(redis_server, relay_socket=relay.socket) as web:
        yield web


@pytest.fixture
def alone(redis_server: RedisServer) -> Iterator[Web]:
    """A web without any node."""
    redis_server.empty()
    with web_on(redis_server) as web:
        yield web


def test_a_sandbox_is_made_once_and_found_afterwards(web: Web) -> None:
    body = {"network": "egress", "labels": {"team": "a"}, "env": {"TOKEN": "t"}, "memoryMb": 512}

    made = web.send("PUT", "/v1/sandboxes/box", body)
    found = web.send("PUT", "/v1/sandboxes/box", body)

    assert (made.status_code, found.status_code) == (201, 200)
    sandbox = json_of(made)
    assert sandbox == json_of(found) == json_of(web.send("GET", "/v1/sandboxes/box"))
    assert (sandbox["state"], sandbox["node"], sandbox["image"]) == ("running", NODE, "default")
    assert (sandbox["network"], sandbox["labels"]) == ("egress", {"team": "a"})
    assert (sandbox["memoryMb"], len(sandbox["id"])) == (512, 26)
    assert "env" not in sandbox


def test_a_sandbox_that_names_no_network_gets_what_the_nodes_can_give(
    web: Web, redis_server: RedisServer
) -> None:
    given = json_of(web.send("PUT", "/v1/sandboxes/box", {}))["network"]
    redis_server.empty()
    with FakeNode(redis_server, egress_problem="No rules here."):
        web.send("POST", "/v1/sandboxes/used/exec", {"command": "say hi"})
        left = json_of(web.send("GET", "/v1/sandboxes/used"))["network"]

    assert (given, left) == ("egress", "none")


@pytest.mark.parametrize("network", ["egress", {"allow": ["203.0.113.0/24"]}])
def test_a_network_that_no_node_can_give_is_refused_with_the_reason(
    alone: Web, redis_server: RedisServer, network: object
) -> None:
    with FakeNode(redis_server, egress_problem="No rules here."):
        answer = alone.send("PUT", "/v1/sandboxes/box", {"network": network})
        build = alone.send(
            "POST",
            "/v1/builds",
            {
                "repoUrl": "https://example.org/a",
                "steps": [{"name": "a", "commands": ["true"]}],
                "sandbox": {"network": network},
            },
        )
        (node,) = json_of(alone.send("GET", "/v1/nodes"))["nodes"]
        found = alone.send("GET", "/v1/sandboxes/box")

    assert (answer.status_code, code_of(answer)) == (503, "egress_unavailable")
    assert "node-1: No rules here." in json_of(answer)["error"]["message"]
    assert answer.headers["Retry-After"]
    assert (build.status_code, code_of(build)) == (503, "egress_unavailable")
    assert (node["egress"], node["egressProblem"]) == (False, "No rules here.")
    assert found.status_code == 404


def test_a_network_that_its_node_could_not_give_after_all_is_refused_as_well(web: Web) -> None:
    answer = web.send("PUT", "/v1/sandboxes/broken-network", {"network": "egress"})

    assert (answer.status_code, code_of(answer)) == (503, "egress_unavailable")


def test_a_list_of_ranges_is_told_in_one_way_and_found_again(web: Web) -> None:
    halves = {"network": {"allow": ["203.0.113.128/25", "203.0.113.0/25"]}}

    made = web.send("PUT", "/v1/sandboxes/box", halves)
    found = web.send("PUT", "/v1/sandboxes/box", {"network": {"allow": ["203.0.113.0/24"]}})
    other = web.send("PUT", "/v1/sandboxes/box", {"network": {"allow": ["203.0.114.0/24"]}})

    assert (made.status_code, found.status_code, other.status_code) == (201, 200, 409)
    assert json_of(made)["network"] == json_of(found)["network"] == {"allow": ["203.0.113.0/24"]}


@pytest.mark.parametrize("cidr", ["203.0.113.5/24", "203.0.113.0/33", "1.2.3.4.5", "203.0.113.256"])
def test_what_is_no_range_is_refused_with_its_path(web: Web, cidr: str) -> None:
    body = {"network": {"allow": ["198.51.100.0/24", cidr]}}

    answer = web.send("PUT", "/v1/sandboxes/box", body)

    assert (answer.status_code, field_of(answer)) == (422, "network.allow[1]")


def test_a_body_may_be_left_out_where_nothing_in_it_must_be_said(web: Web) -> None:
    assert web.send("PUT", "/v1/sandboxes/box").status_code == 201


def test_a_sandbox_that_differs_from_what_is_asked_is_not_handed_out(web: Web) -> None:
    web.sandbox(network="egress")

    answer = web.send("PUT", "/v1/sandboxes/box", {"network": "none", "cpus": 2})

    assert (answer.status_code, code_of(answer)) == (409, "sandbox_exists")
    assert "network, cpus" in json_of(answer)["error"]["message"]


def test_a_request_that_names_nothing_finds_the_sandbox_as_it_is(web: Web) -> None:
    web.sandbox(network="egress", env={"A": "1"})

    answer = web.send("PUT", "/v1/sandboxes/box", {})

    assert (answer.status_code, json_of(answer)["network"]) == (200, "egress")


def test_a_sandbox_without_a_name_gets_one(web: Web) -> None:
    answers = [web.send("POST", "/v1/sandboxes", {}) for _ in range(2)]
    named = web.send("POST", "/v1/sandboxes", {"name": "mine"})

    assert [answer.status_code for answer in answers] == [201, 201]
    assert len({json_of(answer)["name"] for answer in answers}) == 2
    assert json_of(named)["name"] == "mine"


def test_ten_requests_for_one_name_at_once_make_one_sandbox(web: Web) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: web.send("PUT", "/v1/sandboxes/box", {}), range(10)))

    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
    assert len({json_of(answer)["id"] for answer in answers}) == 1


@pytest.mark.parametrize("name", ["A", "a_b", "-a", "a-", "a" * 64, "é", "a.b", "a%20b"])
def test_a_name_that_cannot_be_a_host_name_is_refused(web: Web, name: str) -> None:
    answer = web.send("PUT", f"/v1/sandboxes/{name}", {})

    assert (answer.status_code, field_of(answer)) == (422, "name")


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 63])
def test_a_name_that_can_be_a_host_name_is_taken(web: Web, name: str) -> None:
    assert web.send("PUT", f"/v1/sandboxes/{name}", {}).status_code == 201


def test_sandboxes_are_listed_by_name_page_by_page(web: Web) -> None:
    for name in ("c", "a", "d", "b"):
        web.sandbox(name)

    first = json_of(web.send("GET", "/v1/sandboxes?limit=3"))
    second = json_of(web.send("GET", f"/v1/sandboxes?limit=3&cursor={first['nextCursor']}"))

    assert [sandbox["name"] for sandbox in first["sandboxes"]] == ["a", "b", "c"]
    assert [sandbox["name"] for sandbox in second["sandboxes"]] == ["d"]
    assert "nextCursor" not in second


def test_a_sandbox_answers_whether_it_is_there(web: Web) -> None:
    web.sandbox()

    answer = web.send("GET", "/v1/sandboxes/box/ping")

    assert json_of(answer) == {"state": "running", "node": NODE}


def test_a_removed_sandbox_is_gone_when_the_answer_comes(web: Web, node: FakeNode) -> None:
    sandbox = web.sandbox()

    answer = web.send("DELETE", "/v1/sandboxes/box")

    assert (answer.status_code, answer.data) == (204, b"")
    assert RemoveSandbox(sandbox["id"]) in node.told
    assert web.send("GET", "/v1/sandboxes/box").status_code == 404
    assert web.send("DELETE", "/v1/sandboxes/box").status_code == 404


def test_a_name_is_free_again_after_its_sandbox_was_removed(web: Web) -> None:
    first = web.sandbox()
    web.exec("say hi")
    web.send("DELETE", "/v1/sandboxes/box")

    second = web.sandbox(network="egress")

    assert second["id"] != first["id"]
    assert web.exec("say hi")["stdout"] == "hi\n"


def test_a_command_for_a_removed_sandbox_gets_a_new_one(web: Web) -> None:
    removed = web.sandbox()
    web.exec("say hi")
    web.send("DELETE", "/v1/sandboxes/box")

    assert web.exec("say hi")["stdout"] == "hi\n"
    assert json_of(web.send("GET", "/v1/sandboxes/box"))["id"] != removed["id"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("exec", {"command": "say hi"}, 200),
        ("code", {"code": "say hi"}, 200),
        ("sessions", {"name": "s"}, 201),
        ("contexts", {"language": "python"}, 201),
    ],
)
def test_the_first_use_of_a_name_makes_its_sandbox(
    web: Web, path: str, body: dict[str, str], status: int
) -> None:
    answer = web.send("POST", f"/v1/sandboxes/box/{path}", body)

    assert answer.status_code == status
    assert json_of(web.send("GET", "/v1/sandboxes/box"))["state"] == "running"


def test_fifty_first_commands_for_one_name_at_once_make_one_sandbox(
    web: Web, node: FakeNode
) -> None:
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda _: web.exec("say hi"), range(50)))

    assert {result["stdout"] for result in results} == {"hi\n"}
    jobs = [json_of(web.send("GET", f"/v1/jobs/{result['jobId']}")) for result in results]
    assert {job["sandbox"] for job in jobs} == {"box"}
    assert len(node.nodes.sandboxes_of(NODE)) == 1


def test_a_first_command_with_a_name_that_cannot_be_is_refused(web: Web) -> None:
    answer = web.send("POST", "/v1/sandboxes/A_B/exec", {"command": "say hi"})

    assert (answer.status_code, field_of(answer)) == (422, "name")


def test_a_sandbox_is_stopped_and_started_again(web: Web) -> None:
    sandbox = web.sandbox()

    stopped = [web.send("POST", "/v1/sandboxes/box/stop") for _ in range(2)]
    started = [web.send("POST", "/v1/sandboxes/box/start") for _ in range(2)]

    assert [(a.status_code, json_of(a)["state"]) for a in stopped] == [(200, "stopped")] * 2
    assert [(a.status_code, json_of(a)["state"]) for a in started] == [(200, "running")] * 2
    assert json_of(started[0])["id"] == sandbox["id"]


def test_a_command_starts_a_sandbox_that_was_stopped(web: Web) -> None:
    web.sandbox()
    web.exec("say hi")
    web.send("POST", "/v1/sandboxes/box/stop")

    assert web.exec("say again")["stdout"] == "again\n"


def test_a_paused_sandbox_takes_no_command_until_it_is_resumed(web: Web) -> None:
    web.sandbox()
    web.exec("say hi")

    paused = web.send("POST", "/v1/sandboxes/box/pause")
    refused = web.send("POST", "/v1/sandboxes/box/exec", {"command": "say hi"})
    resumed = web.send("POST", "/v1/sandboxes/box/resume")

    assert json_of(paused)["state"] == "paused"
    assert (refused.status_code, code_of(refused)) == (409, "sandbox_paused")
    assert json_of(resumed)["state"] == "running"
    assert web.exec("say hi")["stdout"] == "hi\n"


@pytest.mark.parametrize("change", ["pause", "resume"])
def test_a_state_that_does_not_take_a_change_is_named(web: Web, change: str) -> None:
    web.sandbox()
    web.send("POST", "/v1/sandboxes/box/stop")

    answer = web.send("POST", f"/v1/sandboxes/box/{change}")

    assert (answer.status_code, code_of(answer)) == (409, "sandbox_not_running")
    assert "stopped" in json_of(answer)["error"]["message"]


def test_what_happens_to_a_sandbox_is_a_stream_that_ends_with_its_removal(web: Web) -> None:
    sandbox = web.sandbox()
    reader = web.client.get(
        "/v1/sandboxes/box/events", headers={**AUTH, "Last-Event-ID": "1-1"}, buffered=False
    )

    web.send("POST", "/v1/sandboxes/box/stop")
    web.send("POST", "/v1/sandboxes/box/start")
    web.send("POST", "/v1/sandboxes/box/renew", {})
    web.send("DELETE", "/v1/sandboxes/box")

    events = received(reader.text)
    assert [item.id for item in events] == [f"1-{n}" for n in range(2, len(events) + 2)]
    assert [item.event["type"] for item in events] == [
        *("started", "stopping", "stopped", "starting", "started"),
        *("renewed", "removing", "removed"),
    ]
    assert {item.event["sandboxId"] for item in events} == {sandbox["id"]}
    assert events[1].event["reason"] == "requested"


def test_sandboxes_are_listed_by_label_and_state(web: Web) -> None:
    web.sandbox("a", labels={"team": "red"})
    web.sandbox("b", labels={"team": "blue"})
    web.sandbox("c")
    web.send("POST", "/v1/sandboxes/b/stop")

    def names(query: str) -> list[str]:
        listed = json_of(web.send("GET", f"/v1/sandboxes?{query}"))["sandboxes"]
        return [sandbox["name"] for sandbox in listed]

    assert names("label=team") == ["a", "b"]
    assert names("label=team=blue") == ["b"]
    assert names("state=running") == ["a", "c"]
    assert names("state=stopped&label=team=red") == []


def test_a_lifetime_says_when_the_sandbox_is_removed_and_is_renewed(web: Web) -> None:
    made = web.sandbox(maxLifetimeMs=60_000, idleTimeoutMs=5_000, keepAlive=True)

    renewed = json_of(web.send("POST", "/v1/sandboxes/box/renew", {"maxLifetimeMs": 120_000_000}))

    lifetime = datetime.fromisoformat(made["expiresAt"]) - datetime.fromisoformat(made["createdAt"])
    assert lifetime.total_seconds() == 60
    assert (made["idleTimeoutMs"], made["keepAlive"]) == (5_000, True)
    assert renewed["expiresAt"] > made["expiresAt"]
    assert renewed["idleTimeoutMs"] == 5_000


def test_variables_of_a_sandbox_are_added_up_and_unset_with_null(web: Web, node: FakeNode) -> None:
    sandbox = web.sandbox(env={"A": "1", "B": "2"})

    answers = [
        web.send("PUT", "/v1/sandboxes/box/env", {"env": env})
        for env in ({"A": "x", "C": "3"}, {"B": None}, {"C": "it's 4"})
    ]

    assert [answer.status_code for answer in answers] == [204] * 3
    found = node.sandboxes.get(sandbox["id"])
    assert found.user_env == {"A": "x", "B": None, "C": "it's 4"}


def test_the_names_of_failed_sandboxes_are_forgotten_with_their_records(
    web: Web, node: FakeNode, redis_server: RedisServer
) -> None:
    web.send("PUT", "/v1/sandboxes/broken", {})
    web.sandbox("kept")
    failed = node.sandboxes.by_name("default", "broken")
    with redis.Redis.from_url(redis_server.url) as client:
        client.delete(f"cf:sandbox:{failed.id}")

        dropped = node.sandboxes.prune_names()

        assert dropped == 1
        assert set(client.hgetall("cf:sandbox-names:default")) == {b"kept"}


def test_two_removals_at_once_both_succeed(web: Web) -> None:
    web.sandbox()

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: web.send("DELETE", "/v1/sandboxes/box"), range(2)))

    assert {answer.status_code for answer in answers} <= {204, 404}
    assert 204 in {answer.status_code for answer in answers}


def test_a_sandbox_that_no_node_has_claimed_is_removed_without_one(
    alone: Web, redis_server: RedisServer
) -> None:
    made = Sandbox(id=new_id(), name="box", owner="default", spec=SandboxSpec(), created_at="t")
    records = SandboxStore(
        connect(StoreSettings(redis_server.url, 60), max_connections=1), retention_s=60
    )
    records.find_or_create(made)

    answer = alone.send("DELETE", "/v1/sandboxes/box")

    assert answer.status_code == 204
    assert alone.send("GET", "/v1/sandboxes/box").status_code == 404


def test_a_sandbox_that_is_removed_while_it_is_made_ends_the_wait_for_it(web: Web) -> None:
    def is_claimed() -> bool:
        answer = web.send("GET", "/v1/sandboxes/slow")
        return answer.status_code == 200 and json_of(answer)["node"] == NODE

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(web.send, "PUT", "/v1/sandboxes/slow", {})
        wait_for(is_claimed, "its node makes it")

        removed = web.send("DELETE", "/v1/sandboxes/slow")

        assert removed.status_code == 204
        assert code_of(waiting.result(timeout=5)) == "sandbox_failed"


def test_a_sandbox_whose_node_does_not_answer_is_still_being_removed(
    redis_server: RedisServer, node: FakeNode
) -> None:
    with web_on(redis_server, remove_limit_s=0.2) as web:
        sandbox = web.sandbox()
        node.sandboxes.move(
            node.sandboxes.get(sandbox["id"]),
            to=SandboxState.RUNNING,
            since=[SandboxState.RUNNING],
            node="node-that-is-away",
        )

        answer = web.send("DELETE", "/v1/sandboxes/box")

        assert (answer.status_code, json_of(answer)["state"]) == (202, "removing")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/v1/sandboxes/box", {"image": "none-such"}),
        ("POST", "/v1/sandboxes", {"image": "none-such"}),
        (
            "POST",
            "/v1/builds",
            {
                "repoUrl": "https://example.org/a.git",
                "steps": [{"name": "test", "commands": ["make"]}],
                "sandbox": {"image": "none-such"},
            },
        ),
    ],
)
def test_an_image_that_no_node_has_is_refused_with_the_names_that_there_are(
    web: Web, method: str, path: str, body: dict[str, object]
) -> None:
    answer = web.send(method, path, body)

    assert (answer.status_code, code_of(answer)) == (422, "image_not_found")
    assert "default, slim" in json_of(answer)["error"]["message"]
    assert json_of(web.send("GET", "/v1/sandboxes"))["sandboxes"] == []


def test_a_sandbox_that_cannot_be_made_says_why(web: Web) -> None:
    answer = web.send("PUT", "/v1/sandboxes/broken", {})

    assert (answer.status_code, code_of(answer)) == (500, "sandbox_failed")
    assert "No disk left." in json_of(answer)["error"]["message"]


def test_a_sandbox_whose_engine_went_away_can_be_asked_for_again(web: Web) -> None:
    answer = web.send("PUT", "/v1/sandboxes/broken-engine", {})

    assert (answer.status_code, code_of(answer)) == (503, "no_node")
    assert answer.headers["Retry-After"] == "5"


def test_a_failed_sandbox_can_be_removed_and_its_name_used(web: Web) -> None:
    web.send("PUT", "/v1/sandboxes/broken", {})

    assert web.send("DELETE", "/v1/sandboxes/broken").status_code == 204
    assert web.send("GET", "/v1/sandboxes/broken").status_code == 404


def test_a_sandbox_that_takes_too_long_is_asked_for_again(
    redis_server: RedisServer, node: FakeNode
) -> None:
    with web_on(redis_server, create_limit_s=0.3) as web:
        answer = web.send("PUT", "/v1/sandboxes/slow", {})

        assert (answer.status_code, code_of(answer)) == (503, "sandbox_starting")
        assert web.send("PUT", "/v1/sandboxes/slow", {}).status_code == 503
        found = node.sandboxes.by_name("default", "slow")
        node._move(found, SandboxState.RUNNING, None)
        assert web.send("PUT", "/v1/sandboxes/slow", {}).status_code == 200


def test_a_command_waits_for_a_sandbox_that_is_being_made_and_not_for_ever(
    redis_server: RedisServer, node: FakeNode
) -> None:
    with web_on(redis_server, create_limit_s=0.1) as web:
        web.send("PUT", "/v1/sandboxes/slow", {})

        answers = [
            web.send("POST", "/v1/sandboxes/slow/exec", {"command": "say hi"}),
            web.send("POST", "/v1/sandboxes/slow/sessions", {"name": "s"}),
            web.send("POST", "/v1/sandboxes/slow/contexts", {"language": "python"}),
        ]

        assert [(a.status_code, code_of(a)) for a in answers] == [(503, "sandbox_starting")] * 3


def test_without_a_node_nothing_is_made_and_the_answer_comes_at_once(alone: Web) -> None:
    answer = alone.send("PUT", "/v1/sandboxes/box", {})

    assert (answer.status_code, code_of(answer)) == (503, "no_node")
    assert alone.send("GET", "/v1/sandboxes/box").status_code == 404


def test_a_node_that_is_not_ready_is_quoted(redis_server: RedisServer) -> None:
    redis_server.empty()
    problem = "Docker does not answer."
    with FakeNode(redis_server, ready=False, problem=problem), web_on(redis_server) as web:
        answer = web.send("PUT", "/v1/sandboxes/box", {})
        ready = web.send("GET", "/readyz")
        nodes = json_of(web.send("GET", "/v1/nodes"))["nodes"]

        assert (answer.status_code, code_of(answer)) == (503, "no_node")
        assert problem in json_of(answer)["error"]["message"]
        assert (ready.status_code, code_of(ready)) == (503, "not_ready")
        assert problem in json_of(ready)["error"]["details"]["reasons"][0]
        assert [(n["id"], n["ready"], n["problem"]) for n in nodes] == [(NODE, False, problem)]


def test_a_platform_with_a_ready_node_is_ready(web: Web) -> None:
    assert json_of(web.send("GET", "/readyz")) == {"status": "ready"}


def test_the_implicit_session_is_always_there(web: Web) -> None:
    sandbox = web.sandbox()

    listed = json_of(web.send("GET", SESSIONS))["sessions"]

    assert listed == [
        {
            "name": "default",
            "cwd": "/workspace",
            "isolation": False,
            "createdAt": sandbox["createdAt"],
        }
    ]
    assert json_of(web.send("GET", f"{SESSIONS}/default")) == listed[0]


def test_a_session_is_made_used_listed_and_ended(web: Web, node: FakeNode) -> None:
    sandbox = web.sandbox()

    made = web.send("POST", SESSIONS, {"name": "s-1", "cwd": "/tmp", "env": {"A": "1"}})
    used = web.exec("say hi", session="s-1")
    listed = json_of(web.send("GET", SESSIONS))["sessions"]
    ended = web.send("DELETE", f"{SESSIONS}/s-1")

    assert (made.status_code, json_of(made)["cwd"]) == (201, "/tmp")
    assert used["stdout"] == "hi\n"
    assert [session["name"] for session in listed] == ["default", "s-1"]
    assert ended.status_code == 204
    wait_for(lambda: EndSession(sandbox["id"], "s-1") in node.told, "the node is told")
    assert web.send("GET", f"{SESSIONS}/s-1").status_code == 404
    assert web.send("DELETE", f"{SESSIONS}/s-1").status_code == 404


@pytest.mark.parametrize("name", ["default", "twice"])
def test_a_session_of_a_name_that_is_taken_is_not_made(web: Web, name: str) -> None:
    web.sandbox()
    web.send("POST", SESSIONS, {"name": "twice"})

    answer = web.send("POST", SESSIONS, {"name": name})

    assert (answer.status_code, code_of(answer)) == (409, "session_exists")
    assert len(json_of(web.send("GET", SESSIONS))["sessions"]) == 2


def test_the_implicit_session_can_be_reset(web: Web, node: FakeNode) -> None:
    sandbox = web.sandbox()

    answer = web.send("DELETE", f"{SESSIONS}/default")

    assert answer.status_code == 204
    wait_for(lambda: EndSession(sandbox["id"], "default") in node.told, "the node is told")
    assert web.send("GET", f"{SESSIONS}/default").status_code == 200


def test_a_context_is_made_listed_and_ended(web: Web, node: FakeNode) -> None:
    sandbox = web.sandbox()

    made = web.send("POST", CONTEXTS, {"language": "py", "envVars": {"A": "1"}})
    context = json_of(made)
    listed = json_of(web.send("GET", CONTEXTS))["contexts"]
    found = json_of(web.send("GET", f"{CONTEXTS}/{context['id']}"))
    ended = web.send("DELETE", f"{CONTEXTS}/{context['id']}")

    assert (made.status_code, context["language"], context["cwd"]) == (201, "python", "/workspace")
    assert listed == [context]
    assert found == context
    assert ended.status_code == 204
    wait_for(lambda: EndContext(sandbox["id"], context["id"]) in node.told, "the node is told")
    gone = web.send("GET", f"{CONTEXTS}/{context['id']}")
    assert (gone.status_code, code_of(gone)) == (404, "context_not_found")


@pytest.mark.parametrize("language", ["cobol", "", "../../x", "ä", "x" * 100])
def test_a_context_of_a_language_that_is_not_there_is_refused_and_forgotten(
    web: Web, language: str
) -> None:
    web.sandbox()

    answer = web.send("POST", CONTEXTS, {"language": language})

    assert (answer.status_code, code_of(answer)) == (422, "language_unsupported")
    assert json_of(web.send("GET", CONTEXTS))["contexts"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/ping"),
        ("GET", "/events"),
        ("POST", "/start"),
        ("POST", "/stop"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/renew"),
        ("PUT", "/env"),
        ("GET", "/sessions"),
        ("DELETE", "/sessions/x"),
        ("GET", "/contexts"),
    ],
)
def test_a_sandbox_that_is_not_there_is_said_by_every_route_that_does_not_use_it(
    web: Web, method: str, path: str
) -> None:
    bodies: dict[str, Json] = {"/renew": {}, "/env": {"env": {}}}

    answer = web.send(method, f"/v1/sandboxes/nope{path}", bodies.get(path))

    assert (answer.status_code, code_of(answer)) == (404, "sandbox_not_found")


def test_of_many_that_ask_at_once_each_gets_another_one_of_the_pool(
    node: FakeNode, redis_server: RedisServer
) -> None:
    client = connect(StoreSettings(redis_server.url, 600), max_connections=8)
    ready = [Ready(new_id(), NODE, "boot") for _ in range(300)]
    for one in ready:
        PoolStore(client).add(pool_kind(SandboxSpec()), one)
    PoolStore(client).add(pool_kind(SandboxSpec()), Ready(new_id(), "node-that-is-away", "boot"))

    def ask(n: int) -> tuple[Sandbox, bool]:
        wanted = Sandbox(
            id=new_id(), name=f"s{n}", owner="default", spec=SandboxSpec(), created_at="t"
        )
        return node.sandboxes.find_or_create(wanted)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(400)))

    running = [sandbox for sandbox, _ in answers if sandbox.state is SandboxState.RUNNING]
    assert {sandbox.id for sandbox in running} == {one.id for one in ready}
    assert len(running) == len(ready)
    assert all(created for _, created in answers)


def test_isolated_sessions_have_users_of_their_own_and_are_so_many_at_the_most(web: Web) -> None:
    web.sandbox()

    def create(name: str) -> TestResponse:
        return web.send("POST", SESSIONS, {"name": name, "isolation": True})

    made = [create(f"s-{n}") for n in range(15)]
    refused = create("one-more")
    web.send("DELETE", f"{SESSIONS}/s-3")
    again = create("in-its-place")
    shared = web.send("POST", SESSIONS, {"name": "shared"})

    assert [json_of(answer)["isolation"] for answer in made] == [True] * 15
    assert (refused.status_code, code_of(refused)) == (409, "too_many_isolated_sessions")
    assert again.status_code == 201
    assert json_of(shared)["isolation"] is False


def test_one_that_was_given_away_is_never_given_away_again(
    node: FakeNode, redis_server: RedisServer
) -> None:
    pool = PoolStore(connect(StoreSettings(redis_server.url, 600), max_connections=2))
    kind, ready = pool_kind(SandboxSpec()), Ready(new_id(), NODE, "boot")

    def ask(name: str) -> Sandbox:
        wanted = Sandbox(
            id=new_id(), name=name, owner="default", spec=SandboxSpec(), created_at="t"
        )
        return node.sandboxes.find_or_create(wanted)[0]

    pool.add(kind, ready)
    pool.add(kind, ready)
    first = ask("first")
    pool.add(kind, ready)  # As a Redis that forgot its last second has it.
    second = ask("second")

    assert first.id == ready.id
    assert second.id != ready.id
    assert node.sandboxes.get(first.id).name == "first"
