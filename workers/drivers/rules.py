"""Says which rules sandboxes with a network are under, as tables of iptables.

Two bridges, for the two policies: what is on `egress` reaches the internet, what is on `allow` only
what is listed for its address; an address that is not listed reaches nothing.

What holds for both stands twice, so that the loss of one table opens nothing: in `raw`, before
connections are followed and addresses translated, and in `filter`, where a refusal is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from workers.contract.networks import Target

CLOSED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3"),
)
"""Private and special ranges: none of them is the internet. The metadata address is in one."""

CLOSED_PORTS = (25,)
"""Mail that is sent from here is what a machine's address is blocked for elsewhere."""

MAX_CONNECTIONS = 256
"""Of one sandbox at a time: the table of them is the whole machine's."""

QUERIES_PER_S = 50
"""Of one sandbox; what cannot be asked that often is little use to carry data out."""
QUERIES_AT_ONCE = 100

DNS_PORT = 53

Chains = dict[str, list[str]]


@dataclass(frozen=True)
class Bridge:
    """A network of the engine, as the kernel knows it."""

    name: str
    subnet: IPv4Network


@dataclass(frozen=True)
class Reach:
    """What is reached by rules of its own."""

    resolver: IPv4Address
    proxy: Target | None = None
    allowed: tuple[Target, ...] = ()
    shut: tuple[Target, ...] = ()
    """Ports that nobody reaches, whatever is allowed."""


@dataclass(frozen=True)
class Plan:
    """All that the rules of a node follow from."""

    owner: str
    egress: Bridge
    allow: Bridge
    reach: Reach
    listed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By a sandbox's address on `allow`: the ranges that it may reach."""


@dataclass(frozen=True)
class Table:
    """Chains of ours, and the rules of others' chains that lead to them."""

    chains: Chains
    jumps: list[tuple[str, str]]


def chain_prefix(owner: str) -> str:
    """What names of our chains begin with."""
    return f"CF-{owner}"


def tables(plan: Plan) -> dict[str, Table]:
    """By name of the table, for IPv4."""
    return {"raw": _raw(plan), "filter": _filter(plan)}


def tables_of_ipv6(plan: Plan) -> dict[str, Table]:
    """The bridges have no IPv6, and what is sent of it all the same goes nowhere."""
    chain = chain_prefix(plan.owner)
    return {"raw": Table({chain: ["-j DROP"]}, _from_bridges(plan, "PREROUTING", chain))}


def _raw(plan: Plan) -> Table:
    chain = chain_prefix(plan.owner)
    rules = [
        f"-i {bridge.name} ! -s {bridge.subnet} -j DROP" for bridge in (plan.egress, plan.allow)
    ]
    rules += _shut(plan.reach)
    rules += [f"{packets} -j RETURN" for packets in _queries(plan.reach)]
    rules += _ports(plan)
    # A range that an operator allows does not mean the node itself: that takes a port.
    rules.append("-m addrtype --dst-type LOCAL -j DROP")
    rules.append("-m addrtype ! --dst-type UNICAST -j DROP")
    rules += _ranges(plan.reach)
    return Table({chain: rules}, _from_bridges(plan, "PREROUTING", chain))


def _filter(plan: Plan) -> Table:
    prefix = chain_prefix(plan.owner)
    egress, allow, open_, host, to = (
        f"{prefix}-{name}" for name in ("egress", "allow", "open", "host", "to")
    )
    established = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    dns = _dns(plan)
    chains: Chains = {
        egress: [*dns, established, f"-g {open_}"],
        allow: [
            *dns,
            established,
            *(
                f"-s {address}/32 -d {cidr} -g {open_}"
                for address, cidrs in sorted(plan.listed.items())
                for cidr in cidrs
            ),
            _REJECT,
        ],
        open_: [
            *(f"-o {bridge.name} -j DROP" for bridge in (plan.egress, plan.allow)),
            *_shut(plan.reach),
            f"-m connlimit --connlimit-above {MAX_CONNECTIONS} --connlimit-mask 32 {_REJECT}",
            *_ports(plan),
            *_ranges(plan.reach),
            *(f"-p tcp -m tcp --dport {port} {_REJECT}" for port in CLOSED_PORTS),
        ],
        host: [*dns, *_ports(plan, only_from=plan.egress), "-j DROP"],
        to: ["-m conntrack --ctstate NEW -j DROP"],
    }
    jumps = [("DOCKER-USER", f"-i {plan.egress.name} -j {egress}")]
    jumps.append(("DOCKER-USER", f"-i {plan.allow.name} -j {allow}"))
    jumps += _from_bridges(plan, "INPUT", host)
    for chain in ("DOCKER-USER", "OUTPUT"):
        jumps += [(chain, f"-o {bridge.name} -j {to}") for bridge in (plan.egress, plan.allow)]
    return Table(chains, jumps)


_REJECT = "-j REJECT --reject-with icmp-admin-prohibited"


def _from_bridges(plan: Plan, chain: str, ours: str) -> list[tuple[str, str]]:
    return [(chain, f"-i {bridge.name} -j {ours}") for bridge in (plan.egress, plan.allow)]


def _dns(plan: Plan) -> list[str]:
    """Before established connections: a query that follows another belongs to one."""
    limit = (
        f"-m hashlimit --hashlimit-upto {QUERIES_PER_S}/sec --hashlimit-burst {QUERIES_AT_ONCE} "
        f"--hashlimit-mode srcip --hashlimit-name cf-{plan.owner[:10]}"
    )
    rules = []
    for packets in _queries(plan.reach):
        rules += [f"{packets} {limit} -j RETURN", f"{packets} -j DROP"]
    rules += [f"-p {kind} -m {kind} --dport {DNS_PORT} {_REJECT}" for kind in ("udp", "tcp")]
    return rules


def _shut(reach: Reach) -> list[str]:
    return [f"{_tcp(target)} -j DROP" for target in reach.shut]


def _queries(reach: Reach) -> list[str]:
    return [f"-d {reach.resolver}/32 -p {p} -m {p} --dport {DNS_PORT}" for p in ("udp", "tcp")]


def _ports(plan: Plan, *, only_from: Bridge | None = None) -> list[str]:
    """Where a port is opened. The proxy is for `egress` alone: it would reach all for `allow`."""
    source = f"-i {only_from.name} " if only_from else ""
    rules = [f"{source}{_tcp(target)} -j RETURN" for target in plan.reach.allowed if target.ports]
    if plan.reach.proxy is not None:
        rules.append(f"-i {plan.egress.name} {_tcp(plan.reach.proxy)} -j RETURN")
    return rules


def _tcp(target: Target) -> str:
    assert target.ports is not None
    first, last = target.ports
    ports = str(first) if first == last else f"{first}:{last}"
    return f"-d {target.network} -p tcp -m tcp --dport {ports}"


def _ranges(reach: Reach) -> list[str]:
    allowed = [f"-d {target.network} -j RETURN" for target in reach.allowed if not target.ports]
    return [*allowed, *(f"-d {network} -j DROP" for network in CLOSED)]
