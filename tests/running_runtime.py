"""A real runtime on a socket, for tests: its user another one where the tests run as root."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from sandbox_runtime.protocol.events import (
    CellException,
    Complete,
    Error,
    Progress,
    Result,
    RuntimeEvent,
    Start,
    Stderr,
    Stdout,
)
from sandbox_runtime.protocol.requests import CodeContext, CodeRequest, ExecutionRequest
from tests import memory

REPOSITORY = Path(__file__).parents[1]

CGROUPS = Path("/sys/fs/cgroup/unified")

TOKEN = "the token of the tests"

START_TIMEOUT_S = 10.0

SANDBOX_UID = 1000

CAPABILITIES = ("setuid", "setgid", "kill", "chown")
"""All that the runtime has in a container."""

IS_ROOT = os.getuid() == 0

T = TypeVar("T")


@dataclass
class Run:
    """What an execution has told."""

    events: list[RuntimeEvent] = field(default_factory=list)

    @property
    def start(self) -> Start:
        return self.only(Start)

    @property
    def end(self) -> Complete | Error:
        end = self.events[-1]
        assert isinstance(end, Complete | Error)
        return end

    @property
    def complete(self) -> Complete:
        assert isinstance(self.end, Complete), self.end
        return self.end

    @property
    def error(self) -> Error:
        assert isinstance(self.end, Error), self.end
        return self.end

    @property
    def stdout(self) -> str:
        return "".join(event.data for event in self.all(Stdout))

    @property
    def stderr(self) -> str:
        return "".join(event.data for event in self.all(Stderr))

    @property
    def results(self) -> list[Result]:
        return self.all(Result)

    @property
    def exception(self) -> CellException:
        return self.only(CellException)

    @property
    def progress(self) -> list[Progress]:
        return self.all(Progress)

    def all(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def only(self, kind: type[T]) -> T:
        (event,) = self.all(kind)
        return event


class RunningRuntime:
    """One runtime, its directories, and a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, uid: int) -> None:
        self.uid = uid
        self.home = directory / "home"
        self.workspace = directory / "workspace"
        self.scratch = directory / "scratch"
        self.socket = directory / "socket" / "runtime.sock"
        self.client = RuntimeClient(self.socket, TOKEN)
        self.pid = process.pid
        self._process = process
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        return f"e{next(self._numbers)}"

    def run(
        self,
        request: ExecutionRequest,
        *,
        execution_id: str | None = None,
        on_event: Callable[[RuntimeEvent], None] = lambda event: None,
        after: int = 0,
    ) -> Run:
        """Runs a request to its end, or reads on `after` an event, and acknowledges all of it."""
        execution_id = execution_id or self.new_id()
        run = Run()
        with self.client.execution(execution_id, request, boot_id=None, after=after) as reader:
            for batch in reader:
                for numbered in batch:
                    run.events.append(numbered.event)
                    on_event(numbered.event)
                self.client.acknowledge({execution_id: batch[-1].n})
        return run

    def code(
        self,
        code: str,
        context: CodeContext | None = None,
        *,
        timeout_ms: int | None = None,
        output_limit_bytes: int = 16 * 1024 * 1024,
    ) -> Run:
        """Runs a cell; without a context, in the one that all such cells share."""
        request = CodeRequest(
            code=code,
            context=context or self.context("shared"),
            timeout_ms=timeout_ms,
            output_limit_bytes=output_limit_bytes,
        )
        return self.run(request)

    def context(self, name: str, *, env: dict[str, str | None] | None = None) -> CodeContext:
        return CodeContext(id=name, cwd=str(self.workspace), env=env or {})

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """A client of its socket, for what no client of ours asks in this way."""
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://runtime",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        ) as client:
            yield client

    def own_directory(self, request: pytest.FixtureRequest) -> Path:
        """A place in the workspace that is this test's alone; nothing is there yet."""
        name = "".join(c if c.isalnum() else "-" for c in request.node.name)
        return self.workspace / name

    def rss_mb(self) -> float:
        return memory.rss_mb(self.pid)

    def peak_rss_mb(self) -> float:
        return memory.peak_rss_mb(self.pid)

    def as_user(self, script: str, cwd: Path | None = None) -> str:
        """The output of a shell script, run as the sandbox's user."""
        argv = ["bash", "-euc", script]
        if IS_ROOT:
            ids = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
            argv = ["setpriv", *ids, *argv]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.home), "LC_ALL": "C"}
        done = subprocess.run(
            argv, cwd=cwd or self.workspace, env=env, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def running_runtime(
    python: str = sys.executable,
    *,
    confined: bool = False,
    cgroups: bool = True,
    **variables: str,
) -> Iterator[RunningRuntime]:
    """Starts the runtime; `confined`: with the capabilities alone that it has in a container."""
    confinement = _confinement() if confined else []
    # Not pytest's directory: that one is closed to other users, and its name is longer than a
    # socket's may be.
    directory = Path(tempfile.mkdtemp(prefix="cf-"))
    uid = SANDBOX_UID if IS_ROOT else os.getuid()
    cgroup = _new_cgroup() if cgroups else None
    _prepare(directory, uid)
    program = f"import sys, runpy; sys.path.append({str(REPOSITORY)!r}); "
    program += "runpy.run_module('sandbox_runtime', run_name='__main__')"
    argv = [sys.executable, "-I", "-B", "-c", program]
    process = subprocess.Popen(
        [*confinement, *argv],
        env={
            "PATH": "/usr/bin:/bin",
            "COLDFRAME_RUNTIME_SOCKET": str(directory / "socket" / "runtime.sock"),
            "COLDFRAME_RUNTIME_TOKEN_FILE": str(directory / "token"),
            "COLDFRAME_RUNTIME_UID": str(uid),
            "COLDFRAME_RUNTIME_GID": str(uid if IS_ROOT else os.getgid()),
            "COLDFRAME_RUNTIME_HOME": str(directory / "home"),
            "COLDFRAME_RUNTIME_USER_ENV": str(directory / "user-env"),
            "COLDFRAME_RUNTIME_CGROUP": str(cgroup or ""),
            "COLDFRAME_RUNTIME_SCRATCH": str(directory / "scratch"),
            "COLDFRAME_RUNTIME_WORKSPACE": str(directory / "workspace"),
            "COLDFRAME_RUNTIME_PYTHON": python,
            **variables,
        },
        start_new_session=True,
    )
    runtime = RunningRuntime(process, directory, uid)
    try:
        _wait_until_it_answers(runtime.client, process)
        yield runtime
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()
            if cgroup is not None:
                cgroup.rmdir()
            shutil.rmtree(directory)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _prepare(directory: Path, uid: int) -> None:
    directory.chmod(0o755)
    (directory / "token").write_text(TOKEN)
    (directory / "user-env").write_text(
        f"HOME={directory}/home\nPATH=/usr/bin:/bin\nLANG=C.UTF-8\n"
    )
    (directory / "socket").mkdir(mode=0o700)
    for name in ("home", "workspace"):
        (directory / name).mkdir(mode=0o755)
        if IS_ROOT:
            os.chown(directory / name, uid, uid)


def _new_cgroup() -> Path | None:
    if not IS_ROOT or not (CGROUPS / "cgroup.procs").exists():
        return None
    cgroup = CGROUPS / f"coldframe-test-{os.getpid()}-{time.monotonic_ns()}"
    cgroup.mkdir()
    return cgroup


def _confinement() -> list[str]:
    if not IS_ROOT:
        pytest.skip("capabilities can only be taken from root")
    kept = ",".join(["-all", *(f"+{name}" for name in CAPABILITIES)])
    return ["setpriv", "--bounding-set", kept, "--inh-caps", "-all", "--no-new-privs"]


def _wait_until_it_answers(client: RuntimeClient, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.ping()
            return
        except RuntimeUnreachable:
            assert process.poll() is None, "the runtime has ended"
            assert time.monotonic() < deadline, "the runtime did not start"
            time.sleep(0.02)
