"""The routes of code contexts; cells are executions, and start one where it is not there."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_runtime.contexts import CodeContexts
from sandbox_runtime.http import json_answer, no_content, read_body
from sandbox_runtime.languages import Languages
from sandbox_runtime.protocol.errors import InvalidRequest
from sandbox_runtime.protocol.requests import CodeContext, ContextInterrupted, Spares


class ContextRoutes:
    def __init__(self, contexts: CodeContexts, languages: Languages) -> None:
        self._contexts = contexts
        self._languages = languages

    def routes(self) -> list[Route]:
        one = "/contexts/{id:path}"
        return [
            Route("/spares", self._have_spares, methods=["PUT"]),
            Route(f"{one}/interrupt", self._interrupt, methods=["POST"]),
            Route(f"{one}/restart", self._restart, methods=["POST"]),
            Route(one, self._open, methods=["PUT"]),
            Route(one, self._end, methods=["DELETE"]),
        ]

    async def _open(self, request: Request) -> Response:
        asked = await read_body(request, CodeContext)
        if asked.id != request.path_params["id"]:
            raise InvalidRequest("the context's id is not that of the path")
        await self._contexts.open(asked)
        return no_content()

    async def _end(self, request: Request) -> Response:
        await self._contexts.end(request.path_params["id"])
        return no_content()

    async def _interrupt(self, request: Request) -> Response:
        interrupted = await self._contexts.interrupt(request.path_params["id"])
        return json_answer(ContextInterrupted(interrupted=interrupted))

    async def _restart(self, request: Request) -> Response:
        self._contexts.restart(request.path_params["id"])
        return no_content()

    async def _have_spares(self, request: Request) -> Response:
        await self._languages.have_spares((await read_body(request, Spares)).languages, {})
        return no_content()
