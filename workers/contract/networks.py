"""What a sandbox may reach: the policies that a request can ask for, and how ranges are written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Network, collapse_addresses
from typing import NamedTuple, TypeAlias

import msgspec

MAX_ALLOWED = 64
"""Ranges in one policy: each is a rule of the node's firewall."""

_TARGET = re.compile(r"(?P<network>[0-9./]+)(:(?P<first>[0-9]{1,5})(-(?P<last>[0-9]{1,5}))?)?")


class Network(StrEnum):
    """`none`: nothing but itself. `egress`: the internet, and nothing that is private."""

    NONE = "none"
    EGRESS = "egress"


class AllowedNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of `egress` lies in these ranges, and the resolver."""

    allow: list[str]
    """CIDRs, as `canonical` writes them."""


NetworkPolicy: TypeAlias = Network | AllowedNetwork


class Target(NamedTuple):
    """Private addresses that an operator lets sandboxes reach all the same."""

    network: IPv4Network
    ports: tuple[int, int] | None = None
    """Of TCP, from the first to the last; None: all there is, but never on the node itself."""


def canonical(cidrs: Iterable[str]) -> list[str]:
    """The same addresses in as few ranges as there can be, in order. Raises `ValueError`."""
    return [str(network) for network in collapse_addresses(map(parse_cidr, cidrs))]


def parse_cidr(text: str) -> IPv4Network:
    """Raises `ValueError`, also where the address has bits that its range leaves out."""
    return IPv4Network(text)


def parse_target(text: str) -> Target:
    """`10.1.0.0/16`, `10.1.2.3:5432` or `10.1.2.3:8000-8099`. Raises `ValueError`."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is neither a range nor an address with a port")
    network = IPv4Network(match["network"])
    if match["first"] is None:
        return Target(network)
    first = int(match["first"])
    last = int(match["last"] or first)
    if not 1 <= first <= last <= 65_535:
        raise ValueError(f"{text!r} names no ports")
    return Target(network, (first, last))
