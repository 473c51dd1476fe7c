"""Reads requests on the runtime's socket and writes their answers, whatever they are about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import ExecutionForgotten, InvalidRequest, RuntimeFault

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Of a JSON body: the largest command and stdin, with most characters of them escaped."""

HEARTBEAT = b"\n"

LOOK_S = 0.001
"""How long a look for a reader's goodbye may take."""

T = TypeVar("T")


class LineStream(Response):
    """Sends JSON lines as they come. A reader that leaves ends nothing but this.

    `lines` gives some lines, and whether they are the last; none of either, at times, is when to
    send a heartbeat.
    """

    def __init__(self, lines: AsyncIterator[tuple[bytes, bool]]) -> None:
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson")]
        head: Message | None = {"type": "http.response.start", "status": 200, "headers": headers}
        try:
            async for lines, last in self._lines:
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


@asynccontextmanager
async def until_left(receive: Receive, leave: Callable[[], object]) -> AsyncIterator[None]:
    """Has `leave` called where the caller goes before the block ends; its request is read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def read_bytes(request: Request) -> bytes:
    """The request's body. Raises `InvalidRequest` where there is more of it than may be."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise InvalidRequest(f"the body is longer than {MAX_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


async def read_body(request: Request, kind: type[T]) -> T:
    """The request's JSON body. Raises `InvalidRequest`."""
    return codec.decode_body(await read_bytes(request), kind)


def read_query(request: Request, kind: type[T]) -> T:
    """Raises `InvalidRequest`."""
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error


def query_number(request: Request, name: str, default: int) -> int:
    """Raises `InvalidRequest`."""
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidRequest(f"{name} must be a number, not {text[:40]!r}")
    return int(text)


def json_answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def no_content() -> Response:
    return Response(status_code=204)


def refusal(fault: RuntimeFault) -> Response:
    body = codec.encode(fault.body())
    return Response(body, status_code=fault.http_status, media_type="application/json")


async def _has_left(receive: Receive) -> bool:
    try:
        async with asyncio.timeout(LOOK_S):
            message = await receive()
    except TimeoutError:
        return False
    return bool(message["type"] == "http.disconnect")
