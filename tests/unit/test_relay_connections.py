"""The relay's connections, between two real sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

from relay.connections import BODY_TIMEOUT_S, HEAD_TIMEOUT_S, HIGH_WATER_BYTES, Listener
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


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 9\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"],
)
def test_a_body_that_stalls_is_not_waited_for_long(body: bytes) -> None:
    request = b"POST / HTTP/1.1\r\nHost: box\r\n" + body

    assert asyncio.run(_time_left(request)) <= BODY_TIMEOUT_S


@pytest.mark.parametrize("rest", [b"", b"x" * (8 * HIGH_WATER_BYTES)], ids=["expects", "full"])
def test_who_is_kept_from_sending_a_body_may_wait(rest: bytes) -> None:
    expect = b"" if rest else b"Expect: 100-continue\r\n"
    head = b"POST / HTTP/1.1\r\nHost: box\r\n%bContent-Length: 99999999\r\n\r\n" % expect

    assert asyncio.run(_time_left(head + rest)) > 2 * BODY_TIMEOUT_S


async def _time_left(request: bytes) -> float:
    """For how long the relay will wait for the server's answer to this request."""
    loop = asyncio.get_running_loop()
    ours, servers = socket.socketpair()
    client, theirs = socket.socketpair()
    ours.setblocking(False)
    listener = Listener(OneServer(ours), Traffic(), max_connections=1)
    await loop.create_connection(listener.connection, sock=theirs)
    sending = loop.run_in_executor(None, _send, client, request)
    await loop.run_in_executor(None, servers.recv, 1000)
    await asyncio.wait((sending,), timeout=0.5)  # As far as it is taken.
    (connection,) = listener.connections
    time_left = connection.deadline - loop.time()
    listener.close()
    await sending
    for sock in (client, servers):
        sock.close()
    return time_left


def _send(client: socket.socket, request: bytes) -> None:
    with suppress(OSError):  # It was cut.
        client.sendall(request)
