"""Finds the addresses of what sandboxes are to reach, the resolver and the proxy, or never to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

from workers.contract.networks import Target
from workers.drivers.driver import EgressUnavailable
from workers.drivers.rules import Reach
from workers.settings import EgressSettings

RESOLV_CONF = Path("/etc/resolv.conf")
SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
"""Who is behind systemd's own resolver, which listens on loopback."""
REDIS_PORT = 6379


def find_reach(settings: EgressSettings) -> Reach:
    """Raises `EgressUnavailable`."""
    resolver = settings.resolver or find_resolver()
    proxy = _proxy(settings.proxy) if settings.proxy else None
    shut = tuple(_redis(settings.redis_url))
    return Reach(resolver=resolver, proxy=proxy, allowed=settings.allowed, shut=shut)


def find_resolver(
    resolv_conf: Path = RESOLV_CONF, systemd: Path = SYSTEMD_RESOLV_CONF
) -> IPv4Address:
    """The host's own, at port 53. Raises `EgressUnavailable` where a sandbox could not ask it."""
    named = [address for path in (resolv_conf, systemd) for address in _nameservers(path)]
    for address in named:
        if not address.is_loopback:
            return address
    why = f"listens on {named[0]}, the node's loopback" if named else "is not known"
    raise EgressUnavailable(
        f"the node's DNS resolver {why}, where sandboxes cannot ask it: name another one in "
        "COLDFRAME_RESOLVER"
    )


def _nameservers(path: Path) -> Iterator[IPv4Address]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                yield IPv4Address(words[1])
            except ValueError:
                pass  # IPv6, which sandboxes do not have.


def _proxy(url: str) -> Target:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    found = _addresses("the egress proxy", parts.hostname)
    if not found:
        raise EgressUnavailable(f"the egress proxy {parts.hostname} has no IPv4 address")
    address = found[0]
    if address.is_loopback:
        raise EgressUnavailable(
            f"the egress proxy listens on {address}, the node's loopback, which no sandbox reaches"
        )
    return Target(IPv4Network(address), (parts.port, parts.port))


def _redis(url: str) -> Iterator[Target]:
    """All of its addresses; a socket of the node's has none."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or not parts.hostname:
        return
    port = parts.port or REDIS_PORT
    for address in _addresses("Redis", parts.hostname):
        yield Target(IPv4Network(address), (port, port))


def _addresses(whose: str, host: str) -> list[IPv4Address]:
    """Of IPv4: sandboxes have no other."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EgressUnavailable(f"the address of {whose}, {host}: {error}") from error
    return sorted(
        {IPv4Address(address[0]) for kind, *_, address in found if kind == socket.AF_INET}
    )
