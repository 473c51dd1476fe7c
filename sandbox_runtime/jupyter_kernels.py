"""Starts an IPython kernel, and speaks with it through a delegate that knows the protocol."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from sandbox_runtime import delegates
from sandbox_runtime.delegate_messages import (
    Answer,
    CellEnded,
    CellReport,
    Connect,
    Execute,
    Fault,
    KernelEnded,
    KernelReport,
    Ready,
)
from sandbox_runtime.delegates import Delegate, DelegateLost
from sandbox_runtime.kernels import (
    INTERPRETERS,
    LAST_WORDS_TIMEOUT_S,
    Kernel,
    KernelLost,
    KernelNotStarted,
    last_words,
)
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.settings import Settings

MAX_SOCKET_PATH_BYTES = 107
"""Of a Unix socket's name, by the kernel's `sockaddr_un`."""

CHANNELS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}

MATPLOTLIB_BACKEND = "module://matplotlib_inline.backend_inline"

COPIED = ("python_kernel.py", "rich_values.py", "matplotlib_charts.py")


class JupyterKernel(Kernel):
    """Two processes: the kernel, and the delegate beside it."""

    def __init__(self, programs: UserPrograms, settings: Settings) -> None:
        super().__init__(programs, settings)
        self._delegate: Delegate | None = None
        self._farewell: asyncio.Task[None] | None = None

    async def execute(self, code: str, *, allow_input: bool) -> AsyncGenerator[CellReport, None]:
        assert self._delegate is not None
        await self._delegate.order(Execute(code=code, allow_input=allow_input))
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

    async def answer(self, value: str) -> None:
        assert self._delegate is not None
        await self._delegate.order(Answer(value=value))

    async def interrupt(self) -> None:
        self._signal_group()

    async def close(self) -> None:
        if self._farewell is not None:
            self._farewell.cancel()
        self.kill()
        if self._delegate is not None:
            await self._delegate.close()
        await super().close()

    async def _start(self, cwd: str, env: Mapping[str, str | None]) -> None:
        connection_file = self._prepare_directory()
        complete_env = self._programs.environment({"MPLBACKEND": MATPLOTLIB_BACKEND, **env})
        complaints, self._process = self._spawn(connection_file, cwd, complete_env)
        try:
            self._ended = asyncio.ensure_future(self._programs.wait(self._process))
            # It takes a third of the time that the kernel takes, beside it.
            self._delegate = await delegates.start(
                "sandbox_runtime.kernel_client",
                programs=self._programs,
                settings=self._settings,
                env=self._programs.environment({}),
                group=self._group,
                reports=KernelReport,
            )
            await self._delegate.order(Connect(connection_file=str(connection_file)))
            await self._wait_until_ready(complaints)
        finally:
            os.close(complaints)
        self._lock_directory()
        self._farewell = asyncio.create_task(self._let_it_be_heard())

    def _prepare_directory(self) -> Path:
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
        copies = []
        for name in COPIED:
            copies.append(self._directory / name)
            copies[-1].write_bytes((INTERPRETERS / name).read_bytes())
        self._give_to_user(connection_file, *copies)
        return connection_file

    def _spawn(
        self, connection_file: Path, cwd: str, env: Mapping[str, str]
    ) -> tuple[int, subprocess.Popen[bytes]]:
        """Starts the interpreter; with it, the end of a pipe on which it complains."""
        complaints, its_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(its_end, True)
        python = self._settings.python
        argv = [
            python,
            str(self._directory / COPIED[0]),
            "-f",
            str(connection_file),
            "--HistoryManager.hist_file=:memory:",
        ]
        try:
            process = self._programs.spawn(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=its_end,
                group=self._group,
            )
        except (FileNotFoundError, PermissionError) as error:
            os.close(complaints)
            message = f"{python} cannot be started: {error.strerror}"
            raise KernelNotStarted(message, missing=True) from error
        except BaseException:
            os.close(complaints)
            raise
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
        complaint = last_words(complaints)
        raise KernelNotStarted(
            complaint or f"the interpreter ended with exit code {self._ended.result()}",
            missing=complaint.startswith("ModuleNotFoundError:"),
        )

    async def _let_it_be_heard(self) -> None:
        """When the kernel ends, has the delegate report the last of it, then end."""
        assert self._delegate is not None
        assert self._ended is not None
        await asyncio.shield(self._ended)
        await self._delegate.order(KernelEnded())
        await asyncio.sleep(LAST_WORDS_TIMEOUT_S)
        self._group.kill_all()
