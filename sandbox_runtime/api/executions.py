"""The routes of executions, and of the archive that a build begins with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_runtime.executions import Executions
from sandbox_runtime.http import (
    LineStream,
    json_answer,
    no_content,
    query_number,
    read_body,
    read_bytes,
)
from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import (
    ExecutionForgotten,
    ExecutionNotFound,
    InvalidRequest,
    SandboxRestarted,
)
from sandbox_runtime.protocol.requests import (
    BOOT_ID_HEADER,
    HEARTBEAT_S,
    Acknowledgements,
    CancelRequest,
    InputReply,
)

Unpack = Callable[[AsyncIterator[bytes], str], Awaitable[None]]
"""Unpacks a tar archive into a directory. Raises `ArchiveRefused`."""


class ExecutionRoutes:
    """What the workers ask."""

    def __init__(self, *, boot_id: str, executions: Executions, unpack: Unpack) -> None:
        self._boot_id = boot_id
        self._executions = executions
        self._unpack = unpack

    def routes(self) -> list[Route]:
        return [
            Route("/executions", self._list, methods=["GET"]),
            Route("/executions/{id}", self._run, methods=["PUT"]),
            Route("/executions/{id}/cancel", self._cancel, methods=["POST"]),
            Route("/executions/{id}/input", self._answer, methods=["POST"]),
            Route("/acks", self._acknowledge, methods=["POST"]),
            Route("/archive", self._unpack_archive, methods=["PUT"]),
        ]

    async def _list(self, request: Request) -> Response:
        return json_answer(list(self._executions.statuses()))

    async def _run(self, request: Request) -> Response:
        if request.headers.get(BOOT_ID_HEADER, self._boot_id) != self._boot_id:
            raise SandboxRestarted("the runtime was started anew since")
        after = query_number(request, "after", 0)
        wanted = codec.decode_request(await read_bytes(request))
        execution = self._executions.start(_id(request), wanted)
        execution.journal.require(after)
        return LineStream(execution.journal.read(after, heartbeat_s=HEARTBEAT_S))

    async def _cancel(self, request: Request) -> Response:
        reason = (await read_body(request, CancelRequest)).reason
        self._executions.cancel(_id(request), reason)
        return no_content()

    async def _answer(self, request: Request) -> Response:
        await self._executions.answer(_id(request), await read_body(request, InputReply))
        return no_content()

    async def _acknowledge(self, request: Request) -> Response:
        for execution_id, n in (await read_body(request, Acknowledgements)).acks.items():
            with suppress(ExecutionNotFound, ExecutionForgotten):
                self._executions.acknowledge(execution_id, n)
        return no_content()

    async def _unpack_archive(self, request: Request) -> Response:
        path = request.query_params.get("path")
        if path is None:
            raise InvalidRequest("path is missing")
        await self._unpack(request.stream(), path)
        return no_content()


def _id(request: Request) -> str:
    return codec.check_execution_id(request.path_params["id"])
