"""Runs cells in code contexts, each a kernel and the variables that it holds."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import structlog
from msgspec.structs import replace

from sandbox_runtime.cancellation import Cancellation, cut_off
from sandbox_runtime.cell_events import on_one_line, shortened, size_of
from sandbox_runtime.delegate_messages import (
    CellEnded,
    CellReport,
    CellStarted,
    InputRequested,
    Printed,
)
from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.jupyter_kernels import JupyterKernel
from sandbox_runtime.kernels import Kernel, KernelLost, KernelNotStarted, short_of_something
from sandbox_runtime.node_kernels import NodeKernel
from sandbox_runtime.output import Output
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.errors import DiskFull
from sandbox_runtime.protocol.events import (
    CellException,
    Complete,
    Conclusion,
    Display,
    Error,
    Result,
    Start,
)
from sandbox_runtime.protocol.requests import CodeContext, CodeRequest
from sandbox_runtime.questions import Questions
from sandbox_runtime.settings import Settings

INTERRUPT_TIMEOUT_S = 2.0
"""What an interrupted cell may take to end; then its kernel is killed, with the variables."""

MAX_PROMPT_CHARS = 64 * 1024

MAX_CONTEXTS = 32
"""Kernels in one sandbox; each is two processes."""

LANGUAGES = ("python", "javascript", "typescript")

T = TypeVar("T")

log = structlog.get_logger()


class CodeContexts:
    """The code contexts of the sandbox, by id. Lives on one event loop."""

    def __init__(self, settings: Settings, programs: UserPrograms) -> None:
        self._settings = settings
        self._programs = programs
        self._contexts: dict[str, _Context] = {}

    def ids(self) -> list[str]:
        return list(self._contexts)

    async def run(
        self,
        request: CodeRequest,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
        questions: Questions,
    ) -> Complete | Error:
        """Runs a cell when the cells before it in its context have ended."""
        asked = request.context
        if asked.language not in LANGUAGES:
            return _interpreter_missing(f"there is no interpreter for {asked.language!r}")
        context = self._contexts.get(asked.id)
        if context is None:
            if len(self._contexts) >= MAX_CONTEXTS:
                return _too_many_contexts()
            context = self._contexts[asked.id] = _Context(asked, self._settings, self._programs)
        context.runs += 1
        try:
            await _unless(cancellation, context.turn.acquire())
            try:
                return await context.run(request, journal, output, cancellation, questions)
            finally:
                context.turn.release()
        except _CutOff as cut:
            return cut_off(cut.code)
        finally:
            context.runs -= 1
            if context.is_blank and self._contexts.get(asked.id) is context:
                del self._contexts[asked.id]

    async def end(self, context_id: str) -> None:
        """Ends a context with what it runs; nothing happens where there is none."""
        context = self._contexts.pop(context_id, None)
        if context is not None:
            await context.end()

    async def interrupt(self, context_id: str) -> bool:
        """Stops the cell that runs in a context, as Ctrl-C does; False where none does."""
        context = self._contexts.get(context_id)
        return context is not None and await context.interrupt()

    def restart(self, context_id: str) -> None:
        """Ends a context's kernel, and a cell that runs in it; the next one has a new kernel."""
        context = self._contexts.get(context_id)
        if context is not None:
            context.restart()

    async def close(self) -> None:
        await asyncio.gather(*(self.end(context_id) for context_id in self.ids()))


class _Context:
    """One code context. Its kernel is started on first use, and again when it was lost."""

    def __init__(self, context: CodeContext, settings: Settings, programs: UserPrograms) -> None:
        self.turn = asyncio.Lock()
        """Held by the cell that runs: one at a time, in the order in which they came."""
        self.runs = 0
        """How many cells run or wait for their turn."""
        self._context = context
        self._settings = settings
        self._programs = programs
        self._kernel: Kernel | None = None
        self._lost_kernel = False
        self._ended = False
        self._restarted = False
        """Since the last cell was started."""
        self._cell: _Cell | None = None
        """The one that runs."""

    @property
    def is_blank(self) -> bool:
        """Whether there was never a kernel, and none is wanted now."""
        return self.runs == 0 and self._kernel is None and not self._lost_kernel

    async def run(
        self,
        request: CodeRequest,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
        questions: Questions,
    ) -> Complete | Error:
        """Runs a cell; called by who has the turn. Raises `_CutOff` where that comes before."""
        began = time.monotonic()
        if self._kernel is not None and (self._restarted or not self._kernel.alive):
            await self._lose_kernel()
        if self._ended:
            return _context_deleted()
        if self._kernel is None:
            try:
                self._kernel = await _unless(cancellation, self._start_kernel())
            except KernelNotStarted as error:
                return _not_started(error)
            if self._ended:
                await self._lose_kernel()
                return _context_deleted()
        journal.append(
            Start(
                timestamp=timestamp(),
                language=self._context.language,
                session_restarted=self._lost_kernel,
            )
        )
        self._lost_kernel = False
        killed_before = self._programs.killed_by_limits()
        self._restarted = False
        self._cell = _Cell(request, self._kernel, journal, output, cancellation, questions)
        try:
            ended = await self._cell.run()
        except KernelLost as loss:
            await self._lose_kernel()
            ran_out = self._programs.killed_by_limits() > killed_before
            return self._after_loss(loss, cancellation, out_of_memory=ran_out)
        except BaseException:
            await self._lose_kernel()
            raise
        finally:
            self._cell = None
        if ended.quits:
            await self._lose_kernel()
        if cancellation.code is not None:
            return cut_off(cancellation.code)
        return Complete(
            timestamp=timestamp(),
            conclusion=Conclusion.FAILURE if ended.failed else Conclusion.SUCCESS,
            duration_ms=round((time.monotonic() - began) * 1000),
            execution_count=ended.execution_count,
        )

    async def interrupt(self) -> bool:
        """False where no cell runs."""
        return self._cell is not None and await self._cell.interrupt()

    def restart(self) -> None:
        """Kills the kernel; a cell that runs in it ends by that."""
        self._restarted = True
        if self._kernel is not None:
            self._kernel.kill()

    async def end(self) -> None:
        """Kills the kernel; a cell that runs in it, or waits for its turn, ends by that."""
        self._ended = True
        if self._kernel is not None:
            self._kernel.kill()
        async with self.turn:
            await self._lose_kernel()

    async def _start_kernel(self) -> Kernel:
        began = time.monotonic()
        kernel = self._new_kernel()
        await kernel.start(cwd=self._context.cwd, env=self._context.env)
        took_ms = round((time.monotonic() - began) * 1000)
        log.info("kernel started", context_id=self._context.id, duration_ms=took_ms)
        return kernel

    def _new_kernel(self) -> Kernel:
        try:
            if self._context.language == "python":
                return JupyterKernel(self._programs, self._settings)
            return NodeKernel(self._programs, self._settings, self._context.language)
        except OSError as error:
            raise short_of_something(error) from error

    async def _lose_kernel(self) -> None:
        if self._kernel is not None:
            self._lost_kernel = True
            kernel, self._kernel = self._kernel, None
            await kernel.close()

    def _after_loss(
        self, loss: KernelLost, cancellation: Cancellation, *, out_of_memory: bool
    ) -> Error:
        if cancellation.code is not None:
            return cut_off(cancellation.code)
        if self._ended:
            return _context_deleted()
        if self._restarted:
            return _context_restarted()
        log.info("kernel died", context_id=self._context.id, exit_code=loss.exit_code)
        return _kernel_died(loss, out_of_memory=out_of_memory)


class _CutOff(Exception):
    """The execution is to end before the cell could be run."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class _Cell:
    """One run of a cell: makes events of what the kernel reports, and can be cut short."""

    def __init__(
        self,
        request: CodeRequest,
        kernel: Kernel,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
        questions: Questions,
    ) -> None:
        self._request = request
        self._kernel = kernel
        self._journal = journal
        self._output = output
        self._cancellation = cancellation
        self._questions = questions
        self._limit_bytes = request.output_limit_bytes
        self._results_bytes = 0
        self._raised = False
        self._started = asyncio.Event()
        self._over = False

    async def run(self) -> CellEnded:
        """Raises `KernelLost`."""
        interrupting = asyncio.create_task(self._interrupt_when_cancelled())
        try:
            cell = self._kernel.execute(self._request.code, allow_input=self._request.allow_input)
            async with aclosing(cell) as reports:
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
            with suppress(_CutOff):
                await _unless(self._cancellation, self._output.has_room())

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
                self._output.flush()
                prompt = prompt[:MAX_PROMPT_CHARS]
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


async def _unless(cancellation: Cancellation, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Raises `_CutOff` where the cancellation comes before, `work` undone."""
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
        raise _CutOff(cancellation.code) from None
    finally:
        cancellation.forget(undo)


def _not_started(error: KernelNotStarted) -> Error:
    if error.missing:
        return _interpreter_missing(str(error))
    if os.strerror(errno.ENOSPC) in str(error):
        return Error(
            timestamp=timestamp(),
            code=DiskFull.code,
            error="The context's interpreter needs a few files, and the sandbox's disk is full.",
            hint=DiskFull.hint,
        )
    return Error(
        timestamp=timestamp(),
        code="context_unavailable",
        error=f"The context's interpreter did not start: {error}",
        hint="Check the context's directory and environment, and the memory of the sandbox.",
    )


def _interpreter_missing(reason: str) -> Error:
    return Error(
        timestamp=timestamp(),
        code="interpreter_missing",
        error=f"This sandbox cannot run the code: {reason}.",
        hint="Use an image that has it: python3 with the package ipykernel, or Node.js.",
    )


def _too_many_contexts() -> Error:
    return Error(
        timestamp=timestamp(),
        code="too_many_contexts",
        error=f"The sandbox holds {MAX_CONTEXTS} code contexts, as many as it may.",
        hint="Delete a code context that is no longer used.",
    )


def _context_deleted() -> Error:
    return Error(
        timestamp=timestamp(),
        code="context_deleted",
        error="The code context was deleted before the cell ended.",
        hint="Send the cell again, in a new context.",
    )


def _context_restarted() -> Error:
    return Error(
        timestamp=timestamp(),
        code="context_restarted",
        error="The code context was restarted before the cell ended.",
        hint="Its variables are gone; what the cell needs of them is to be run again before it.",
    )


def _kernel_died(loss: KernelLost, *, out_of_memory: bool) -> Error:
    match loss.exit_code:
        case None:
            reason = "its connection broke"
        case 137 if out_of_memory:
            reason = "the sandbox's memory ran out, so it was killed"
        case code if code > 128:
            reason = f"it was killed by {_signal_name(code - 128)}"
        case code:
            reason = f"it exited with code {code}"
    return Error(
        timestamp=timestamp(),
        code="kernel_died",
        error=f"The interpreter ended while the cell ran: {reason}.",
        hint="Its variables are gone. The next cell in this context starts a fresh interpreter.",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
