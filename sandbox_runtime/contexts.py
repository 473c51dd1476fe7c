"""Runs cells in code contexts, each a kernel and the variables that it holds."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
from msgspec.structs import replace

from sandbox_runtime.cancellation import Cancellation, cut_off
from sandbox_runtime.cells import Cell, CutOff, unless
from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.kernels import Kernel, KernelLost, KernelNotStarted
from sandbox_runtime.languages import Languages
from sandbox_runtime.output import Output
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.errors import (
    ContextUnavailable,
    DiskFull,
    InterpreterMissing,
    InvalidRequest,
    RuntimeFault,
    TooManyContexts,
)
from sandbox_runtime.protocol.events import Complete, Conclusion, Error, Start
from sandbox_runtime.protocol.requests import CodeContext, CodeRequest
from sandbox_runtime.questions import Questions

MAX_CONTEXTS = 32
"""Kernels in one sandbox; each is two processes."""

log = structlog.get_logger()


class CodeContexts:
    """The code contexts of the sandbox, by id. Lives on one event loop."""

    def __init__(self, languages: Languages, programs: UserPrograms, *, idle_s: float) -> None:
        """`idle_s` after a context's last cell its kernel is ended."""
        self._idle_s = idle_s
        self._languages = languages
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
        """Runs a cell when the cells before it in its context have ended. Raises as `open`."""
        try:
            async with self._turn(request.context, cancellation) as context:
                return await context.run(request, journal, output, cancellation, questions)
        except CutOff as cut:
            return cut_off(cut.code)

    async def open(self, asked: CodeContext) -> None:
        """Returns when the context's kernel is there.

        Raises `LanguageUnsupported`, `InterpreterMissing`, `ContextUnavailable`, `DiskFull`,
        `TooManyContexts`.
        """
        uncancelled = Cancellation()
        async with self._turn(asked, uncancelled) as context:
            await context.have_kernel(uncancelled)

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

    @asynccontextmanager
    async def _turn(
        self, asked: CodeContext, cancellation: Cancellation
    ) -> AsyncIterator[_Context]:
        """The context, when it is our turn in it. Raises `CutOff` where that comes before."""
        context = self._contexts.get(asked.id)
        if context is None:
            self._languages.check(asked.language)
            if len(self._contexts) >= MAX_CONTEXTS:
                raise TooManyContexts(f"The sandbox holds {MAX_CONTEXTS} code contexts.")
            context = self._contexts[asked.id] = _Context(asked, self._languages, self._programs)
        context.runs += 1
        try:
            await unless(cancellation, context.turn.acquire())
            try:
                yield context
            finally:
                context.turn.release()
        finally:
            context.runs -= 1
            if self._contexts.get(asked.id) is context:
                if context.is_blank:
                    del self._contexts[asked.id]
                else:
                    context.wait_for_next(self._idle_s)


class _Context:
    """One code context. Its kernel is started on first use, and again when it was lost."""

    def __init__(self, context: CodeContext, languages: Languages, programs: UserPrograms) -> None:
        self.turn = asyncio.Lock()
        """Held by the cell that runs: one at a time, in the order in which they came."""
        self.runs = 0
        """How many cells run or wait for their turn."""
        self._context = context
        self._env = context.env
        """What the kernel has."""
        self._languages = languages
        self._programs = programs
        self._kernel: Kernel | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._dozing: asyncio.Task[None] | None = None
        self._lost_kernel = False
        self._ended = False
        self._restarted = False
        """Since the last cell was started."""
        self._cell: Cell | None = None
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
        """Runs a cell; called by who has the turn. Raises as `have_kernel`."""
        began = time.monotonic()
        kernel = await self.have_kernel(cancellation, request.context.env)
        if kernel is None:
            return _context_deleted()
        if request.env and not kernel.has_variables:
            raise InvalidRequest("env: kernels of the image's own take no variables for a cell")
        changes = _changes(self._env, request.context.env)
        self._env = request.context.env
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
        self._cell = Cell(request, kernel, journal, output, cancellation, questions, changes)
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

    async def have_kernel(
        self, cancellation: Cancellation, env: dict[str, str | None] | None = None
    ) -> Kernel | None:
        """The kernel, started where there is none; None where the context was ended.

        A new one has the variables `env`; None: those that the last one had. Called by who has
        the turn. Raises `CutOff`, and as `CodeContexts.open`.
        """
        if self._kernel is not None and (self._restarted or not self._kernel.alive):
            await self._lose_kernel()
        if self._kernel is None and not self._ended:
            self._env = self._env if env is None else env
            try:
                self._kernel = await unless(cancellation, self._start_kernel())
            except KernelNotStarted as error:
                raise _not_started(error) from error
        if self._ended:
            await self._lose_kernel()
        return self._kernel

    def wait_for_next(self, idle_s: float) -> None:
        """Where none comes within `idle_s`, the kernel is ended."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(idle_s, self._doze)

    def _doze(self) -> None:
        if self.runs == 0 and self._kernel is not None:
            log.info("kernel was idle", context_id=self._context.id)
            self._dozing = asyncio.create_task(self._lose_kernel())

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
        if self._idle is not None:
            self._idle.cancel()
        if self._kernel is not None:
            self._kernel.kill()
        async with self.turn:
            await self._lose_kernel()

    async def _start_kernel(self) -> Kernel:
        began = time.monotonic()
        kernel = await self._languages.kernel(replace(self._context, env=self._env))
        took_ms = round((time.monotonic() - began) * 1000)
        log.info("kernel started", context_id=self._context.id, duration_ms=took_ms)
        return kernel

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


def _changes(
    before: Mapping[str, str | None], after: Mapping[str, str | None]
) -> dict[str, str | None]:
    names = before.keys() | after.keys()
    return {name: after.get(name) for name in names if before.get(name) != after.get(name)}


def _not_started(error: KernelNotStarted) -> RuntimeFault:
    if error.missing:
        return InterpreterMissing(f"This sandbox cannot run the code: {error}.")
    if os.strerror(errno.ENOSPC) in str(error):
        return DiskFull("The context's interpreter needs a few files, and the disk is full.")
    return ContextUnavailable(f"The context's interpreter did not start: {error}")


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
