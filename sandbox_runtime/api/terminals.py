"""The routes of terminals, and the WebSockets of those who look at one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from sandbox_runtime.http import json_answer, no_content, read_body
from sandbox_runtime.protocol.errors import TerminalInputRefused, TooManyTerminals
from sandbox_runtime.protocol.terminals import (
    Exit,
    FromTerminal,
    Ready,
    Refused,
    StartTerminal,
    ToTerminal,
)
from sandbox_runtime.terminals import Terminal, Terminals

SEND_TIMEOUT_S = 30.0
"""For a viewer to take some of what is printed; one that does not has gone."""

MAX_VIEWERS = 16
"""Of one terminal."""

_NORMAL_CLOSURE = 1000

_decoder = msgspec.json.Decoder(ToTerminal)


class TerminalRoutes:
    """Terminals go on when those who look at them leave."""

    def __init__(self, terminals: Terminals) -> None:
        self._terminals = terminals

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/terminals", self._start, methods=["POST"]),
            Route("/terminals", self._list, methods=["GET"]),
            Route("/terminals/{id}", self._end, methods=["DELETE"]),
            WebSocketRoute("/terminals/{id}", self._look),
        ]

    async def _start(self, request: Request) -> Response:
        return json_answer(self._terminals.start(await read_body(request, StartTerminal)).info())

    async def _list(self, request: Request) -> Response:
        return json_answer(self._terminals.infos())

    async def _end(self, request: Request) -> Response:
        await self._terminals.end(request.path_params["id"])
        return no_content()

    async def _look(self, socket: WebSocket) -> None:
        terminal = self._terminals.find(socket.path_params["id"])
        if terminal.info().viewers >= MAX_VIEWERS:
            raise TooManyTerminals(f"{MAX_VIEWERS} look at this terminal already")
        await socket.accept()
        tasks = [asyncio.create_task(act(socket, terminal)) for act in (_show, _type)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _show(socket: WebSocket, terminal: Terminal) -> None:
    """To the terminal's end, or the viewer's."""
    with suppress(WebSocketDisconnect, TimeoutError):
        await _send(socket, Ready())
        async with aclosing(terminal.read()) as pieces:
            async for piece in pieces:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await socket.send_bytes(piece)
        await _send(socket, Exit(code=terminal.exit_code or 0))
        await socket.close(_NORMAL_CLOSURE)


async def _type(socket: WebSocket, terminal: Terminal) -> None:
    """Until the viewer leaves."""
    with suppress(WebSocketDisconnect):
        while (message := await socket.receive())["type"] == "websocket.receive":
            try:
                if message.get("bytes") is not None:
                    await terminal.write(message["bytes"])
                else:
                    wanted = _decoder.decode(message["text"])
                    terminal.resize(wanted.cols, wanted.rows)
            except msgspec.DecodeError as error:
                await _send(socket, Refused(code="invalid_message", message=str(error)))
            except TerminalInputRefused as fault:
                await _send(socket, Refused(code=fault.code, message=fault.message))


async def _send(socket: WebSocket, message: FromTerminal) -> None:
    await socket.send_text(msgspec.json.encode(message).decode())
