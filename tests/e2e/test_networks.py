"""Networks of sandboxes through the whole platform: what one gets, and where none can be had."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.client import Client, Event, wait_for
from tests.conftest import DRIVER
from tests.platform import NODE, Platform
from workers.drivers.driver import owner_of

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local filters nothing")

LIST = {"allow": ["203.0.113.128/25", "203.0.113.0/25"]}


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose sandboxes have nobody to ask for names."""
    nobody = {"COLDFRAME_RESOLVER": "172.17.0.1"}
    directory = tmp_path_factory.mktemp("p") / "s"
    with Platform.running(directory, DRIVER, **nobody) as platform:
        yield platform


def node_of(api: Client) -> Event:
    (node,) = api.http.get("/v1/nodes").json()["nodes"]
    return dict(node)


def rules_of(platform: Platform) -> list[str]:
    owner = owner_of(platform.state_dir, NODE)
    saved = [
        subprocess.run([program], capture_output=True, text=True, check=True).stdout
        for program in ("iptables-save", "ip6tables-save")
    ]
    return [line for text in saved for line in text.splitlines() if f"CF-{owner}" in line]


def networks_of(platform: Platform) -> list[str]:
    label = f"label=coldframe.owner={owner_of(platform.state_dir, NODE)}"
    command = ["docker", "network", "ls", "--quiet", "--filter", label]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_sandbox_that_names_no_network_gets_egress_and_is_told_so(api: Client) -> None:
    made = api.sandbox("by-default")
    by_use = api.exec("by-use", "true")
    used = api.http.get("/v1/sandboxes/by-use").json()
    for name in ("by-default", "by-use"):
        api.remove(name)

    assert node_of(api)["egress"] is True
    assert made["network"] == "egress"
    assert by_use["exitCode"] == 0
    assert used["network"] == "egress"


def test_a_list_is_told_as_few_ranges_and_found_again(api: Client) -> None:
    made = api.http.put("/v1/sandboxes/listed", json={"network": LIST})
    found = api.http.put("/v1/sandboxes/listed", json={"network": LIST})
    other = api.http.put("/v1/sandboxes/listed", json={"network": "egress"})
    api.remove("listed")

    assert (made.status_code, found.status_code, other.status_code) == (201, 200, 409)
    assert made.json()["network"] == {"allow": ["203.0.113.0/24"]}


def test_a_list_holds_when_its_sandbox_is_stopped_and_started(api: Client) -> None:
    api.sandbox("listed", network={"allow": ["198.51.100.0/24"]})
    command = (
        "python3 -c \"import socket; socket.create_connection(('203.0.113.80', 443), 3)\" 2>&1"
    )

    before = api.exec("listed", command)
    api.http.post("/v1/sandboxes/listed/stop")
    after = api.exec("listed", command)
    told = api.http.get("/v1/sandboxes/listed").json()["network"]
    api.remove("listed")

    assert told == {"allow": ["198.51.100.0/24"]}
    assert "No route to host" in before["stdout"]
    assert "No route to host" in after["stdout"]


def test_rules_hold_while_the_worker_is_killed_and_when_it_is_back(
    platform: Platform, api: Client
) -> None:
    api.sandbox("held", network="egress")
    lists = f"-A CF-{owner_of(platform.state_dir, NODE)}-allow -s "
    wait_for(
        lambda: not any(line.startswith(lists) for line in rules_of(platform)),
        "the lists of sandboxes that were removed are gone",
    )
    before = rules_of(platform)

    platform.kill("worker")
    between = rules_of(platform)
    platform.start("worker")
    platform.wait_until_ready(api)
    # Not on a port that the tests' platform opens for servers of theirs.
    knock = "timeout 2 bash -c 'echo > /dev/tcp/172.17.0.1/22' 2>&1; echo $?"
    after, answer = rules_of(platform), api.exec("held", knock)
    api.remove("held")

    assert before
    assert sorted(between) == sorted(after) == sorted(before)
    assert answer["stdout"] == "124\n"  # Neither let in nor refused.


def test_where_egress_cannot_be_had_none_is_the_default_and_the_rest_is_refused(
    without: Platform,
) -> None:
    with without.connected() as api:
        node = node_of(api)
        made = api.sandbox("by-default")
        refused = [
            api.http.put("/v1/sandboxes/refused", json={"network": network})
            for network in ("egress", LIST)
        ]
        build = {"archive": "", "steps": [{"name": "a", "commands": ["true"]}]}
        refused.append(
            api.http.post("/v1/builds", json={**build, "sandbox": {"network": "egress"}})
        )
        gone = api.http.get("/v1/sandboxes/refused")

    assert node["ready"] is True
    assert node["egress"] is False
    assert "resolver 172.17.0.1 does not answer" in node["egressProblem"]
    assert made["network"] == "none"
    for answer in refused:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "egress_unavailable")
        assert "does not answer" in error["message"]
        assert answer.headers["Retry-After"]
    assert gone.status_code == 404


def test_a_build_that_names_no_network_does_without_where_there_is_none(
    without: Platform, archive: str
) -> None:
    look = "test $(tail -n +3 /proc/net/dev | wc -l) = 1"
    build = {"archive": archive, "steps": [{"name": "look", "commands": [look]}]}

    with without.connected() as api:
        built = api.http.post("/v1/builds", json=build).json()

    assert (built["status"], built["conclusion"]) == ("completed", "success")


def test_a_platform_that_goes_down_takes_its_rules_and_networks_along(without: Platform) -> None:
    there = bool(rules_of(without)), len(networks_of(without))

    without.down()

    assert there == (True, 2)
    assert rules_of(without) == []
    assert networks_of(without) == []
