"""What a kernel is to a code context: it runs cells, one after another, until it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path

from sandbox_runtime.delegate_messages import CellReport, Execute
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.settings import Settings

START_TIMEOUT_S = 60.0

LAST_WORDS_TIMEOUT_S = 0.5
"""For the end of the reports of a kernel that ended."""

LINE_BYTES = 64 * 1024
"""Of what an interpreter says that does not become a kernel."""

INTERPRETERS = Path(__file__).with_name("interpreters")
"""Programs of ours that the user's interpreters run, from copies that the user can read."""


class KernelNotStarted(Exception):
    """No kernel came to be. `missing`: because the image has no such interpreter."""

    def __init__(self, message: str, *, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


class KernelLost(Exception):
    """The kernel ended, or can no longer be spoken with, while a cell ran."""

    def __init__(self, exit_code: int | None) -> None:
        """`exit_code` is a shell's, 128 + signal; None where the kernel had not ended."""
        super().__init__(exit_code)
        self.exit_code = exit_code


class Kernel(ABC):
    """An interpreter and who speaks with it, from `start` to `close`. Lives on one event loop."""

    def __init__(self, programs: UserPrograms, settings: Settings) -> None:
        self._programs = programs
        self._settings = settings
        self._directory = Path(tempfile.mkdtemp(prefix="kernel-", dir=settings.scratch))
        try:
            self._group: JobGroup = programs.new_group("kernel")
        except BaseException:
            self._directory.rmdir()
            raise
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Task[int] | None = None

    async def start(self, *, cwd: str, env: Mapping[str, str | None]) -> None:
        """Returns when it waits for its first cell. Raises `KernelNotStarted`, and is closed."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._start(cwd, env)
        except TimeoutError:
            await self.close()
            message = f"the interpreter did not become a kernel within {START_TIMEOUT_S:.0f} s"
            raise KernelNotStarted(message, missing=False) from None
        except OSError as error:
            await self.close()
            raise short_of_something(error) from error
        except BaseException:
            await self.close()
            raise

    @abstractmethod
    async def rehearse(self) -> None:
        """Does once what makes a first cell slow. Raises `KernelNotStarted`."""

    @abstractmethod
    async def enter(self, language: str, cwd: str) -> None:
        """Makes it the kernel of a context, before the first cell. Raises `KernelNotStarted`."""

    @property
    def alive(self) -> bool:
        return self._ended is not None and not self._ended.done()

    @abstractmethod
    def execute(self, cell: Execute) -> AsyncGenerator[CellReport, None]:
        """Runs a cell and gives what it reports; `CellEnded` is the last. Raises `KernelLost`.

        It reports no faster than it is read: the cell's printing waits.
        """

    @property
    def has_variables(self) -> bool:
        """Whether its cells' environment can be changed."""
        return True

    @abstractmethod
    async def answer(self, value: str) -> None:
        """Gives the cell the line that it waits for, after its `InputRequested`."""

    @abstractmethod
    async def interrupt(self) -> None:
        """Stops the cell, and the programs that it waits for."""

    def kill(self) -> None:
        """Ends the kernel at once; a cell that runs then raises `KernelLost`."""
        self._group.kill_all()

    async def close(self) -> None:
        """Ends the kernel and all that it started."""
        self._group.kill_all()
        if self._ended is not None:
            await self._ended
        await self._group.close()
        with suppress(OSError):
            self._lock_directory()
        shutil.rmtree(self._directory, ignore_errors=True)

    @abstractmethod
    async def _start(self, cwd: str, env: Mapping[str, str | None]) -> None: ...

    def _give_to_user(self, *paths: Path) -> None:
        for path in (*paths, self._directory):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                self._programs.give_to_user(descriptor)
            finally:
                os.close(descriptor)

    def _lock_directory(self) -> None:
        """Takes the directory back: what the kernel needs of it is open, and its space is ours."""
        os.chown(self._directory, os.geteuid(), os.getegid())
        self._directory.chmod(0o700)

    def _signal_group(self) -> None:
        """As Ctrl-C does."""
        if self._process is not None and self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)

    async def _exit_code(self) -> int | None:
        """Asked when the reports have ended: together with the kernel, or before it."""
        assert self._ended is not None
        await asyncio.wait({self._ended}, timeout=LAST_WORDS_TIMEOUT_S)
        return self._ended.result() if self._ended.done() else None


def short_of_something(error: OSError) -> KernelNotStarted:
    """Of memory, processes or space, mostly."""
    return KernelNotStarted(f"the sandbox could not start it: {error.strerror}", missing=False)


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else ""
