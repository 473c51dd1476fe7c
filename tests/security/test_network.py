"""What a sandbox with a network reaches, and what not: knocked at from inside real ones.

All that is knocked at answers who is not held back, on addresses of the tests' own.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from container.ca_bundle import find_ca_bundle
from container.image import ensure_sandbox_image
from sandbox_runtime.protocol.client import RuntimeClient
from tests.client import wait_for
from tests.conftest import DRIVER
from tests.neighbourhood import (
    ALLOWED,
    ANSWER,
    METADATA,
    OTHER_PORT,
    OTHER_PUBLIC,
    PORT,
    PORT_ALLOWED,
    PRIVATE,
    PUBLIC,
    RESOLVER,
    Target,
    dns,
    knock_with,
    neighbourhood,
    tcp,
    verdicts,
)
from workers import egress_test
from workers.contract.networks import AllowedNetwork, Network, NetworkPolicy
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.drivers import advice, links
from workers.drivers.docker import DockerDriver
from workers.drivers.driver import EgressUnavailable, sandboxes_root
from workers.drivers.rules import MAX_CONNECTIONS, QUERIES_AT_ONCE
from workers.node import make_driver
from workers.self_test import printed_by, probe
from workers.settings import Settings

pytestmark = [
    pytest.mark.skipif(DRIVER != "docker", reason="driver local filters nothing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and rules need root"),
]

SHUT = ("silent", "rejected")


class Inside:
    """A running sandbox."""

    def __init__(self, sandbox: Sandbox, client: RuntimeClient, address: str) -> None:
        self.id = sandbox.id
        self.address = address
        self._client = client

    def run(self, *argv: str) -> str:
        return printed_by(self._client, list(argv))

    def knock(self, *targets: Target) -> dict[Target, str]:
        return verdicts(self.run(*knock_with(targets)), targets)

    def is_shut(self, *targets: Target) -> bool:
        return all(verdict in SHUT for verdict in self.knock(*targets).values())


class OwnNode:
    """A driver with a state of its own, as a worker of it would be."""

    neighbours = ""
    """The network namespace of what is knocked at."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.root = sandboxes_root(state_dir)
        self.driver = self.started_again()

    def started_again(self, **variables: str) -> DockerDriver:
        environ = {
            "COLDFRAME_STATE_DIR": str(self.state_dir),
            "COLDFRAME_NODE": "networks",
            "COLDFRAME_RESOLVER": RESOLVER,
            "COLDFRAME_ALLOWED_RANGES": f"{ALLOWED}/32 {PORT_ALLOWED}:{PORT}",
            **variables,
        }
        driver = make_driver(Settings.from_env(environ))
        assert isinstance(driver, DockerDriver)
        return driver

    @contextmanager
    def sandbox(self, network: NetworkPolicy) -> Iterator[Inside]:
        with probe(self.driver, self.root, SandboxSpec(network=network)) as (sandbox, client):
            has_one = network is not Network.NONE
            address = self.driver.address_of(sandbox.id) if has_one else ""
            yield Inside(sandbox, client, address)

    def rules(self) -> list[str]:
        """Of this node, in all tables."""
        return [line for line in _saved() if f"CF-{self.driver._owner}" in line]

    def drop_rules(self, *, table: str) -> None:
        """As somebody does who flushes it; other rules on this machine are not ours to touch."""
        for line in _saved(table):
            if f"CF-{self.driver._owner}" in line and not line.startswith((":", "-A CF-")):
                command = ["iptables", "-t", table, "-D", *line.split()[1:]]
                subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnNode]:
    state_dir = tmp_path_factory.mktemp("n") / "s"
    state_dir.mkdir()
    ensure_sandbox_image(state_dir=state_dir, ca_bundle=find_ca_bundle(None), progress=print)
    node = OwnNode(state_dir)
    with neighbourhood() as node.neighbours:
        node.driver.check()
        assert node.driver.why_no_egress() == ""
        yield node
        node.driver.leave()


@pytest.fixture(scope="module")
def egress(node: OwnNode) -> Iterator[Inside]:
    with node.sandbox(Network.EGRESS) as inside:
        yield inside


@pytest.fixture(scope="module")
def listed(node: OwnNode) -> Iterator[Inside]:
    """One that may reach one public address, and by its list a private one."""
    with node.sandbox(AllowedNetwork([f"{PRIVATE[0]}/32", f"{PUBLIC}/32"])) as inside:
        yield inside


@contextmanager
def listening_on_the_host() -> Iterator[tuple[int, list[str]]]:
    """A port on all addresses of this machine, and who has come there."""
    came: list[str] = []
    with socket.create_server(("", 0)) as server:

        def take() -> None:
            while True:
                try:
                    connection, (address, _) = server.accept()
                except OSError:
                    return
                came.append(address)
                connection.close()

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


def test_all_that_is_knocked_at_answers_a_container_that_is_not_held_back(node: OwnNode) -> None:
    targets = [tcp(address) for address in (METADATA, *PRIVATE, ALLOWED, PORT_ALLOWED, PUBLIC)]
    targets += [tcp(PUBLIC, 25), tcp(PORT_ALLOWED, OTHER_PORT), dns(OTHER_PUBLIC), dns(RESOLVER)]
    image = node.driver.image_id("default")
    run = ["docker", "run", "--rm", "--network=bridge", "--entrypoint=python3", image]

    done = subprocess.run(
        [*run, *knock_with(targets)[1:]], capture_output=True, text=True, check=True, timeout=60
    )

    assert set(verdicts(done.stdout, targets).values()) == {"open"}


@pytest.mark.parametrize("port", [22, 80, OTHER_PORT, PORT])
def test_egress_reaches_what_is_public_at_any_port(egress: Inside, port: int) -> None:
    assert egress.knock(tcp(PUBLIC, port)) == {tcp(PUBLIC, port): "open"}


def test_mail_cannot_be_sent(egress: Inside) -> None:
    assert egress.knock(tcp(PUBLIC, 25)) == {tcp(PUBLIC, 25): "rejected"}


@pytest.mark.parametrize(
    "address",
    [
        METADATA,
        *PRIVATE,
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "::ffff:169.254.169.254",
        "::ffff:10.99.7.2",
    ],
)
def test_egress_reaches_nothing_private_however_it_is_spelled(egress: Inside, address: str) -> None:
    assert egress.is_shut(tcp(address), tcp(address, 80))


def test_egress_does_not_reach_this_machine_on_any_of_its_addresses(egress: Inside) -> None:
    with listening_on_the_host() as (port, came):
        addresses = [*links.own_addresses(), "0.0.0.0", "127.0.0.1", "127.1"]
        ours = [tcp(address, port) for address in links.own_addresses()]
        shut = egress.is_shut(*ours)
        own = egress.knock(tcp("0.0.0.0", port), tcp("127.1", port))

    assert len(addresses) > 4
    assert shut
    assert set(own.values()) == {"refused"}  # Its own loopback, where nobody listens.
    assert came == []


def test_sandboxes_do_not_reach_each_other(node: OwnNode, egress: Inside, listed: Inside) -> None:
    with node.sandbox(Network.EGRESS) as other, node.sandbox(listed_all()) as other_listed:
        theirs = [tcp(one.address, port) for one in (other, other_listed) for port in (9, PORT)]
        seen = [egress.is_shut(*theirs), listed.is_shut(*theirs)]

    assert seen == [True, True]


def test_nobody_connects_into_a_sandbox_from_this_machine(egress: Inside) -> None:
    target = tcp(egress.address, 9)

    done = subprocess.run(
        [sys.executable, *knock_with([target])[1:]], capture_output=True, text=True, check=True
    )

    assert verdicts(done.stdout, [target])[target] in SHUT


def test_nobody_connects_into_a_sandbox_through_this_machine(node: OwnNode, egress: Inside) -> None:
    target = tcp(egress.address, 9)
    within = ["ip", "netns", "exec", node.neighbours]
    route = ["ip", "route", "add", f"{egress.address}/32", "via", "198.51.100.1", "dev", "eth0"]
    subprocess.run([*within, *route], check=True)

    done = subprocess.run(
        [*within, sys.executable, *knock_with([target])[1:]],
        capture_output=True,
        text=True,
        check=True,
    )

    assert verdicts(done.stdout, [target])[target] in SHUT


def test_names_are_asked_of_the_resolver_alone(egress: Inside) -> None:
    asked = egress.run("python3", "-c", "import socket; print(socket.gethostbyname('any.example'))")
    others = egress.knock(dns(OTHER_PUBLIC), tcp(OTHER_PUBLIC, 53), dns(PRIVATE[0]))

    assert asked == f"{ANSWER}\n"
    assert egress.knock(dns(RESOLVER), tcp(RESOLVER, 53)) == {
        dns(RESOLVER): "open",
        tcp(RESOLVER, 53): "open",
    }
    assert egress.is_shut(tcp(RESOLVER, PORT))
    assert set(others.values()) <= set(SHUT)


def test_queries_are_so_many_in_a_second_at_the_most(egress: Inside) -> None:
    code = (
        "import socket, time\n"
        "query = bytes.fromhex('0001010000010000000000000161037478740000010001')\n"
        "one = socket.socket(type=socket.SOCK_DGRAM)\n"
        f"one.connect(('{RESOLVER}', 53))\n"
        "one.settimeout(1.0)\n"
        "for _ in range(1000): one.send(query)\n"
        "count = 0\n"
        "try:\n"
        "    while True: one.recv(512); count += 1\n"
        "except TimeoutError: print(count)\n"
    )

    answered = int(egress.run("python3", "-c", code))

    assert 1 <= answered <= QUERIES_AT_ONCE * 3


def test_a_sandbox_has_so_many_connections_at_the_most(node: OwnNode) -> None:
    code = (
        "import socket\n"
        f"def connect(): return socket.create_connection(('{PUBLIC}', {PORT}), timeout=5)\n"
        "there = []\n"
        "try:\n"
        "    while len(there) < 1000: there.append(connect())\n"
        "except OSError: pass\n"
        "print(len(there))\n"
    )

    with node.sandbox(Network.EGRESS) as inside:
        opened = int(inside.run("python3", "-c", code))
        with node.sandbox(Network.EGRESS) as neighbour:
            unhindered = neighbour.knock(tcp(PUBLIC))

    assert 100 <= opened <= MAX_CONNECTIONS
    assert unhindered == {tcp(PUBLIC): "open"}


def test_there_is_no_ipv6_and_no_way_to_another_address(egress: Inside) -> None:
    code = (
        "import socket, fcntl, struct, json\n"
        "def tried(act):\n"
        "    try: act(); return 'done'\n"
        "    except OSError as error: return 'refused'\n"
        "request = struct.pack('16sH2s4s8x', b'eth0', 2, bytes(2), bytes([10, 99, 7, 77]))\n"
        "print(json.dumps([\n"
        "    sorted({line.split()[5] for line in open('/proc/net/if_inet6')} - {'lo'}),\n"
        "    tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),\n"
        "    tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),\n"
        "    tried(lambda: fcntl.ioctl(socket.socket(), 0x8916, request)),\n"
        "]))\n"
    )

    assert json.loads(egress.run("python3", "-c", code)) == [[], "refused", "refused", "refused"]


def test_without_a_network_there_is_nobody_to_knock_at(node: OwnNode) -> None:
    with node.sandbox(Network.NONE) as inside:
        interfaces = inside.run("sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1")
        reached = inside.is_shut(tcp(PUBLIC), dns(RESOLVER), tcp(METADATA, 80))

    assert interfaces.split() == ["lo"]
    assert reached


def test_what_an_operator_allows_is_reached_and_nothing_beside_it(egress: Inside) -> None:
    assert egress.knock(tcp(ALLOWED), tcp(PORT_ALLOWED)) == {
        tcp(ALLOWED): "open",
        tcp(PORT_ALLOWED): "open",
    }
    assert egress.is_shut(tcp(PORT_ALLOWED, OTHER_PORT), tcp(PRIVATE[0]))


def test_a_range_that_an_operator_allows_does_not_open_this_machine(node: OwnNode) -> None:
    own = links.own_addresses()
    ranges = " ".join(f"{address}/32" for address in own)
    node.driver = node.started_again(COLDFRAME_ALLOWED_RANGES=ranges)
    node.driver.check()
    try:
        with listening_on_the_host() as (port, came), node.sandbox(Network.EGRESS) as inside:
            shut = inside.is_shut(*(tcp(address, port) for address in own))
    finally:
        node.driver = node.started_again()
        node.driver.check()

    assert shut
    assert came == []


def test_redis_is_not_reached_where_it_is_public_nor_where_all_is_allowed(node: OwnNode) -> None:
    seen = []
    try:
        for address in (PUBLIC, ALLOWED):
            node.driver = node.started_again(COLDFRAME_REDIS_URL=f"redis://{address}:{PORT}/0")
            node.driver.check()
            with node.sandbox(Network.EGRESS) as inside:
                seen.append(inside.knock(tcp(address), tcp(address, OTHER_PORT)))
    finally:
        node.driver = node.started_again()
        node.driver.check()

    assert [list(knocked.values()) for knocked in seen] == [["silent", "open"]] * 2


def test_a_list_is_all_that_is_reached_but_for_the_resolver(listed: Inside) -> None:
    assert listed.knock(tcp(PUBLIC), dns(RESOLVER)) == {tcp(PUBLIC): "open", dns(RESOLVER): "open"}
    assert listed.is_shut(tcp(OTHER_PUBLIC), tcp(ALLOWED), tcp(PORT_ALLOWED), dns(PUBLIC))


def test_a_list_opens_nothing_that_egress_does_not_reach(node: OwnNode, listed: Inside) -> None:
    with listening_on_the_host() as (port, came), node.sandbox(listed_all()) as inside:
        private = [tcp(address) for address in (METADATA, *PRIVATE)]
        ours = [tcp(address, port) for address in links.own_addresses()]
        open_to_all = inside.knock(tcp(PUBLIC), tcp(OTHER_PUBLIC))
        shut = inside.is_shut(*private, *ours, tcp(PUBLIC, 25))

    assert set(open_to_all.values()) == {"open"}
    assert shut
    assert listed.is_shut(tcp(PRIVATE[0]))
    assert came == []


def test_an_address_that_is_not_listed_yet_reaches_nothing(node: OwnNode, listed: Inside) -> None:
    """As any has it from its container's start until its rules are there."""
    node.driver.check()  # Nobody who has left is listed.
    image = node.driver.image_id("default")
    targets = [tcp(PUBLIC), dns(RESOLVER), tcp(METADATA)]
    network = f"--network=coldframe-{node.driver._owner}-allow"
    run = ["docker", "run", "--rm", network, "--entrypoint=python3", image]

    done = subprocess.run(
        [*run, *knock_with(targets)[1:]], capture_output=True, text=True, check=True, timeout=60
    )

    seen = verdicts(done.stdout, targets)
    assert seen[tcp(PUBLIC)] == "rejected"
    assert seen[tcp(METADATA)] in SHUT


def test_the_next_at_an_address_does_not_get_what_the_last_was_allowed(node: OwnNode) -> None:
    with node.sandbox(AllowedNetwork([f"{PUBLIC}/32"])) as first:
        before = first.knock(tcp(PUBLIC), tcp(OTHER_PUBLIC))
    with node.sandbox(AllowedNetwork([f"{OTHER_PUBLIC}/32"])) as second:
        after = second.knock(tcp(PUBLIC), tcp(OTHER_PUBLIC))

    assert first.address == second.address
    assert list(before.values()) == ["open", "rejected"]
    assert list(after.values()) == ["rejected", "open"]


@pytest.mark.parametrize("table", ["raw", "filter"])
def test_the_loss_of_one_table_opens_nothing_and_is_mended(
    node: OwnNode, egress: Inside, table: str
) -> None:
    node.driver.check()
    before = node.rules()
    private = [tcp(address) for address in (METADATA, *PRIVATE)]

    with listening_on_the_host() as (port, came):
        ours = [tcp(address, port) for address in links.own_addresses()]
        node.drop_rules(table=table)
        shut = egress.is_shut(*private, *ours)
    node.driver.check()

    assert shut
    assert came == []
    assert sorted(node.rules()) == sorted(before)


def test_rules_that_are_lost_altogether_are_noticed_and_written_anew(
    node: OwnNode, egress: Inside
) -> None:
    for table in ("raw", "filter"):
        node.drop_rules(table=table)
    open_without_rules = egress.knock(tcp(PRIVATE[0]))

    node.driver.check()

    assert set(open_without_rules.values()) == {"open"}
    assert egress.is_shut(tcp(PRIVATE[0]))
    assert egress.knock(tcp(PUBLIC)) == {tcp(PUBLIC): "open"}


def test_where_rules_cannot_be_written_nothing_passes_and_no_sandbox_is_made(
    node: OwnNode, egress: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "iptables-restore"
    broken.write_text("#!/bin/sh\necho no room >&2; exit 4\n")
    broken.chmod(0o755)
    node.drop_rules(table="raw")
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        warnings = node.driver.check()
        shut = egress.is_shut(tcp(PUBLIC), tcp(PRIVATE[0]), dns(RESOLVER))
        with pytest.raises(EgressUnavailable, match="no room"), node.sandbox(Network.EGRESS):
            pass
        with node.sandbox(Network.NONE):
            pass

    node.driver.check()

    assert any("no room" in warning for warning in warnings)
    assert shut
    wait_for(lambda: egress.knock(tcp(PUBLIC)) == {tcp(PUBLIC): "open"}, "it is open again")
    assert egress.is_shut(tcp(PRIVATE[0]))


def test_where_packets_between_sandboxes_pass_no_rule_nothing_passes(
    node: OwnNode, egress: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        # In truth it is the machine's, which others use.
        patched.setattr(advice, "bridges_are_filtered", lambda: False)
        node.driver.check()
        why_not = node.driver.why_no_egress()
        shut = egress.is_shut(tcp(PUBLIC), dns(RESOLVER))
    node.driver.check()

    assert "bridge-nf-call-iptables" in why_not
    assert shut
    assert node.driver.why_no_egress() == ""
    wait_for(lambda: egress.knock(tcp(PUBLIC)) == {tcp(PUBLIC): "open"}, "it is open again")


def test_a_worker_that_starts_again_finds_the_rules_and_goes_on_with_its_lists(
    node: OwnNode, egress: Inside, listed: Inside
) -> None:
    node.driver.check()
    before = node.rules()

    node.driver = node.started_again()
    at_first = node.rules()
    node.driver.check()

    assert sorted(node.rules()) == sorted(at_first) == sorted(before)
    assert egress.is_shut(tcp(PRIVATE[0]))
    assert listed.knock(tcp(PUBLIC), tcp(OTHER_PUBLIC)) == {
        tcp(PUBLIC): "open",
        tcp(OTHER_PUBLIC): "rejected",
    }


def test_the_nodes_own_test_passes_and_leaves_no_sandbox(node: OwnNode) -> None:
    there = node.driver.sandboxes()

    egress_test.run(node.driver, node.root)

    assert node.driver.sandboxes() == there


def test_the_nodes_own_test_finds_rules_that_are_not_in_force(
    node: OwnNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in ("raw", "filter"):
        node.drop_rules(table=table)

    with pytest.raises(EgressUnavailable) as raised:
        egress_test.run(node.driver, node.root)
    node.driver.check()

    assert "a sandbox reaches this machine at" in str(raised.value)
    assert "the metadata address" in str(raised.value)


def test_the_nodes_own_test_wants_a_resolver_that_answers(node: OwnNode) -> None:
    nobody = links.own_addresses()[0]
    node.driver = node.started_again(COLDFRAME_RESOLVER=nobody)
    node.driver.check()
    try:
        with pytest.raises(EgressUnavailable, match=f"{re.escape(nobody)} does not answer"):
            egress_test.run(node.driver, node.root)
    finally:
        node.driver = node.started_again()
        node.driver.check()


def test_the_proxy_is_told_and_reached_by_egress_alone(node: OwnNode) -> None:
    proxy = f"http://{PRIVATE[1]}:{PORT}"
    node.driver = node.started_again(COLDFRAME_EGRESS_PROXY=proxy)
    node.driver.check()
    names = ["http_proxy", "HTTPS_PROXY"]
    try:
        with ExitStack() as stack:
            boxes = [
                stack.enter_context(node.sandbox(network))
                for network in (Network.EGRESS, listed_all())
            ]
            told = [box.run("printenv", *names).split() for box in boxes]
            reached = [box.knock(tcp(PRIVATE[1]))[tcp(PRIVATE[1])] for box in boxes]
            beside = boxes[0].is_shut(tcp(PRIVATE[1], OTHER_PORT))
    finally:
        node.driver = node.started_again()
        node.driver.check()

    assert told == [[proxy, proxy], []]
    assert reached[0] == "open"
    assert reached[1] in SHUT
    assert beside


def test_a_node_that_leaves_takes_its_rules_and_networks_along(tmp_path: Path) -> None:
    node = OwnNode(tmp_path)
    (tmp_path / "images.toml").write_text(f'[images]\ndefault = "sha256:{"0" * 64}"\n')
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "current").mkdir()
    node.driver.check()
    there = bool(node.rules())

    node.driver.leave()

    assert there
    assert node.rules() == []
    assert _networks_of(node.driver._owner) == []


def listed_all() -> AllowedNetwork:
    return AllowedNetwork(["0.0.0.0/0"])


def _saved(table: str | None = None) -> list[str]:
    programs: Sequence[Sequence[str]] = (
        [["iptables-save", "-t", table]]
        if table
        else [
            ["iptables-save"],
            ["ip6tables-save"],
        ]
    )
    lines: list[str] = []
    for program in programs:
        done = subprocess.run(program, capture_output=True, text=True, check=True)
        lines += [line for line in done.stdout.splitlines() if line[:1] in "-:"]
    return lines


def _networks_of(owner: str) -> list[str]:
    listed = subprocess.run(
        ["docker", "network", "ls", "--quiet", "--filter", f"label=coldframe.owner={owner}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()
