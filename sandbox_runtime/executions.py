"""Runs executions by their ids, once each."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec
import structlog

from sandbox_runtime.cancellation import TIMED_OUT, Cancellation
from sandbox_runtime.journal import Journal, error_of, timestamp
from sandbox_runtime.output import Output
from sandbox_runtime.protocol.errors import (
    ExecutionConflict,
    ExecutionForgotten,
    ExecutionNotFound,
    InputNotWanted,
    RuntimeFault,
    TooManyExecutions,
)
from sandbox_runtime.protocol.events import Complete, Error
from sandbox_runtime.protocol.requests import (
    CancelReason,
    CheckoutRequest,
    CodeRequest,
    Encoding,
    ExecRequest,
    ExecutionRequest,
    ExecutionStatus,
    InputReply,
)
from sandbox_runtime.questions import Questions
from sandbox_runtime.sessions import check

MAX_EXECUTIONS = 4096
"""That run, or that ended and were not acknowledged: a worker takes some 2 s to do so, in which a
quick caller has run hundreds."""

ABANDONED_AFTER_S = 600.0
"""An ended execution that nobody has acknowledged for so long makes room where it is needed."""

MAX_FORGOTTEN = 10_000
"""Ids of executions that were acknowledged to their end: what is asked again is not run again."""

TRIM_ABOVE_BYTES = 4 * 1024 * 1024
"""A journal that held more is worth giving its memory back to the system."""

CLOSE_TIMEOUT_S = 3.0

_libc = ctypes.CDLL(None)

log = structlog.get_logger()

R = TypeVar("R", contravariant=True)


class Runner(Protocol[R]):
    """Runs one kind of request: tells its start and what happens, and returns its end."""

    async def run(
        self, request: R, journal: Journal, output: Output, cancellation: Cancellation, /
    ) -> Complete | Error: ...


class CellRunner(Protocol):
    """Runs cells; they may ask for input."""

    async def run(
        self,
        request: CodeRequest,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
        questions: Questions,
        /,
    ) -> Complete | Error: ...


class Execution:
    """One request and what has come of it."""

    def __init__(self, execution_id: str, request: ExecutionRequest) -> None:
        self.id = execution_id
        self.request = request
        self.journal = Journal()
        self.cancellation = Cancellation()
        self.questions = Questions(self.journal)
        self.ended_at: float | None = None

    def status(self) -> ExecutionStatus:
        return ExecutionStatus(
            id=self.id,
            running=not self.journal.ended,
            last_n=self.journal.last_n,
            acknowledged_n=self.journal.acknowledged_n,
        )


class Executions:
    """The executions that run, and those whose end was not acknowledged yet."""

    def __init__(
        self,
        *,
        commands: Runner[ExecRequest],
        code: CellRunner,
        checkouts: Runner[CheckoutRequest],
        killed_by_limits: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commands = commands
        self._code = code
        self._checkouts = checkouts
        self._killed_by_limits = killed_by_limits
        self._clock = clock
        self._executions: dict[str, Execution] = {}
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, execution_id: str, request: ExecutionRequest) -> Execution:
        """Starts an execution, or finds the one of this id that was asked to do the same.

        Raises `ExecutionForgotten`, `ExecutionConflict`, `TooManyExecutions`, `InvalidRequest`.
        """
        if execution_id in self._forgotten:
            raise ExecutionForgotten("it ended, and its end was acknowledged")
        execution = self._executions.get(execution_id)
        if execution is not None:
            if not _asks_the_same(execution.request, request):
                raise ExecutionConflict("the execution of this id was asked to do something else")
            return execution
        if isinstance(request, ExecRequest):
            check(request)
        self._make_room()
        execution = Execution(execution_id, request)
        self._executions[execution_id] = execution
        task = asyncio.create_task(self._run(execution))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return execution

    def cancel(self, execution_id: str, reason: CancelReason) -> None:
        """Has it end early; does nothing where it has ended. Raises as `acknowledge`."""
        self._find(execution_id).cancellation.set(reason)

    async def answer(self, execution_id: str, reply: InputReply) -> None:
        """Gives a cell the input that it waits for. Raises `InputNotWanted`."""
        execution = self._executions.get(execution_id)
        if execution is None:
            raise InputNotWanted("it has ended, or has not begun")
        await execution.questions.answer(reply)

    def acknowledge(self, execution_id: str, n: int) -> None:
        """Drops events up to `n`, and with the last one the execution.

        Raises `ExecutionNotFound`, `ExecutionForgotten`.
        """
        journal = self._find(execution_id).journal
        journal.acknowledge(n)
        if journal.ended and journal.acknowledged_n == journal.last_n:
            self._forget(execution_id)

    async def dismiss(self, execution_id: str) -> None:
        """Waits for its end, and drops it."""
        journal = self._find(execution_id).journal
        async for _ in journal.read(journal.acknowledged_n):
            pass
        self.acknowledge(execution_id, journal.last_n)

    def statuses(self) -> list[ExecutionStatus]:
        return [execution.status() for execution in self._executions.values()]

    async def close(self) -> None:
        """Cuts off all that runs, and returns when each has told its end."""
        for execution in self._executions.values():
            execution.cancellation.set(CancelReason.SANDBOX_LOST)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)

    async def _run(self, execution: Execution) -> None:
        request, journal = execution.request, execution.journal
        output = Output(
            journal,
            limit_bytes=request.output_limit_bytes,
            encoding=request.encoding if isinstance(request, ExecRequest) else Encoding.UTF8,
        )
        deadline = None
        if request.timeout_ms is not None:
            deadline = asyncio.get_running_loop().call_later(
                request.timeout_ms / 1000, execution.cancellation.set, TIMED_OUT
            )
        killed_before = self._killed_by_limits()
        end = await self._end_of(execution, output)
        if self._killed_by_limits() > killed_before:
            end = msgspec.structs.replace(end, oom_killed=True)
        if deadline is not None:
            deadline.cancel()
        output.close()
        journal.append(end)
        execution.ended_at = self._clock()

    async def _end_of(self, execution: Execution, output: Output) -> Complete | Error:
        journal, cancellation = execution.journal, execution.cancellation
        try:
            match execution.request:
                case ExecRequest() as request:
                    return await self._commands.run(request, journal, output, cancellation)
                case CodeRequest() as request:
                    questions = execution.questions
                    return await self._code.run(request, journal, output, cancellation, questions)
                case CheckoutRequest() as request:
                    return await self._checkouts.run(request, journal, output, cancellation)
        except RuntimeFault as fault:
            return error_of(fault)
        except Exception:
            log.exception("execution failed", execution_id=execution.id)
            return Error(
                timestamp=timestamp(),
                code=RuntimeFault.code,
                error="The sandbox's runtime failed while it ran this.",
                hint="Try again; if it stays so, the runtime's log says why.",
            )

    def _find(self, execution_id: str) -> Execution:
        if execution_id in self._forgotten:
            raise ExecutionForgotten("it ended, and its end was acknowledged")
        if execution_id not in self._executions:
            raise ExecutionNotFound("no execution has this id")
        return self._executions[execution_id]

    def _forget(self, execution_id: str) -> None:
        execution = self._executions.pop(execution_id)
        if execution.journal.most_held_bytes > TRIM_ABOVE_BYTES:
            # Else what its lines took stays with the process. Takes a millisecond.
            _libc.malloc_trim(0)
        self._forgotten[execution_id] = None
        if len(self._forgotten) > MAX_FORGOTTEN:
            self._forgotten.popitem(last=False)

    def _make_room(self) -> None:
        """Drops the execution that was abandoned first, if one must go for another."""
        if len(self._executions) < MAX_EXECUTIONS:
            return
        ended = [e for e in self._executions.values() if e.ended_at is not None]
        oldest = min(ended, key=lambda e: e.ended_at or 0, default=None)
        if oldest is None or self._clock() - (oldest.ended_at or 0) < ABANDONED_AFTER_S:
            raise TooManyExecutions(f"the sandbox holds {MAX_EXECUTIONS} executions already")
        self._forget(oldest.id)


def _asks_the_same(first: ExecutionRequest, second: ExecutionRequest) -> bool:
    """Whoever takes over knows less of its deadline: the first request's stands."""
    replace = msgspec.structs.replace
    return replace(first, timeout_ms=None) == replace(second, timeout_ms=None)
