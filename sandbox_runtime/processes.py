"""Runs background processes, each with its record and its log."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from sandbox_runtime.argv import argv_of, told
from sandbox_runtime.journal import timestamp
from sandbox_runtime.output import Output
from sandbox_runtime.piped_programs import PipedProgram
from sandbox_runtime.programs import DEFAULT_PATH, UserPrograms
from sandbox_runtime.protocol.errors import (
    IdempotencyConflict,
    InvalidRequest,
    ProcessExists,
    ProcessNotFound,
    ProcessNotRunning,
    TooManyProcesses,
)
from sandbox_runtime.protocol.events import Complete, Conclusion, Error
from sandbox_runtime.protocol.processes import ProcessInfo, ProcessStatus, StartProcess
from sandbox_runtime.protocol.requests import Encoding, ExecRequest, Session
from sandbox_runtime.rolling_journal import RollingJournal
from sandbox_runtime.sessions import check

MAX_RUNNING = 128

MAX_ENDED = 64
"""Records of processes that have ended; the oldest goes first."""

ENDED_KEPT_S = 3600.0

KILL_GRACE_S = 5.0
"""What a process may do about a SIGTERM before it is killed."""

LOG_LIMIT_BYTES = 4 * 1024 * 1024
"""Of one process, as encoded."""

LOGS_LIMIT_BYTES = 32 * 1024 * 1024
"""Of all; each has the same part of it."""

ID_BYTES = 8


class Process:
    """One that was started, with what it has printed; what it started ends with it."""

    def __init__(self, process_id: str, request: StartProcess) -> None:
        self.id = process_id
        self.request = request
        self.journal = RollingJournal(LOG_LIMIT_BYTES)
        self.ended = asyncio.Event()
        self.ended_at = float("inf")
        self._kill_was_asked = False
        self._program: PipedProgram | None = None
        self._info = ProcessInfo(
            id=process_id,
            command=told(request.command, request.argv),
            session=request.session.name,
            status=ProcessStatus.RUNNING,
            start_time=timestamp(),
        )

    def info(self) -> ProcessInfo:
        return self._info

    def run(self, programs: UserPrograms, cwd: str) -> asyncio.Task[None] | None:
        """Starts it. What has it end, where it could be started."""
        request = self.request
        # Nothing is cut off: what is too much goes from the journal's other end.
        output = Output(self.journal, limit_bytes=2**63, encoding=Encoding.UTF8)
        env = programs.environment(
            {**request.session.env, **request.env}, user=request.session.user
        )
        stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._program = PipedProgram(
                argv_of(request.command, request.argv, env.get("PATH", DEFAULT_PATH)),
                cwd=cwd,
                env=env,
                user=request.session.user,
                stdin=stdin,
                programs=programs,
                output=output,
                group_name=f"process-{self.id}",
            )
        except OSError as error:
            self._fail(error)
            return None
        finally:
            os.close(stdin)
        self._info = msgspec.structs.replace(self._info, pid=self._program.pid)
        return asyncio.create_task(self._end(self._program, output))

    def send(self, signal_number: int) -> None:
        """To it and to all that it started. Raises `ProcessNotRunning`."""
        if self._program is None or self.ended.is_set():
            raise ProcessNotRunning(f"the process {self.id} has ended")
        self._program.send(signal_number)

    async def kill(self, grace_s: float = KILL_GRACE_S) -> None:
        """Returns when it and all that it started are gone."""
        if self._program is None or self.ended.is_set():
            return
        self._kill_was_asked = True
        if grace_s:
            self._program.send(signal.SIGTERM)
            # It may have stopped itself.
            self._program.send(signal.SIGCONT)
            try:
                async with asyncio.timeout(grace_s):
                    await self.ended.wait()
            except TimeoutError:
                pass
        self._program.kill()
        await self.ended.wait()

    async def _end(self, program: PipedProgram, output: Output) -> None:
        started = time.monotonic()
        exit_code = await program.wait()
        output.close()
        if program.ended_by_signal or self._kill_was_asked:
            status = ProcessStatus.KILLED
        else:
            status = ProcessStatus.FAILED if exit_code else ProcessStatus.COMPLETED
        self.journal.append(
            Complete(
                timestamp=timestamp(),
                conclusion=Conclusion.FAILURE if exit_code else Conclusion.SUCCESS,
                duration_ms=round((time.monotonic() - started) * 1000),
                exit_code=exit_code,
            )
        )
        self._info = msgspec.structs.replace(
            self._info, status=status, end_time=timestamp(), exit_code=exit_code
        )
        self._is_over()

    def _fail(self, error: OSError) -> None:
        reason = f"{error.filename or self._info.command}: {error.strerror}"
        self.journal.append(Error(timestamp=timestamp(), code="process_not_started", error=reason))
        self._info = msgspec.structs.replace(
            self._info, status=ProcessStatus.ERROR, end_time=timestamp(), error=reason
        )
        self._is_over()

    def _is_over(self) -> None:
        self.ended_at = time.monotonic()
        self.ended.set()


class Processes:
    """The processes that run, and those that have ended and are still told of."""

    def __init__(
        self,
        programs: UserPrograms,
        directory_of: Callable[[Session], str],
    ) -> None:
        """`directory_of` says where a session is."""
        self._programs = programs
        self._directory_of = directory_of
        self._processes: dict[str, Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, request: StartProcess) -> Process:
        """Raises `InvalidRequest`, `ProcessExists`, `IdempotencyConflict`, `TooManyProcesses`."""
        _check(request)
        if (known := self._of_key(request)) is not None:
            return known
        if request.id in self._processes:
            raise ProcessExists(f"there is a process {request.id} already")
        self._make_room()
        process = Process(request.id or f"proc-{secrets.token_hex(ID_BYTES)}", request)
        self._processes[process.id] = process
        self._share_memory()
        directory = self._directory_of(request.session)
        task = process.run(self._programs, str(Path(directory, request.cwd or "")))
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return process

    def find(self, process_id: str) -> Process:
        """Raises `ProcessNotFound`."""
        self._drop_old()
        process = self._processes.get(process_id)
        if process is None:
            raise ProcessNotFound(f"there is no process {process_id[:80]!r}")
        return process

    def all(self) -> list[Process]:
        self._drop_old()
        return list(self._processes.values())

    def forget(self, process: Process) -> None:
        """Drops the record of a process that has ended."""
        self._processes.pop(process.id, None)

    async def kill_all(self) -> int:
        """How many there were to kill; returns when they are gone."""
        return await self._kill(self._running(), KILL_GRACE_S)

    async def end_session(self, name: str) -> None:
        """Kills what was started in a session."""
        running = [one for one in self._running() if one.request.session.name == name]
        await self._kill(running, grace_s=0)

    async def close(self) -> None:
        await self._kill(self._running(), grace_s=0)

    async def _kill(self, processes: list[Process], grace_s: float) -> int:
        await asyncio.gather(*(process.kill(grace_s) for process in processes))
        return len(processes)

    def _running(self) -> list[Process]:
        return [one for one in self._processes.values() if not one.ended.is_set()]

    def _of_key(self, request: StartProcess) -> Process | None:
        """What was started for the same `idempotency_key`. Raises `IdempotencyConflict`."""
        for process in self._processes.values() if request.idempotency_key else ():
            if process.request.idempotency_key == request.idempotency_key:
                if not _asks_the_same(process.request, request):
                    raise IdempotencyConflict("the key was used to start something else")
                return process
        return None

    def _make_room(self) -> None:
        """Raises `TooManyProcesses`."""
        self._drop_old()
        if len(self._running()) >= MAX_RUNNING:
            raise TooManyProcesses(f"the sandbox runs {MAX_RUNNING} processes already")

    def _drop_old(self) -> None:
        ended = [one for one in self._processes.values() if one.ended.is_set()]
        ended.sort(key=lambda one: one.ended_at, reverse=True)
        too_old = time.monotonic() - ENDED_KEPT_S
        for place, process in enumerate(ended):
            if place >= MAX_ENDED or process.ended_at < too_old:
                self.forget(process)

    def _share_memory(self) -> None:
        limit_bytes = min(LOG_LIMIT_BYTES, LOGS_LIMIT_BYTES // len(self._processes))
        for process in self._processes.values():
            process.journal.keep(limit_bytes)


def signal_number(given: str | int) -> int:
    """Raises `InvalidRequest` where there is no such signal."""
    try:
        if isinstance(given, int):
            return signal.Signals(given)
        name = given.upper()
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise InvalidRequest(f"there is no signal {str(given)[:40]!r}") from None


def _check(request: StartProcess) -> None:
    """Raises `InvalidRequest`."""
    check(
        ExecRequest(
            command=request.command,
            argv=request.argv,
            session=request.session,
            cwd=request.cwd,
            env=request.env,
        )
    )
    if request.command is not None and not request.command.strip():
        raise InvalidRequest("the command is empty")


def _asks_the_same(first: StartProcess, second: StartProcess) -> bool:
    """The session's variables may have changed meanwhile."""
    first, second = (
        msgspec.structs.replace(one, session=Session(name=one.session.name))
        for one in (first, second)
    )
    return first == second
