"""Passes requests on and answers back, byte for byte, with no more in memory than is under way.

A connection to a server in a sandbox serves one request: what it answers can never be taken for
the answer to another. Those to a runtime are kept for the next call of the web's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

import httptools
import structlog

from relay.kept import Kept
from relay.messages import (
    CONTINUE,
    SWITCHING_PROTOCOLS,
    Header,
    RequestHead,
    ResponseHead,
    chunk,
    end_to_end,
    last_chunk,
    request_bytes,
    response_bytes,
)
from relay.parsing import HeadReader, TooMuch
from relay.routes import Answered, Gate, Route
from relay.traffic import Traffic

HEAD_TIMEOUT_S = 15.0
"""For a request's head to come."""

BODY_TIMEOUT_S = 30.0
"""For a request's body to go on, where the sandbox's side would take it."""

KEEP_ALIVE_S = 75.0

IDLE_TIMEOUT_S = 3600.0
"""For a request or a tunnel in which nothing is sent either way: long polls take their time."""

SWEEP_S = 5.0

MAX_INTERIM = 16
"""Answers of 1xx before the one that counts."""

NO_ANSWER = "The server in the sandbox ended the connection without an answer."

HIGH_WATER_BYTES = 256 * 1024
"""What may wait to be taken by one side until the other is no longer read."""

log = structlog.get_logger(__name__)


class Listener:
    """Makes the connections of one listening socket."""

    def __init__(
        self,
        gate: Gate,
        traffic: Traffic,
        *,
        max_connections: int,
        admits: Callable[[asyncio.BaseTransport], bool] = lambda _: True,
    ) -> None:
        """`admits`: whether it serves who has connected."""
        self.gate = gate
        self.admits = admits
        self.traffic = traffic
        self.connections: set[ClientConnection] = set()
        self.kept = Kept()
        self._max_connections = max_connections

    def connection(self) -> ClientConnection:
        return ClientConnection(self)

    @property
    def is_full(self) -> bool:
        return len(self.connections) >= self._max_connections

    async def sweep(self) -> None:
        """Ends, for ever, the connections whose time is over."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for connection in [one for one in self.connections if one.deadline < now]:
                connection.expire()

    def close(self) -> None:
        for connection in list(self.connections):
            connection.abort()
        self.kept.close()


class ClientConnection(asyncio.Protocol):
    """One client's: its requests, one after the other."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.deadline = 0.0
        self.peer = ""
        self.is_full = False
        """Takes no more for now; so it may still be when its next request begins."""
        self.has_ended = False
        """Sends no more through its tunnel, and still reads."""
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._is_tunnel = False
        self._is_closing = False
        self._is_paused = False
        self._awaits_body = False
        self._rest = b""

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        if self.listener.is_full or not self.listener.admits(transport):
            self.transport.abort()
            return
        self.listener.connections.add(self)
        self._begin()

    def connection_lost(self, error: Exception | None) -> None:
        self.listener.connections.discard(self)
        if self._exchange is not None:
            self._exchange.client_left()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._exchange is not None:  # A head's time runs from its first byte.
            self._go_on()
        if self._is_tunnel:
            assert self._exchange is not None
            self._exchange.forward(data)
            return
        try:
            self._head.feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._misread(error)

    def eof_received(self) -> bool:
        """True keeps the other direction open."""
        if self._is_tunnel and self._exchange is not None:
            self.has_ended = self._exchange.client_ended()
        return self.has_ended

    def pause_writing(self) -> None:
        self.is_full = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.is_full = False
        if self._exchange is not None:
            self._exchange.resume()

    # The parser's side.

    def on_message_begin(self) -> None:
        self._url: list[bytes] = []
        if self._exchange is not None:
            # Sent ahead of its turn: it is dropped, and the client sends it again elsewhere.
            self._exchange.keep_alive = False
            self._is_ahead = True
        else:
            self._stay(HEAD_TIMEOUT_S)

    def on_url(self, url: bytes) -> None:
        self._url.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.add(name, value)

    def on_headers_complete(self) -> None:
        if self._is_ahead:
            return
        self._head.progressed()
        request = RequestHead(
            method=self._parser.get_method(),
            target=b"".join(self._url),
            headers=self._head.take(),
            is_http_11=self._parser.get_http_version() == "1.1",
            keep_alive=self._parser.should_keep_alive(),
        )
        self._exchange = Exchange(self, request)
        # Who expects to be told to send it waits for the server.
        self._awaits_body = request.has_body and not request.values(b"expect")
        self.pause()  # Until the way into the sandbox is open.
        self._exchange.start()

    def on_body(self, body: bytes) -> None:
        self._head.progressed()
        if self._exchange is not None and not self._is_ahead:
            self._exchange.forward_body(body)

    def on_message_complete(self) -> None:
        self._head.progressed()
        if self._exchange is not None and not self._is_ahead:
            self._awaits_body = False
            self._go_on()  # It is the server's turn, and servers may think.
            self._exchange.forward_end(self._head.take())

    # The exchange's side.

    def write(self, data: bytes) -> None:
        self._go_on()
        self.transport.write(data)

    def pause(self) -> None:
        self._is_paused = True
        self._go_on()
        self.transport.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        if self._exchange is not None:
            self._go_on()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def become_tunnel(self) -> bytes:
        """What the client sent behind its request."""
        self._is_tunnel = True
        return self._rest

    def finished(self, *, keep_alive: bool) -> None:
        """The answer has been written."""
        self._exchange = None
        if keep_alive:
            self._begin()
            self._stay(KEEP_ALIVE_S)
            self.resume()
        else:
            self.end()

    def end(self) -> None:
        """After what is still to be written.

        What the client still sends is read and dropped: to a closed socket it would be answered
        with a reset, before which the client may not have read our answer.
        """
        self._is_closing = True
        self._stay(HEAD_TIMEOUT_S)
        if self.has_ended or self.transport.is_closing():
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()
            self.transport.resume_reading()
        else:
            self.transport.close()  # TLS tells the end by itself.

    def abort(self) -> None:
        """At once: what the client has is cut, and it can tell."""
        self._is_closing = True
        self.transport.abort()

    def expire(self) -> None:
        if self._exchange is None and not self._is_closing:
            self.end()
        else:
            self.abort()

    def _begin(self) -> None:
        self._is_ahead = False
        self._awaits_body = False
        self._parser = httptools.HttpRequestParser(self)
        self._head = HeadReader(self._parser)
        self._rest = b""
        self._stay(HEAD_TIMEOUT_S)

    def _go_on(self) -> None:
        waits_for_client = self._awaits_body and not self._is_paused
        self._stay(BODY_TIMEOUT_S if waits_for_client else IDLE_TIMEOUT_S)

    def _stay(self, seconds: float) -> None:
        self.deadline = self._loop.time() + seconds

    def _misread(self, error: Exception) -> None:
        if self._exchange is not None:  # In its body, or behind it.
            self.abort()
            return
        if isinstance(error.__cause__ or error.__context__, TooMuch):
            answer = self.listener.gate.misread(431, "The request's head is too large.")
        else:
            answer = self.listener.gate.misread(400, f"This is not an HTTP request: {error}.")
        self.transport.write(_whole(answer, keep_alive=False))
        self.end()


class Exchange(asyncio.Protocol):
    """One request on its way into a sandbox, and the answer on its way back."""

    def __init__(self, client: ClientConnection, request: RequestHead) -> None:
        self.keep_alive = request.keep_alive and not request.values(b"upgrade")
        self._client = client
        self._request = request
        self._route: Route | None = None
        self._upstream: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self._request_ended = not request.has_body
        self._answer: ResponseHead | None = None
        self._answer_chunked = False
        self._answer_ended = False
        self._said_more = False
        self._interim = 0
        self._is_over = False
        self._is_tunnel = False
        self._has_ended = False
        self._task: asyncio.Task[None] | None = None

    # The client's side.

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._open())

    def forward_body(self, body: bytes) -> None:
        self.forward(chunk(body) if self._request.is_chunked else body)

    def forward_end(self, trailers: Iterable[Header]) -> None:
        if self._request.is_chunked:
            self.forward(last_chunk(end_to_end(trailers)))
        self._request_ended = True

    def forward(self, data: bytes) -> None:
        if self._upstream is None:
            self._pending.append(data)
        elif not self._upstream.is_closing():
            self._upstream.write(data)

    def client_ended(self) -> bool:
        """A tunnel's client sends no more; whether the sandbox's side may go on."""
        if self._upstream is None or self._upstream.is_closing() or self._has_ended:
            return False
        self._upstream.write_eof()
        return True

    def client_left(self) -> None:
        self._leave()

    def pause(self) -> None:
        """The client does not take what it is sent."""
        if self._upstream is not None and not self._upstream.is_closing():
            self._upstream.pause_reading()

    def resume(self) -> None:
        if self._upstream is not None and not self._upstream.is_closing():
            self._upstream.resume_reading()

    def abort(self) -> None:
        """The way into the sandbox is closed."""
        self._leave()
        self._client.abort()

    # The sandbox's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._route is not None
        self._upstream = cast(asyncio.Transport, transport)
        self._upstream.set_write_buffer_limits(HIGH_WATER_BYTES)
        self._parser = httptools.HttpResponseParser(self)
        self._head = HeadReader(self._parser)
        headers = [*self._route.headers, *self._framing()]
        head = request_bytes(self._request.method, self._route.target, headers)
        if self._client.is_full:
            self.pause()
        self._client.resume()  # Before the first write, which may pause it again.
        self._upstream.write(b"".join([head, *self._pending]))
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._is_tunnel:
            self._client.write(data)
            return
        try:
            self._head.feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._is_tunnel and upgrade.args[0] < len(data):
                self._client.write(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._said_more = True
            if not self._answer_ended:
                self._fail("What listens there does not speak HTTP.")
        if self._answer_ended and not self._is_over and not self._is_tunnel:
            self._finish()

    def eof_received(self) -> bool:
        if not self._is_tunnel or self._client.has_ended or self._client.transport.is_closing():
            return False
        self._has_ended = True
        if not self._client.transport.can_write_eof():
            return False
        self._client.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_over:
            return
        if self._is_tunnel:
            self._leave()
            self._client.end()
        elif error is None and self._answer is not None and self._lasts_to_the_end:
            self._end_answer([])
            self._finish()
        else:
            self._fail(NO_ANSWER)

    def pause_writing(self) -> None:
        self._client.pause()

    def resume_writing(self) -> None:
        self._client.resume()

    # The parser's side.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.add(name, value)

    def on_headers_complete(self) -> None:
        if self._answer_ended:
            self._said_more = True
            return  # What comes behind the answer is nobody's.
        self._head.progressed()
        head = ResponseHead(self._parser.get_status_code(), self._head.take())
        if head.status == SWITCHING_PROTOCOLS:
            self._switch(head)
        elif head.status < 200:
            self._pass_interim(head)
        else:
            self._begin_answer(head)

    def on_body(self, body: bytes) -> None:
        self._head.progressed()
        if not self._answer_ended:
            self._client.write(chunk(body) if self._answer_chunked else body)

    def on_message_complete(self) -> None:
        self._head.progressed()
        if self._answer is not None and not self._answer_ended:
            self._end_answer(self._head.take())

    # Within.

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        gate, traffic = self._client.listener.gate, self._client.listener.traffic
        try:
            route = await gate.route(self._request, self._client.peer)
            if not traffic.enter(route.place, self):
                raise gate.misread(503, "Too many connections into this sandbox are open.")
            self._route = route
            if route.keeps_connection and (kept := self._client.listener.kept.take(route.place)):
                kept.set_protocol(self)
                self.connection_made(kept)
                return
            sock = await route.dial()
            await loop.create_connection(lambda: self, sock=sock)
        except Answered as answer:
            self._answer_here(answer)
        except OSError:
            self._fail(NO_ANSWER)
        except Exception:
            log.exception("request failed")
            self._fail("The relay failed.")

    def _framing(self) -> list[Header]:
        if self._request.is_websocket:
            return [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        keeps = self._route is not None and self._route.keeps_connection
        framing = [(b"Connection", b"keep-alive" if keeps else b"close")]
        if self._request.is_chunked:
            framing.append((b"Transfer-Encoding", b"chunked"))
        elif length := self._request.values(b"content-length"):
            framing.append((b"Content-Length", length[0].strip()))
        return framing

    def _switch(self, head: ResponseHead) -> None:
        assert self._route is not None
        if not self._request.is_websocket:
            raise _Nonsense
        headers = [
            *self._route.answer_headers(end_to_end(head.headers)),
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
        ]
        self._client.write(response_bytes(head.status, headers))
        self._is_tunnel = True
        self.forward(self._client.become_tunnel())

    def _pass_interim(self, head: ResponseHead) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise _Nonsense
        if head.status == CONTINUE and self._request.is_http_11:
            self._client.write(response_bytes(CONTINUE, ()))

    def _begin_answer(self, head: ResponseHead) -> None:
        assert self._route is not None
        self._answer = head
        headers = self._route.answer_headers(end_to_end(head.headers))
        has_body = head.has_body(self._request.method)
        if head.length is not None and head.status != 204:
            headers.append((b"Content-Length", head.length))
        elif has_body and self._request.is_http_11:
            self._answer_chunked = True
            headers.append((b"Transfer-Encoding", b"chunked"))
        elif has_body:
            self.keep_alive = False
        if not self._request_ended:
            self.keep_alive = False  # What is left of the request's body has nowhere to go.
        headers.append((b"Connection", b"keep-alive" if self.keep_alive else b"close"))
        self._client.write(response_bytes(head.status, headers))
        self._answer_ended = not has_body

    def _end_answer(self, trailers: Iterable[Header]) -> None:
        if self._answer_chunked:
            self._client.write(last_chunk(end_to_end(trailers)))
        self._answer_ended = True

    @property
    def _lasts_to_the_end(self) -> bool:
        """Whether the answer's body is ended by the connection's end."""
        assert self._answer is not None
        return self._answer.length is None and not any(
            name.lower() == b"transfer-encoding" for name, _ in self._answer.headers
        )

    @property
    def _is_clean(self) -> bool:
        """Whether the connection is as before the request."""
        return (
            self._route is not None
            and self._route.keeps_connection
            and self._request_ended
            and self._answer_ended
            and not self._said_more
            and not self._is_tunnel
            and self._answer is not None
            and not self._lasts_to_the_end
            and self._parser.should_keep_alive()
        )

    def _finish(self) -> None:
        self._leave()
        self._client.finished(keep_alive=self.keep_alive)

    def _fail(self, message: str) -> None:
        """The sandbox's side is of no more use."""
        if self._answer is None:
            self._answer_here(self._client.listener.gate.gone(message))
        else:
            self.abort()

    def _answer_here(self, answer: Answered) -> None:
        if self._client.transport.is_closing():
            return
        keep_alive = self.keep_alive and self._request_ended
        is_head = self._request.method == b"HEAD"
        self._client.transport.write(_whole(answer, keep_alive=keep_alive, head_only=is_head))
        self.keep_alive = keep_alive
        self._finish()

    def _leave(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._upstream is not None and self._route is not None and self._is_clean:
            self._client.listener.kept.add(self._route.place, self._upstream)
        elif self._upstream is not None:
            self._upstream.abort()
        if self._route is not None:
            self._client.listener.traffic.leave(self._route.place, self)


class _Nonsense(Exception):
    """An answer that follows no rule."""


def _whole(answer: Answered, *, keep_alive: bool, head_only: bool = False) -> bytes:
    headers = [
        *answer.headers,
        (b"Content-Length", b"%d" % len(answer.body)),
        (b"Connection", b"keep-alive" if keep_alive else b"close"),
    ]
    return response_bytes(answer.status, headers) + (b"" if head_only else answer.body)
