"""Starts the kernel of one code context, runs its cells, and knows how it ended."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

from sandbox_runtime import delegates
from sandbox_runtime.delegate_messages import (
    CellEnded,
    CellStarted,
    Connect,
    Execute,
    Fault,
    KernelEnded,
    KernelReport,
    Printed,
    Ready,
)
from sandbox_runtime.delegates import Delegate, DelegateLost
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.protocol.events import CellException, Result
from sandbox_runtime.settings import Settings

START_TIMEOUT_S = 60.0

LAST_WORDS_TIMEOUT_S = 0.5
"""For the end of the reports of a kernel that ended."""

LINE_BYTES = 64 * 1024
"""Of what an interpreter says that does not become a kernel."""

MAX_SOCKET_PATH_BYTES = 107
"""Of a Unix socket's name, by the kernel's `sockaddr_un`."""

CHANNELS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}

MATPLOTLIB_BACKEND = "module://matplotlib_inline.backend_inline"

_KERNEL_PROGRAM = Path(__file__).with_name("bounded_kernel.py")

CellReport = CellStarted | Printed | Result | CellException | CellEnded


class KernelNotStarted(Exception):
    """No kernel came to be. `missing`: because there is no such interpreter, or no ipykernel."""

    def __init__(self, message: str, *, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


class KernelLost(Exception):
    """The kernel ended, or can no longer be spoken with, while a cell ran."""

    def __init__(self, exit_code: int | None) -> None:
        """`exit_code` is a shell's, 128 + signal; None where the kernel had not ended."""
        super().__init__(exit_code)
        self.exit_code = exit_code


class Kernel:
    """A kernel and the delegate that speaks with it, from `start` to `close`."""

    def __init__(self, group: JobGroup, directory: Path) -> None:
        self._group = group
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Task[int] | None = None
        self._delegate: Delegate | None = None
        self._farewell: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        *,
        programs: UserPrograms,
        settings: Settings,
        cwd: str,
        env: Mapping[str, str | None],
    ) -> Kernel:
        """Returns when the kernel waits for its first cell. Raises `KernelNotStarted`."""
        try:
            directory = Path(tempfile.mkdtemp(prefix="kernel-", dir=settings.scratch))
        except OSError as error:
            raise _short_of_something(error) from error
        kernel = cls(programs.new_group("kernel"), directory)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await kernel._start(programs, settings, cwd, env)
        except TimeoutError:
            await kernel.close()
            message = f"the interpreter did not become a kernel within {START_TIMEOUT_S:.0f} s"
            raise KernelNotStarted(message, missing=False) from None
        except OSError as error:
            await kernel.close()
            raise _short_of_something(error) from error
        except BaseException:
            await kernel.close()
            raise
        return kernel

    @property
    def alive(self) -> bool:
        return self._ended is not None and not self._ended.done()

    async def execute(self, code: str) -> AsyncIterator[CellReport]:
        """Runs a cell and gives what it reports; `CellEnded` is the last. Raises `KernelLost`.

        It reports no faster than it is read: the cell's printing waits.
        """
        assert self._delegate is not None
        await self._delegate.order(Execute(code=code))
        while True:
            try:
                report = await self._delegate.report()
            except DelegateLost:
                raise KernelLost(await self._exit_code()) from None
            if isinstance(report, Fault | Ready):
                raise KernelLost(await self._exit_code())
            yield report
            if isinstance(report, CellEnded):
                return

    def interrupt(self) -> None:
        """Stops the cell, and the programs that it waits for, as Ctrl-C does."""
        if self._process is not None and self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Ends the kernel at once; a cell that runs then raises `KernelLost`."""
        self._group.kill_all()

    async def close(self) -> None:
        """Ends the kernel and all that it started."""
        self._group.kill_all()
        if self._farewell is not None:
            self._farewell.cancel()
        if self._delegate is not None:
            await self._delegate.close()
        if self._ended is not None:
            await self._ended
        await self._group.close()
        with suppress(OSError):
            self._lock_directory()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _start(
        self, programs: UserPrograms, settings: Settings, cwd: str, env: Mapping[str, str | None]
    ) -> None:
        connection_file = self._prepare_directory(programs)
        complete_env = programs.environment({"MPLBACKEND": MATPLOTLIB_BACKEND, **env})
        complaints, self._process = self._spawn(
            programs, settings, connection_file, cwd, complete_env
        )
        try:
            self._ended = asyncio.ensure_future(programs.wait(self._process))
            # It takes a third of the time that the kernel takes, beside it.
            self._delegate = await delegates.start(
                "sandbox_runtime.kernel_client",
                programs=programs,
                settings=settings,
                env=programs.environment({}),
                group=self._group,
                reports=KernelReport,
            )
            await self._delegate.order(Connect(connection_file=str(connection_file)))
            await self._wait_until_ready(complaints)
        finally:
            os.close(complaints)
        self._lock_directory()
        self._farewell = asyncio.create_task(self._let_it_be_heard())

    def _prepare_directory(self, programs: UserPrograms) -> Path:
        """Makes the connection file, in a directory where the kernel can make its sockets."""
        address = str(self._directory / "k")
        if len(os.fsencode(address)) + 2 > MAX_SOCKET_PATH_BYTES:
            raise KernelNotStarted(f"no socket can be named {address}-1: too long", missing=False)
        connection = {
            "transport": "ipc",
            "ip": address,
            "key": secrets.token_hex(32),
            "signature_scheme": "hmac-sha256",
            **CHANNELS,
        }
        connection_file = self._directory / "connection.json"
        connection_file.write_text(json.dumps(connection))
        program = self._directory / "kernel.py"
        program.write_bytes(_KERNEL_PROGRAM.read_bytes())
        for path in (connection_file, program, self._directory):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                programs.give_to_user(descriptor)
            finally:
                os.close(descriptor)
        return connection_file

    def _lock_directory(self) -> None:
        """Takes the directory back: its sockets are bound, and the space in it is ours."""
        os.chown(self._directory, os.geteuid(), os.getegid())
        self._directory.chmod(0o700)

    def _spawn(
        self,
        programs: UserPrograms,
        settings: Settings,
        connection_file: Path,
        cwd: str,
        env: Mapping[str, str],
    ) -> tuple[int, subprocess.Popen[bytes]]:
        """Starts the interpreter; with it, the end of a pipe on which it complains."""
        complaints, its_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(its_end, True)
        argv = [
            settings.python,
            str(connection_file.with_name("kernel.py")),
            "-f",
            str(connection_file),
            "--HistoryManager.hist_file=:memory:",
        ]
        try:
            process = programs.spawn(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=its_end,
                group=self._group,
            )
        except OSError as error:
            os.close(complaints)
            message = f"{settings.python} cannot be started: {error.strerror}"
            raise KernelNotStarted(message, missing=True) from error
        finally:
            os.close(its_end)
        return complaints, process

    async def _wait_until_ready(self, complaints: int) -> None:
        assert self._delegate is not None
        assert self._ended is not None
        report = asyncio.ensure_future(self._delegate.report())
        await asyncio.wait({report, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if report.done() and report.exception() is None and isinstance(report.result(), Ready):
            return
        if not self._ended.done():
            what = report.exception() or report.result()
            raise KernelNotStarted(f"its client ended: {what}", missing=False)
        report.cancel()
        complaint = _last_line(_read_all(complaints))
        missing = complaint.startswith("ModuleNotFoundError:")
        raise KernelNotStarted(
            complaint or f"the interpreter ended with exit code {self._ended.result()}",
            missing=missing,
        )

    async def _let_it_be_heard(self) -> None:
        """When the kernel ends, has the delegate report the last of it, then end."""
        assert self._delegate is not None
        assert self._ended is not None
        await asyncio.shield(self._ended)
        await self._delegate.order(KernelEnded())
        await asyncio.sleep(LAST_WORDS_TIMEOUT_S)
        self._group.kill_all()

    async def _exit_code(self) -> int | None:
        """Asked when the delegate ended: together with the kernel, or before it."""
        assert self._ended is not None
        await asyncio.wait({self._ended}, timeout=LAST_WORDS_TIMEOUT_S)
        return self._ended.result() if self._ended.done() else None


def _short_of_something(error: OSError) -> KernelNotStarted:
    """Of memory, processes or space, mostly."""
    return KernelNotStarted(f"the sandbox could not start it: {error.strerror}", missing=False)


def _read_all(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, LINE_BYTES)
    except BlockingIOError:
        return b""


def _last_line(data: bytes) -> str:
    lines = data.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
