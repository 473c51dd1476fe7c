"""Starts the kernel that runs a language's code; some are ready before they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from sandbox_runtime.jupyter_kernels import JupyterKernel
from sandbox_runtime.kernel_specs import KernelSpec, kernel_specs
from sandbox_runtime.kernels import (
    START_TIMEOUT_S,
    Kernel,
    KernelNotStarted,
    short_of_something,
)
from sandbox_runtime.node_kernels import NodeKernel
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.errors import LanguageUnsupported
from sandbox_runtime.protocol.requests import CodeContext
from sandbox_runtime.settings import Settings

PYTHON = "python"
NODE = ("javascript", "typescript")

REFILL_AFTER_S = 1.0
"""So that a spare kernel's start does not slow the first cell of the one before it."""

ROOM_FOR_SPARE_BYTES = 512 * 1024 * 1024
"""Of the user's memory: a spare kernel takes a fifth of it, and is not to be what fills it."""

log = structlog.get_logger()

Env = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class _Spare:
    env: Env
    starting: asyncio.Task[Kernel]


class Languages:
    """What a sandbox can run cells in. Lives on one event loop."""

    def __init__(self, settings: Settings, programs: UserPrograms) -> None:
        self._settings = settings
        self._programs = programs
        self._spares: dict[str, _Spare] = {}
        """By kind of kernel, which has the name of the first of its languages."""
        self._refills: dict[str, asyncio.TimerHandle] = {}

    def check(self, language: str) -> None:
        """Raises `LanguageUnsupported`."""
        if language in (PYTHON, *NODE):
            return
        specs = self._specs()
        if language not in specs:
            known = ", ".join(sorted({PYTHON, *NODE, *specs}))
            raise LanguageUnsupported(
                f"No interpreter for {language!r} is here; these are: {known}."
            )

    async def kernel(self, context: CodeContext) -> Kernel:
        """One that waits for the first cell of `context`. Raises `KernelNotStarted`."""
        kind = _kind_of(context.language)
        kernel = None
        if kind in (PYTHON, NODE[0]) or context.cwd == str(self._settings.workspace):
            # Others cannot be told to go elsewhere.
            kernel = await self._take_spare(kind, context.env)
        if kernel is None:
            kernel = self._new(context.language)
            await kernel.start(cwd=context.cwd, env=context.env)
        else:
            self._refills[kind] = asyncio.get_running_loop().call_later(
                REFILL_AFTER_S, self._refill, kind, context.env
            )
        try:
            async with _in_time():
                await kernel.enter(context.language, context.cwd)
        except BaseException:
            await kernel.close()
            raise
        return kernel

    async def have_spares(self, languages: Iterable[str], env: Env) -> None:
        """Returns when each of the languages has a spare kernel or cannot; others have none."""
        for timer in self._refills.values():
            timer.cancel()
        kinds = {_kind_of(language) for language in languages}
        # All at once: while one is discarded, contexts take others.
        unwanted = [self._spares.pop(kind) for kind in self._spares.keys() - kinds]
        for kind in kinds - self._spares.keys():
            self._spares[kind] = self._spare(kind, env)
        for spare in unwanted:
            await _discard(spare)
        if self._spares:
            await asyncio.wait({spare.starting for spare in self._spares.values()})

    async def close(self) -> None:
        await self.have_spares((), {})

    async def _take_spare(self, kind: str, env: Env) -> Kernel | None:
        """None where there is none that could be this context's."""
        spare = self._spares.get(kind)
        if spare is None:
            return None
        if spare.env == env:
            # It began to start before another one could. Who waits may be cut off; it is not.
            await asyncio.wait({spare.starting})
        if self._spares.get(kind) is not spare:
            return None  # Somebody else's by now.
        del self._spares[kind]
        if spare.env == env and spare.starting.exception() is None:
            kernel = spare.starting.result()
            if kernel.alive:
                return kernel
        await _discard(spare)
        return None

    def _refill(self, kind: str, env: Env) -> None:
        if kind not in self._spares and self._programs.memory_room() >= ROOM_FOR_SPARE_BYTES:
            self._spares[kind] = self._spare(kind, env)

    def _spare(self, kind: str, env: Env) -> _Spare:
        starting = asyncio.create_task(self._started(kind, env))
        starting.add_done_callback(_tell_failure)
        return _Spare(env, starting)

    async def _started(self, kind: str, env: Env) -> Kernel:
        kernel = self._new(kind)
        await kernel.start(cwd=str(self._settings.workspace), env=env)
        try:
            async with _in_time():
                await kernel.rehearse()
        except BaseException:
            await kernel.close()
            raise
        return kernel

    def _specs(self) -> dict[str, KernelSpec]:
        path = self._programs.environment({}).get("PATH")
        return kernel_specs(self._settings.python, path)

    def _new(self, language: str) -> Kernel:
        try:
            if language == PYTHON:
                return JupyterKernel(self._programs, self._settings)
            if language in NODE:
                return NodeKernel(self._programs, self._settings)
            spec = self._specs().get(language)
            if spec is None:
                raise KernelNotStarted(f"there is no kernel of {language!r}", missing=True)
            return JupyterKernel(self._programs, self._settings, spec)
        except OSError as error:
            raise short_of_something(error) from error


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """What the user has set up can keep a kernel from ever being ready for a cell."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            yield
    except TimeoutError:
        message = f"it was not ready for a cell within {START_TIMEOUT_S:.0f} s"
        raise KernelNotStarted(message, missing=False) from None


def _kind_of(language: str) -> str:
    return NODE[0] if language in NODE else language


def _tell_failure(starting: asyncio.Task[Kernel]) -> None:
    if not starting.cancelled() and starting.exception() is not None:
        log.warning("no spare kernel", reason=str(starting.exception()))


async def _discard(spare: _Spare) -> None:
    spare.starting.cancel()
    await asyncio.wait({spare.starting})
    if not spare.starting.cancelled() and spare.starting.exception() is None:
        await spare.starting.result().close()
