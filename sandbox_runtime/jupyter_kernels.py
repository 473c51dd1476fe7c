"""Starts a Jupyter kernel, and speaks with it through a delegate that knows the protocol.

Without a kernel spec it is IPython, in a program of ours around it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from sandbox_runtime import delegates
from sandbox_runtime.child_output import ChildOutput
from sandbox_runtime.delegate_messages import (
    Answer,
    CellEnded,
    CellReport,
    Connect,
    Execute,
    Fault,
    Interrupt,
    KernelEnded,
    KernelReport,
    Ready,
)
from sandbox_runtime.delegates import Delegate, DelegateLost
from sandbox_runtime.kernel_specs import KernelSpec
from sandbox_runtime.kernels import (
    INTERPRETERS,
    LAST_WORDS_TIMEOUT_S,
    Kernel,
    KernelLost,
    KernelNotStarted,
    last_line,
)
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.events import CellException, Stream
from sandbox_runtime.settings import Settings

MAX_SOCKET_PATH_BYTES = 107
"""Of a Unix socket's name, by the kernel's `sockaddr_un`."""

CHANNELS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}

MATPLOTLIB_BACKEND = "module://matplotlib_inline.backend_inline"

COPIED = ("python_kernel.py", "rich_values.py", "matplotlib_charts.py")


class JupyterKernel(Kernel):
    """Two processes: the kernel, and the delegate beside it."""

    def __init__(
        self, programs: UserPrograms, settings: Settings, spec: KernelSpec | None = None
    ) -> None:
        super().__init__(programs, settings)
        self._spec = spec
        self._cwd = ""
        self._complaints: ChildOutput | None = None
        self._delegate: Delegate | None = None
        self._farewell: asyncio.Task[None] | None = None

    async def execute(self, cell: Execute) -> AsyncGenerator[CellReport, None]:
        assert self._delegate is not None
        await self._delegate.order(cell)
        ended = False
        while not ended:
            report = await self._next_report()
            ended = isinstance(report, CellEnded)
            yield report

    async def rehearse(self) -> None:
        await self._run_unseen("")

    async def enter(self, language: str, cwd: str) -> None:
        if cwd != self._cwd:
            code = "from os import chdir, environ; chdir({0}); environ['PWD'] = {0}; "
            await self._run_unseen(f"{code.format(repr(cwd))}del chdir, environ")

    async def _run_unseen(self, code: str) -> None:
        """Raises `KernelNotStarted`: no context has the kernel yet."""
        assert self._delegate is not None
        await self._delegate.order(Execute(code=code, silent=True))
        report: CellReport | None = None
        while not isinstance(report, CellEnded):
            try:
                report = await self._next_report()
            except KernelLost:
                raise KernelNotStarted("it ended", missing=False) from None
            if isinstance(report, CellException):
                raise KernelNotStarted(f"{report.name}: {report.value}", missing=False)

    async def _next_report(self) -> CellReport:
        assert self._delegate is not None
        try:
            report: KernelReport = await self._delegate.report()
        except DelegateLost:
            raise KernelLost(await self._exit_code()) from None
        if isinstance(report, Fault | Ready):
            raise KernelLost(await self._exit_code())
        return report

    @property
    def has_variables(self) -> bool:
        return self._spec is None

    async def answer(self, value: str) -> None:
        assert self._delegate is not None
        await self._delegate.order(Answer(value=value))

    async def interrupt(self) -> None:
        if self._spec is not None and self._spec.interrupt_mode == "message":
            assert self._delegate is not None
            await self._delegate.order(Interrupt())
        else:
            self._signal_group()

    async def close(self) -> None:
        if self._farewell is not None:
            self._farewell.cancel()
        self.kill()
        if self._delegate is not None:
            await self._delegate.close()
        await super().close()
        if self._complaints is not None:
            self._complaints.close()

    async def _start(self, cwd: str, env: Mapping[str, str | None]) -> None:
        connection_file = self._prepare_directory()
        own_env = {"MPLBACKEND": MATPLOTLIB_BACKEND} if self._spec is None else self._spec.env
        self._cwd = cwd
        self._process = self._spawn(
            connection_file, cwd, self._programs.environment({**own_env, **env})
        )
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
        # Our own waits where its output is not read; what others do then is to forget it.
        bounded = self._spec is None
        await self._delegate.order(Connect(connection_file=str(connection_file), bounded=bounded))
        await self._wait_until_ready()
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
        for name in COPIED if self._spec is None else ():
            copies.append(self._directory / name)
            copies[-1].write_bytes((INTERPRETERS / name).read_bytes())
        self._give_to_user(connection_file, *copies)
        return connection_file

    def _argv(self, connection_file: Path) -> list[str]:
        if self._spec is None:
            program = str(self._directory / COPIED[0])
            no_history = "--HistoryManager.hist_file=:memory:"
            return [self._settings.python, program, "-f", str(connection_file), no_history]
        return [
            part.replace("{connection_file}", str(connection_file)).replace(
                "{resource_dir}", self._spec.resource_dir
            )
            for part in self._spec.argv
        ]

    def _spawn(
        self, connection_file: Path, cwd: str, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        complaints, its_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._complaints = ChildOutput(complaints, Stream.STDERR, asyncio.Event())
        self._complaints.listen()
        argv = self._argv(connection_file)
        try:
            os.set_blocking(its_end, True)
            return self._programs.spawn(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=its_end,
                group=self._group,
            )
        except (FileNotFoundError, PermissionError) as error:
            message = f"{argv[0]} cannot be started: {error.strerror}"
            raise KernelNotStarted(message, missing=True) from error
        finally:
            os.close(its_end)

    async def _wait_until_ready(self) -> None:
        assert self._delegate is not None
        assert self._ended is not None
        assert self._complaints is not None
        report = asyncio.ensure_future(self._delegate.report())
        await asyncio.wait({report, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        said = "".join(printed.data for printed in self._complaints.take())
        self._complaints.ignore()
        if report.done() and report.exception() is None and isinstance(report.result(), Ready):
            return
        if not self._ended.done():
            what = report.exception() or report.result()
            raise KernelNotStarted(f"its client ended: {what}", missing=False)
        report.cancel()
        complaint = last_line(said)
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
