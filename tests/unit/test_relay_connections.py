"""The relay's connections, between two real sockets."""

from __future__ import annotations

import asyncio
import socket

import pytest

from relay.connections import HEAD_TIMEOUT_S, Listener
from relay.messages import RequestHead
from relay.routes import Answered, Route
from relay.traffic import Traffic


class OneServer:
    """A gate that sends every request to the same socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def route(self, request: RequestHead, peer: str) -> Route:
        async def dial() -> socket.socket:
            return self._sock

        return Route(
            place=("box", 8080),
            dial=dial,
            target=request.target,
            headers=[],
            keeps_connection=False,
            answer_headers=list,
        )

    def misread(self, status: int, message: str) -> Answered:
        return Answered(status)

    def gone(self, message: str) -> Answered:
        return Answered(502)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: box\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
def test_a_server_may_think_for_longer_than_a_head_may_take(request_bytes: bytes) -> None:
    assert asyncio.run(_time_left(request_bytes)) > 2 * HEAD_TIMEOUT_S


async def _time_left(request: bytes) -> float:
    """For how long the relay will wait for the server's answer to this request."""
    loop = asyncio.get_running_loop()
    ours, servers = socket.socketpair()
    client, theirs = socket.socketpair()
    ours.setblocking(False)
    listener = Listener(OneServer(ours), Traffic(), max_connections=1)
    await loop.create_connection(listener.connection, sock=theirs)
    await loop.run_in_executor(None, client.sendall, request)
    await loop.run_in_executor(None, servers.recv, 1000)
    (connection,) = listener.connections
    time_left = connection.deadline - loop.time()
    listener.close()
    for sock in (client, servers):
        sock.close()
    return time_left
