"""The routes of what the runtime holds: its own state, and its sessions."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_runtime.contexts import CodeContexts
from sandbox_runtime.executions import Executions
from sandbox_runtime.http import json_answer, no_content
from sandbox_runtime.processes import Processes
from sandbox_runtime.protocol.requests import Pong
from sandbox_runtime.sessions import Sessions
from sandbox_runtime.terminals import Terminals


class StatusRoutes:
    """Shells start with their first command; here they are told of, and ended."""

    def __init__(
        self,
        *,
        boot_id: str,
        executions: Executions,
        sessions: Sessions,
        processes: Processes,
        terminals: Terminals,
        contexts: CodeContexts,
    ) -> None:
        self._boot_id = boot_id
        self._executions = executions
        self._sessions = sessions
        self._processes = processes
        self._terminals = terminals
        self._contexts = contexts
        self._started_at = time.monotonic()

    def routes(self) -> list[Route]:
        return [
            Route("/ping", self._ping, methods=["GET"]),
            Route("/sessions/{name:path}", self._end_session, methods=["DELETE"]),
        ]

    async def _ping(self, request: Request) -> Response:
        return json_answer(
            Pong(
                boot_id=self._boot_id,
                uptime_ms=round((time.monotonic() - self._started_at) * 1000),
                executions=len(self._executions.statuses()),
                sessions=self._sessions.names(),
                contexts=self._contexts.ids(),
            )
        )

    async def _end_session(self, request: Request) -> Response:
        name = request.path_params["name"]
        await asyncio.gather(
            self._sessions.end(name),
            self._processes.end_session(name),
            self._terminals.end_session(name),
        )
        return no_content()
