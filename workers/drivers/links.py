"""Looks at the machine's network interfaces, and cuts them off."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

INTERFACES = Path("/sys/class/net")
LOCAL_ADDRESSES = Path("/proc/net/fib_trie")

_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914  # SIOCGIFFLAGS, SIOCSIFFLAGS
_UP = 0x1
_REQUEST = struct.Struct("16sh14x")


def is_there(name: str) -> bool:
    """Whether an interface of this name is in our own network namespace."""
    return (INTERFACES / name).exists()


def switch(name: str, *, on: bool) -> None:
    """While it is off, nothing passes it. Raises `OSError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _GET_FLAGS, _REQUEST.pack(name.encode(), 0))
        flags = _REQUEST.unpack(answer)[1]
        wanted = flags | _UP if on else flags & ~_UP
        if wanted != flags:
            fcntl.ioctl(any_socket, _SET_FLAGS, _REQUEST.pack(name.encode(), wanted))


def own_addresses(table: Path = LOCAL_ADDRESSES) -> list[str]:
    """The machine's IPv4 addresses but for loopback, in no order."""
    found: set[str] = set()
    last = ""
    for line in table.read_text().splitlines():
        words = line.split()
        if words[0] == "|--":
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.add(last)
    return [address for address in found if not address.startswith("127.")]
