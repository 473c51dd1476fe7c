"""Chooses TCP ports and looks at who listens there."""

from __future__ import annotations

import socket

CONNECT_TIMEOUT_S = 1.0


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now; who wants it should take it soon."""
    with socket.create_server((host, 0), family=_family(host)) as listener:
        port: int = listener.getsockname()[1]
        return port


def is_free(host: str, port: int) -> bool:
    """Whether a program could listen there. A privileged port that we may not use is not free."""
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError:
        return False
    return True


def accepts(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
