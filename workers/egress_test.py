"""Tries from inside a sandbox whether one with a network reaches what it must not.

Beside it on the same bridge is another one, and the node listens for it on all its addresses: what
is said there to be shut is knocked at, and only what answers nothing counts as shut.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from ipaddress import IPv4Address
from pathlib import Path

from sandbox_runtime.protocol.errors import RuntimeFault
from workers.contract.networks import Network, Target
from workers.contract.sandboxes import SandboxSpec
from workers.drivers import links
from workers.drivers.driver import Driver, DriverFault, EgressUnavailable
from workers.drivers.rules import DNS_PORT, Reach
from workers.self_test import Undisturbed, printed_by, probe

METADATA = "169.254.169.254"
PRIVATE = ("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1")
PROXY = "the egress proxy"
MAX_OWN_ADDRESSES = 32
ANY_PORT = 9
"""Where nobody need listen: an address that is reached refuses."""

_KNOCK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
asked = json.loads(sys.argv[1])
ROOT_SERVERS = bytes([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1])
def knock(target):
    with socket.socket() as one:
        one.settimeout(1.0)
        try:
            one.connect((target[0], target[1]))
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "silent"
        return "open"
def query(resolver):
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.settimeout(2.0)
        for _ in range(3):
            one.sendto(ROOT_SERVERS, (resolver[0], resolver[1]))
            try:
                return "open" if one.recv(512) else "silent"
            except ConnectionRefusedError:
                return "refused"
            except OSError:
                pass
    return "silent"
with ThreadPoolExecutor(64) as pool:
    answers = [pool.submit(knock, target) for target in asked["knock"]]
    answer = pool.submit(query, asked["query"])
    with open("/proc/net/if_inet6") as table:
        ipv6 = sorted({line.split()[5] for line in table} - {"lo"})
    knocked = [one.result() for one in answers]
    print(json.dumps({"knock": knocked, "query": answer.result(), "ipv6": ipv6}))
"""


def run(driver: Driver, root: Path, undisturbed: Undisturbed = nullcontext) -> None:
    """Raises `EgressUnavailable` with all that is wrong; a driver that filters nothing passes."""
    reach = driver.reach()
    if reach is None:
        return
    spec = SandboxSpec(network=Network.EGRESS)
    try:
        with (
            socket.create_server(("", 0)) as listener,
            probe(driver, root, spec, undisturbed) as (neighbour, _),
            probe(driver, root, spec, undisturbed) as (_, client),
        ):
            targets = _targets(driver.address_of(neighbour.id), listener.getsockname()[1], reach)
            asked = {
                "knock": list(targets.values()),
                "query": (str(reach.resolver), DNS_PORT),
            }
            printed = printed_by(client, ["python3", "-I", "-c", _KNOCK, json.dumps(asked)])
    except (DriverFault, RuntimeFault, OSError) as fault:
        raise EgressUnavailable(f"network self-test: {fault}") from fault
    if wrong := list(judge(printed, list(targets), reach)):
        raise EgressUnavailable(f"network self-test: {'; '.join(wrong)}")


def judge(printed: str, targets: list[str], reach: Reach) -> Iterator[str]:
    """What is wrong, by what was seen from inside; `targets` are what was knocked at, in order."""
    try:
        seen = json.loads(printed)
        answers = dict(zip(targets, seen["knock"], strict=True))
    except (ValueError, KeyError) as error:
        yield f"the sandbox did not tell what it saw ({error})"
        return
    proxy = answers.pop(PROXY, "open")
    yield from (f"a sandbox reaches {name}" for name, how in answers.items() if how != "silent")
    if seen["ipv6"]:
        yield "a sandbox has IPv6, which is not filtered"
    if seen["query"] != "open":
        yield f"the DNS resolver {reach.resolver} does not answer a sandbox"
    if proxy != "open":
        yield "the egress proxy does not answer a sandbox"


def _targets(neighbour: str, listening: int, reach: Reach) -> dict[str, tuple[str, int]]:
    """What is knocked at, by what it is to a person."""
    targets = {
        f"this machine at {address}": (address, listening)
        for address in sorted(links.own_addresses())[:MAX_OWN_ADDRESSES]
    }
    targets["another sandbox"] = (neighbour, ANY_PORT)
    targets["the metadata address"] = (METADATA, 80)
    targets |= {f"the private address {address}": (address, ANY_PORT) for address in PRIVATE}
    targets = {
        name: target
        for name, target in targets.items()
        if not any(_opens(allowed, *target) for allowed in reach.allowed)
    }
    if reach.proxy is not None and reach.proxy.ports:
        targets[PROXY] = (str(reach.proxy.network.network_address), reach.proxy.ports[0])
    return targets


def _opens(allowed: Target, address: str, port: int) -> bool:
    first, last = allowed.ports or (0, 65_535)
    return IPv4Address(address) in allowed.network and first <= port <= last
