"""Addresses to knock at: a network namespace of the tests' own, with a server on each of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tests.client import wait_for

PUBLIC = "198.51.100.10"
OTHER_PUBLIC = "198.51.100.11"
METADATA = "169.254.169.254"
PRIVATE = ("10.99.7.2", "172.31.255.2", "192.168.77.2", "100.64.9.2", "198.18.9.2")
RESOLVER = "10.99.7.53"
ALLOWED = "10.99.8.2"
PORT_ALLOWED = "10.99.7.9"

PORT = 8080
OTHER_PORT = 5000
TCP_PORTS = (22, 25, 53, 80, OTHER_PORT, PORT)
ANSWER = "192.0.2.55"
"""What the server there says that any name means."""

SERVER = """
import socket, struct, sys
from selectors import EVENT_READ, DefaultSelector
def answer(query):
    end = query.index(b"\\0", 12) + 5
    head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
    if query[end - 4:end - 2] != b"\\0\\1":
        return query[:2] + struct.pack("!HHHHH", 0x8180, 1, 0, 0, 0) + query[12:end]
    record = b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(sys.argv[1])
    return head + query[12:end] + record
selector = DefaultSelector()
for port in map(int, sys.argv[3].split(",")):
    one = socket.create_server(("", port), backlog=1024)
    selector.register(one, EVENT_READ, None)
for address in sys.argv[2].split(","):
    # A socket for each: an answer comes from the address that was asked.
    one = socket.socket(type=socket.SOCK_DGRAM)
    one.bind((address, 53))
    selector.register(one, EVENT_READ, address)
kept = []
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        if key.data is None:
            kept.append(key.fileobj.accept())
            del kept[:-2000]
        else:
            query, who = key.fileobj.recvfrom(2048)
            try:
                key.fileobj.sendto(answer(query), who)
            except (ValueError, struct.error, IndexError):
                pass
"""

KNOCK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
QUERY = bytes.fromhex("0001010000010000000000000161037478740000010001")
def knock(target):
    kind, address, port = target
    try:
        if kind == "tcp":
            socket.create_connection((address, port), timeout=1.5).close()
            return "open"
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.settimeout(1.5)
            one.connect((address, port))
            one.send(QUERY)
            return "open" if one.recv(512) else "silent"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"
    except OSError:
        return "rejected"
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(knock, json.loads(sys.argv[1])))))
"""
"""Says of each target: open; refused, by somebody there; rejected, on the way; or silent."""


class Target(NamedTuple):
    kind: str
    address: str
    port: int


def tcp(address: str, port: int = PORT) -> Target:
    return Target("tcp", address, port)


def dns(address: str) -> Target:
    return Target("udp", address, 53)


def knock_with(targets: Sequence[Target]) -> list[str]:
    """The program that knocks at them, and prints what `verdicts` reads."""
    return ["python3", "-I", "-c", KNOCK, json.dumps(targets)]


def verdicts(printed: str, targets: Sequence[Target]) -> dict[Target, str]:
    return dict(zip(targets, json.loads(printed), strict=True))


@contextmanager
def neighbourhood() -> Iterator[str]:
    """A namespace by its name, whose addresses this machine reaches until the block ends."""
    name = f"cft-{os.getpid()}"
    addresses = [PUBLIC, OTHER_PUBLIC, METADATA, *PRIVATE, RESOLVER, ALLOWED, PORT_ALLOWED]
    _ip("netns", "add", name)
    server = None
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", "198.51.100.1/32", "dev", name)
        _ip("link", "set", name, "up")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        for address in addresses:
            _ip("-n", name, "address", "add", f"{address}/32", "dev", "eth0")
            _ip("route", "add", f"{address}/32", "dev", name, "src", "198.51.100.1")
        _ip("-n", name, "route", "add", "198.51.100.1/32", "dev", "eth0")
        program = [sys.executable, "-I", "-c", SERVER, ANSWER, ",".join(addresses)]
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, *program, ",".join(map(str, TCP_PORTS))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        wait_for(lambda: _reaches(PUBLIC), "the neighbourhood answers")
        yield name
    finally:
        if server is not None:
            server.kill()
            server.communicate()
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        _ip("netns", "delete", name)


def _reaches(address: str) -> bool:
    command = [sys.executable, *knock_with([tcp(address)])[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout == '["open"]\n'


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
