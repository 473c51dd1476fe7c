"""Answers the runtime's socket: its routes, and the HTTP form of what they answer."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from sandbox_runtime.contexts import CodeContexts
from sandbox_runtime.executions import Executions
from sandbox_runtime.journal import Journal
from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import (
    ExecutionForgotten,
    ExecutionNotFound,
    InvalidRequest,
    NotAuthorized,
    RuntimeFault,
    SandboxRestarted,
)
from sandbox_runtime.protocol.requests import (
    BOOT_ID_HEADER,
    HEARTBEAT_S,
    Acknowledgements,
    CancelRequest,
    Pong,
)
from sandbox_runtime.sessions import Sessions

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Of a JSON body: the largest command and stdin, with most characters of them escaped."""

HEARTBEAT = b"\n"

LOOK_S = 0.001
"""How long a look for a reader's goodbye may take."""

Unpack = Callable[[AsyncIterator[bytes], str], Awaitable[None]]
"""Unpacks a tar archive into a directory. Raises `ArchiveRefused`."""

log = structlog.get_logger()


class Api:
    """The ASGI application of one runtime."""

    def __init__(
        self,
        *,
        boot_id: str,
        token: str,
        executions: Executions,
        sessions: Sessions,
        contexts: CodeContexts,
        unpack: Unpack,
    ) -> None:
        self._boot_id = boot_id
        self._authorization = f"Bearer {token}".encode()
        self._executions = executions
        self._sessions = sessions
        self._contexts = contexts
        self._unpack = unpack
        self._started_at = time.monotonic()
        self._router = Router(
            [
                Route("/ping", self._ping, methods=["GET"]),
                Route("/executions", self._list_executions, methods=["GET"]),
                Route("/executions/{id}", self._run_execution, methods=["PUT"]),
                Route("/executions/{id}/cancel", self._cancel_execution, methods=["POST"]),
                Route("/acks", self._acknowledge, methods=["POST"]),
                Route("/sessions/{name:path}", self._end_session, methods=["DELETE"]),
                Route("/contexts/{id:path}", self._end_context, methods=["DELETE"]),
                Route("/archive", self._unpack_archive, methods=["PUT"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._authorize(scope)
            await self._router(scope, receive, send)
        except RuntimeFault as fault:
            await _refusal(fault)(scope, receive, send)
        except Exception:
            log.exception("request failed", path=scope["path"])
            await _refusal(RuntimeFault("the runtime failed"))(scope, receive, send)

    def _authorize(self, scope: Scope) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._authorization):
            raise NotAuthorized("the token is missing or wrong")

    async def _ping(self, request: Request) -> Response:
        return _json(
            Pong(
                boot_id=self._boot_id,
                uptime_ms=round((time.monotonic() - self._started_at) * 1000),
                executions=len(self._executions.statuses()),
                sessions=self._sessions.names(),
                contexts=self._contexts.ids(),
            )
        )

    async def _list_executions(self, request: Request) -> Response:
        return _json(list(self._executions.statuses()))

    async def _run_execution(self, request: Request) -> Response:
        if request.headers.get(BOOT_ID_HEADER, self._boot_id) != self._boot_id:
            raise SandboxRestarted("the runtime was started anew since")
        after = _number(request.query_params.get("after", "0"))
        body = await _body(request)
        execution = self._executions.start(_execution_id(request), codec.decode_request(body))
        execution.journal.require(after)
        return _EventStream(execution.journal, after)

    async def _cancel_execution(self, request: Request) -> Response:
        reason = codec.decode_body(await _body(request), CancelRequest).reason
        self._executions.cancel(_execution_id(request), reason)
        return Response(status_code=204)

    async def _acknowledge(self, request: Request) -> Response:
        for execution_id, n in codec.decode_body(
            await _body(request), Acknowledgements
        ).acks.items():
            with suppress(ExecutionNotFound, ExecutionForgotten):
                self._executions.acknowledge(execution_id, n)
        return Response(status_code=204)

    async def _end_session(self, request: Request) -> Response:
        await self._sessions.end(request.path_params["name"])
        return Response(status_code=204)

    async def _end_context(self, request: Request) -> Response:
        await self._contexts.end(request.path_params["id"])
        return Response(status_code=204)

    async def _unpack_archive(self, request: Request) -> Response:
        path = request.query_params.get("path")
        if path is None:
            raise InvalidRequest("path is missing")
        await self._unpack(request.stream(), path)
        return Response(status_code=204)


class _EventStream(Response):
    """Sends a journal's events as they come. A reader that leaves ends nothing but this."""

    def __init__(self, journal: Journal, after: int) -> None:
        self._journal = journal
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson")]
        head: Message | None = {"type": "http.response.start", "status": 200, "headers": headers}
        try:
            async for lines, last in self._journal.read(self._after, heartbeat_s=HEARTBEAT_S):
                if head is not None:
                    # Not before there is something to say: the program is started meanwhile.
                    await send(head)
                    head = None
                # Nobody tells a writer that its reader has left; looking costs, so not each time.
                elif not lines and not last and await _has_left(receive):
                    return
                body = lines if lines or last else HEARTBEAT
                await send({"type": "http.response.body", "body": body, "more_body": not last})
        except ExecutionForgotten:
            return  # Another reader has acknowledged what this one has not read: it is cut.


async def _has_left(receive: Receive) -> bool:
    try:
        async with asyncio.timeout(LOOK_S):
            message = await receive()
    except TimeoutError:
        return False
    return bool(message["type"] == "http.disconnect")


async def _body(request: Request) -> bytes:
    """Raises `InvalidRequest` where there is more of it than may be."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise InvalidRequest(f"the body is longer than {MAX_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _execution_id(request: Request) -> str:
    return codec.check_execution_id(request.path_params["id"])


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidRequest(f"after must be a number, not {text[:40]!r}")
    return int(text)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _refusal(fault: RuntimeFault) -> Response:
    body = codec.encode(fault.body())
    return Response(body, status_code=fault.http_status, media_type="application/json")
