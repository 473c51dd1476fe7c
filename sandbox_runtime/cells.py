"""Runs a cell in a kernel: makes events of what the kernel reports, and can cut it short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from msgspec.structs import replace

from sandbox_runtime.cancellation import Cancellation
from sandbox_runtime.cell_events import on_one_line, shortened, size_of
from sandbox_runtime.delegate_messages import (
    CellEnded,
    CellReport,
    CellStarted,
    Execute,
    InputRequested,
    Printed,
)
from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.kernels import Kernel
from sandbox_runtime.output import Output
from sandbox_runtime.protocol.events import CellException, Display, Result
from sandbox_runtime.protocol.requests import CodeRequest
from sandbox_runtime.questions import Questions

INTERRUPT_TIMEOUT_S = 2.0
"""What an interrupted cell may take to end; then its kernel is killed, with the variables."""

MAX_PROMPT_CHARS = 64 * 1024

QUESTION_BYTES = 500
"""What one question takes besides its prompt, told and withdrawn."""

T = TypeVar("T")


class CutOff(Exception):
    """The execution is to end before the cell could be run."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Cell:
    """One run of a cell: makes events of what the kernel reports, and can be cut short."""

    def __init__(
        self,
        request: CodeRequest,
        kernel: Kernel,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
        questions: Questions,
        changes: Mapping[str, str | None],
    ) -> None:
        """`changes`: to the environment, from this cell on."""
        self._request = request
        self._kernel = kernel
        self._journal = journal
        self._output = output
        self._cancellation = cancellation
        self._questions = questions
        self._changes = changes
        self._limit_bytes = request.output_limit_bytes
        self._results_bytes = 0
        self._raised = False
        self._started = asyncio.Event()
        self._over = False

    async def run(self) -> CellEnded:
        """Raises `KernelLost`."""
        cell = Execute(
            code=self._request.code,
            allow_input=self._request.allow_input,
            ansi=self._request.ansi_traceback,
            variables=dict(self._changes),
            cell_variables=self._request.env,
        )
        interrupting = asyncio.create_task(self._interrupt_when_cancelled())
        try:
            async with aclosing(self._kernel.execute(cell)) as reports:
                async for report in reports:
                    if isinstance(report, CellEnded):
                        return report
                    await self._room()
                    self._take(report)
        finally:
            interrupting.cancel()
            self._questions.withdraw()
            self._over = True
            self._started.set()  # Who waits for it waits for nothing else.
        raise AssertionError("reports that stop before the cell's end")

    async def interrupt(self) -> bool:
        """Where the kernel runs the cell already: before, it ignores interrupts. Or False."""
        await self._started.wait()
        if self._over:
            return False
        await self._kernel.interrupt()
        return True

    async def _room(self) -> None:
        """Waits until output can be kept, but not when the cell is to end: it has to be heard."""
        if not self._output.has_room_now():
            with suppress(CutOff):
                await unless(self._cancellation, self._output.has_room())

    def _take(self, report: CellReport) -> None:
        match report:
            case CellStarted():
                self._started.set()
            case Printed(stream=stream, data=data):
                if self._output.has_room_now():
                    self._output.write(stream, data.encode())
            # After a cancellation they come of our own interrupt, which the error event tells.
            case Result() | Display() if self._cancellation.code is None:
                self._take_result(report)
            case CellException() if self._cancellation.code is None and not self._raised:
                self._raised = True
                self._tell(shortened(report))
            case InputRequested(prompt=prompt, password=password) if self._request.allow_input:
                self._ask(prompt[:MAX_PROMPT_CHARS], password=password)

    def _ask(self, prompt: str, *, password: bool) -> None:
        """Up to the output's limit, as results."""
        if self._results_bytes > self._limit_bytes:
            return  # It waits for an answer until the cell ends.
        self._results_bytes += QUESTION_BYTES + len(prompt.encode(errors="replace"))
        if self._results_bytes > self._limit_bytes:
            text = f"[Questions from here on are left out: over {self._limit_bytes:,} bytes]"
            self._tell(Result(timestamp="", text=text))
            return
        self._output.flush()
        self._questions.ask(prompt, password=password, reply=self._kernel.answer)

    def _take_result(self, result: Result | Display) -> None:
        """Keeps results up to the output's limit: they are told apart, but fill the same store."""
        if self._results_bytes > self._limit_bytes:
            return
        result = on_one_line(result)
        self._results_bytes += size_of(result)
        if self._results_bytes > self._limit_bytes:
            text = f"[Results from here on are left out: over {self._limit_bytes:,} bytes]"
            result = Result(timestamp="", text=text)
        self._tell(result)

    def _tell(self, event: Result | Display | CellException) -> None:
        """Tells it after what was printed before it, which the output may still hold."""
        self._output.flush()
        self._journal.append(replace(event, timestamp=timestamp()))

    async def _interrupt_when_cancelled(self) -> None:
        await self._cancellation.wait()
        try:
            async with asyncio.timeout(INTERRUPT_TIMEOUT_S):
                await self.interrupt()
                await asyncio.Event().wait()
        except TimeoutError:
            self._kernel.kill()


async def unless(cancellation: Cancellation, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Raises `CutOff` where the cancellation comes before, `work` undone."""
    task = asyncio.ensure_future(work)

    def undo() -> None:
        task.cancel()

    cancellation.call(undo)
    try:
        return await task
    except asyncio.CancelledError:
        if cancellation.code is None or not task.cancelled():
            task.cancel()
            raise
        raise CutOff(cancellation.code) from None
    finally:
        cancellation.forget(undo)
