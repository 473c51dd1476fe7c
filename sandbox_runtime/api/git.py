"""The routes of git: the checkout of a repository, and commands on one."""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sandbox_runtime.cancellation import Cancellation
from sandbox_runtime.executions import Execution, Executions
from sandbox_runtime.git import GitCommands
from sandbox_runtime.http import LineStream, json_answer, read_body, read_bytes, until_left
from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.requests import HEARTBEAT_S, CancelReason, CheckoutRequest


class GitRoutes:
    """What the web asks for its callers. All of it ends when the caller leaves."""

    def __init__(self, *, executions: Executions, commands: GitCommands) -> None:
        self._executions = executions
        self._commands = commands

    def routes(self) -> list[Route]:
        return [
            Route("/git/checkout", self._checkout, methods=["POST"]),
            Route("/git", self._command, methods=["POST"]),
        ]

    async def _command(self, request: Request) -> Response:
        command = codec.decode_git_command(await read_bytes(request))
        cancellation = Cancellation()
        async with until_left(request.receive, lambda: cancellation.set(CancelReason.CANCELLED)):
            return json_answer(await self._commands.run(command, cancellation))

    async def _checkout(self, request: Request) -> Response:
        wanted = await read_body(request, CheckoutRequest)
        # Nobody else knows of this execution.
        execution = self._executions.start(f"call-{secrets.token_hex(16)}", wanted)
        return _WhileRead(execution, self._executions)


class _WhileRead(Response):
    """Sends an execution's events; it does not outlive its reader."""

    def __init__(self, execution: Execution, executions: Executions) -> None:
        self._execution = execution
        self._executions = executions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lines = self._execution.journal.read(0, heartbeat_s=HEARTBEAT_S)
        try:
            async with until_left(receive, self._cancel):
                await LineStream(lines)(scope, receive, send)
        finally:
            self._cancel()
            await self._executions.dismiss(self._execution.id)

    def _cancel(self) -> None:
        self._execution.cancellation.set(CancelReason.CANCELLED)
