"""The routes of background processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_runtime.http import (
    LineStream,
    json_answer,
    no_content,
    query_number,
    read_body,
    read_bytes,
    until_left,
)
from sandbox_runtime.journal import Batch
from sandbox_runtime.process_waits import wait_for
from sandbox_runtime.processes import Process, Processes, signal_number
from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import InvalidRequest
from sandbox_runtime.protocol.processes import (
    KilledProcesses,
    ProcessList,
    SignalProcess,
    StartProcess,
)
from sandbox_runtime.protocol.requests import HEARTBEAT_S


class ProcessRoutes:
    """What the web asks for its callers; the processes go on when they leave."""

    def __init__(self, processes: Processes, searches: Executor) -> None:
        """`searches`: in which lines that are waited for are looked at."""
        self._processes = processes
        self._searches = searches

    def routes(self) -> list[Route]:
        one = "/processes/{id}"
        return [
            Route("/processes", self._start, methods=["POST"]),
            Route("/processes", self._list, methods=["GET"]),
            Route("/processes", self._kill_all, methods=["DELETE"]),
            Route(one, self._get, methods=["GET"]),
            Route(one, self._kill, methods=["DELETE"]),
            Route(f"{one}/signal", self._signal, methods=["POST"]),
            Route(f"{one}/wait", self._wait, methods=["POST"]),
            Route(f"{one}/logs", self._logs, methods=["GET"]),
            Route(f"{one}/events", self._events, methods=["GET"]),
        ]

    async def _start(self, request: Request) -> Response:
        return json_answer(self._processes.start(await read_body(request, StartProcess)).info())

    async def _list(self, request: Request) -> Response:
        infos = [process.info() for process in self._processes.all()]
        return json_answer(ProcessList(processes=infos))

    async def _kill_all(self, request: Request) -> Response:
        return json_answer(KilledProcesses(killed=await self._processes.kill_all()))

    async def _get(self, request: Request) -> Response:
        return json_answer(self._process(request).info())

    async def _kill(self, request: Request) -> Response:
        process = self._process(request)
        if process.ended.is_set():
            self._processes.forget(process)
        await process.kill()
        return json_answer(process.info())

    async def _signal(self, request: Request) -> Response:
        process = self._process(request)
        process.send(signal_number((await read_body(request, SignalProcess)).signal))
        return json_answer(process.info())

    async def _wait(self, request: Request) -> Response:
        process = self._process(request)
        wanted = codec.decode_wait(await read_bytes(request))
        waiting = asyncio.create_task(wait_for(process, wanted, self._searches))
        async with until_left(request.receive, waiting.cancel):
            await asyncio.wait((waiting,))
        return json_answer(waiting.result())

    async def _logs(self, request: Request) -> Response:
        return json_answer(self._process(request).journal.text)

    async def _events(self, request: Request) -> Response:
        process, after = self._process(request), query_number(request, "after", 0)
        if after > process.journal.last_n:
            raise InvalidRequest(f"its last event is {process.journal.last_n}")
        if process.journal.ended and after == process.journal.last_n:
            return no_content()
        return LineStream(_at_once(process, after))

    def _process(self, request: Request) -> Process:
        return self._processes.find(request.path_params["id"])


async def _at_once(process: Process, after: int) -> AsyncIterator[Batch]:
    """The answer begins although the process says nothing."""
    yield Batch(b"", last=False)
    async for batch in process.journal.read(after, heartbeat_s=HEARTBEAT_S):
        yield batch
