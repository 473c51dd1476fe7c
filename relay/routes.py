"""What a gate decides of a request: where it goes and how it changes on the way, or an answer."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from relay.messages import Header, RequestHead

Place = tuple[str, int | None]
"""A sandbox's id, and the port in it; None: its runtime."""


@dataclass(frozen=True, slots=True)
class Route:
    """A request's way into a sandbox."""

    place: Place
    dial: Callable[[], Awaitable[socket.socket]]
    """A connected socket that does not block. Raises `Answered`."""
    target: bytes
    headers: list[Header]
    """All that go on, but for those that say how the body is framed."""
    keeps_connection: bool
    """Whether the connection serves the next request to the same place, too."""
    answer_headers: Callable[[Iterable[Header]], list[Header]]
    """What of the answer's headers goes back."""


class Answered(Exception):
    """The request goes nowhere: this is its answer."""

    def __init__(self, status: int, body: bytes = b"", headers: Iterable[Header] = ()) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = list(headers)


class Gate(Protocol):
    """Decides for one listener."""

    async def route(self, request: RequestHead, peer: str) -> Route:
        """`peer` is the client's address, empty on a Unix socket. Raises `Answered`."""

    def misread(self, status: int, message: str) -> Answered:
        """The answer to what is no request, or too large a one."""

    def gone(self, message: str) -> Answered:
        """The answer where the sandbox's server gave none."""
