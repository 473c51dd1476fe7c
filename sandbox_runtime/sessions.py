"""Runs the commands of each session in its shell, in order."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import tempfile
import time
from collections import deque
from pathlib import Path

import structlog

from sandbox_runtime.argv import run_argv
from sandbox_runtime.bash_text import NAME, cleanup_lines, command_script, environment_change
from sandbox_runtime.cancellation import Cancellation, cut_off
from sandbox_runtime.command_files import CommandFiles
from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.output import Output
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.protocol.errors import InvalidRequest
from sandbox_runtime.protocol.events import Complete, Conclusion, Error, Start
from sandbox_runtime.protocol.requests import (
    MAX_COMMAND_BYTES,
    MAX_STDIN_BYTES,
    ExecRequest,
    Session,
)
from sandbox_runtime.settings import Settings
from sandbox_runtime.shells import (
    Interrupted,
    Reported,
    Shell,
    ShellEnded,
    ShellFailed,
    ShellMissing,
)

MAX_SESSIONS = 128
"""Each is a process of the user's, and two descriptors of ours."""

MAX_NAME_LENGTH = 128

REMOVALS_A_COMMAND = 8
"""How many groups that were left behind are looked at after a command, whether they are empty."""

log = structlog.get_logger()


class Sessions:
    """The sessions of the sandbox: one is made by its first command, and lives until `end`."""

    def __init__(self, settings: Settings, programs: UserPrograms) -> None:
        self._settings = settings
        self._programs = programs
        self._sessions: dict[str, _LiveSession] = {}

    def names(self) -> list[str]:
        return list(self._sessions)

    def directory_of(self, session: Session) -> str:
        """Where its shell is; where none runs, where it would start."""
        live = self._sessions.get(session.name)
        return (live and live.directory) or str(self._settings.workspace / session.cwd)

    async def run(
        self, request: ExecRequest, journal: Journal, output: Output, cancellation: Cancellation
    ) -> Complete | Error:
        """Runs a request that was checked. Commands of one session wait for each other."""
        if request.argv is not None:
            return await self._run_argv(request, request.argv, journal, output, cancellation)
        session = self._sessions.get(request.session.name)
        if session is None:
            if len(self._sessions) >= MAX_SESSIONS:
                return _error(
                    "too_many_sessions",
                    f"The sandbox has {MAX_SESSIONS} sessions already.",
                    "End sessions that are not needed any more.",
                )
            session = _LiveSession(self._settings, self._programs, request.session.user)
            self._sessions[request.session.name] = session
        return await session.run(request, journal, output, cancellation)

    async def end(self, name: str) -> None:
        """Ends a session with all that was started in it; does nothing where there is none."""
        session = self._sessions.pop(name, None)
        if session is not None:
            await session.close()

    async def close(self) -> None:
        await asyncio.gather(*(self.end(name) for name in self.names()))

    async def _run_argv(
        self,
        request: ExecRequest,
        argv: list[str],
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
    ) -> Complete | Error:
        journal.append(Start(timestamp=timestamp(), command=shlex.join(argv)))
        started_at = time.monotonic()
        exit_code = await run_argv(
            argv,
            cwd=str(self._settings.workspace / (request.cwd or request.session.cwd)),
            env=self._programs.environment(
                {**request.session.env, **request.env}, user=request.session.user
            ),
            user=request.session.user,
            stdin=(request.stdin or "").encode(),
            programs=self._programs,
            output=output,
            cancellation=cancellation,
        )
        if exit_code is None:
            return cut_off(await cancellation.wait())
        return _completed(exit_code, started_at)


class _LiveSession:
    """One session: its shell, whoever waits for it, and what its commands left behind."""

    def __init__(self, settings: Settings, programs: UserPrograms, user: int) -> None:
        self._settings = settings
        self._programs = programs
        self._user = user
        self._directory = Path(tempfile.mkdtemp(prefix="session-", dir=settings.scratch))
        self._directory.chmod(0o711)  # Who is told a file's name may open it, if he has the right.
        self._turn = asyncio.Lock()
        self._shell: Shell | None = None
        self._shell_restarted = False
        """The former shell ended, and no command's `start` has told so yet."""
        self._env: dict[str, str | None] = {}
        """The session's own variables, as the shell has them."""
        self._files = CommandFiles(str(self._directory), programs)
        self._group = programs.new_group("session")
        """The shell's, and what the command that runs has started."""
        self._left_behind: deque[JobGroup] = deque()
        """Those of earlier commands that have left programs behind."""
        self._ended = False

    @property
    def directory(self) -> str | None:
        """Where the shell is, or was at its last command's end; None while there is none."""
        return self._shell.cwd if self._shell is not None and not self._shell.ended else None

    async def run(
        self, request: ExecRequest, journal: Journal, output: Output, cancellation: Cancellation
    ) -> Complete | Error:
        if not await self._takes_turn(cancellation):
            return cut_off(await cancellation.wait())
        try:
            end = await self._run_in_turn(request, journal, output, cancellation)
        finally:
            self._turn.release()
        if self._ended:
            return _error(
                "session_deleted",
                "The session was deleted before the command ended.",
                "A session of that name starts anew with its next command.",
            )
        return end

    async def close(self) -> None:
        """Kills all that runs in the session, and returns when it is gone."""
        self._ended = True
        self._group.kill_all()
        if self._shell is not None:
            await self._shell.close()
        async with self._turn:  # Whatever ran has cleaned up then.
            await asyncio.gather(
                self._group.close(), *(group.close() for group in self._left_behind)
            )
        self._files.close()
        shutil.rmtree(self._directory)

    async def _takes_turn(self, cancellation: Cancellation) -> bool:
        """Waits until no other command runs. False where the cancellation came first."""
        if not self._turn.locked():
            return await self._turn.acquire()
        acquiring = asyncio.create_task(self._turn.acquire())
        cancellation.call(acquiring.cancel)
        await asyncio.wait((acquiring,))
        cancellation.forget(acquiring.cancel)
        return not acquiring.cancelled()

    async def _run_in_turn(
        self, request: ExecRequest, journal: Journal, output: Output, cancellation: Cancellation
    ) -> Complete | Error:
        try:
            shell = await self._living_shell(request.session)
        except ShellMissing:
            return _error(
                "shell_missing",
                "This sandbox has no bash.",
                "Use an image with bash, and a PATH that leads to it.",
            )
        except ShellFailed as error:
            log.warning("shell failed to start", error=str(error))
            return _error(
                "session_failed",
                "The session's shell could not be started.",
                "The sandbox may be out of memory or processes: end some, and try again.",
            )
        if cancellation.code is not None:
            return cut_off(cancellation.code)
        restarted, self._shell_restarted = self._shell_restarted, False
        journal.append(
            Start(timestamp=timestamp(), command=request.command, session_restarted=restarted)
        )
        started_at = time.monotonic()
        match await self._run_command(shell, request, output, cancellation):
            case Reported(exit_code):
                return _completed(exit_code, started_at)
            case Interrupted():
                return cut_off(await cancellation.wait())
            case ShellEnded(exit_code):
                return _error(
                    "session_exited",
                    f"The command ended the session's shell; its exit code was {exit_code}.",
                    "The next command has a fresh shell, without the directory, variables and "
                    "functions of the old one. Use (exit 1) to fail without ending the shell.",
                    exit_code,
                )

    async def _living_shell(self, session: Session) -> Shell:
        """Raises `ShellFailed`."""
        if self._ended:
            raise ShellFailed("its session was deleted")
        if self._shell is not None and not self._shell.ended:
            return self._shell
        if self._shell is not None:
            self._shell_restarted = True
            await self._shell.close()
        workspace = self._settings.workspace
        self._env = session.env
        self._shell = Shell(
            self._programs,
            self._group,
            directories=(str(workspace), str(workspace / session.cwd)),
            env=self._programs.environment(session.env, user=self._user),
            user=self._user,
        )
        await self._shell.ready()
        return self._shell

    async def _run_command(
        self, shell: Shell, request: ExecRequest, output: Output, cancellation: Cancellation
    ) -> Reported | ShellEnded | Interrupted:
        assert request.command is not None  # Else it is an argument list.
        change = environment_change(self._env, request.session.env)
        script = change + command_script(request.command, cwd=request.cwd, env=request.env)
        cleanup = cleanup_lines(cwd=request.cwd, env=request.env, home_cwd=shell.cwd)
        self._env = request.session.env
        with self._files.of_command(script, request.stdin, output) as paths:
            outcome = await shell.run(paths, cancellation, cleanup=cleanup)
            if not isinstance(outcome, Reported):
                await self._move(shell).close()
            elif shell.leaves_others():
                self._left_behind.append(self._move(shell))
            self._remove_empty_groups()
        return outcome

    def _move(self, shell: Shell) -> JobGroup:
        """The group with what the shell's commands have started; the shell is in a new one."""
        self._group = self._programs.new_group("session")
        return shell.move_to(self._group)

    def _remove_empty_groups(self) -> None:
        """Lets go of groups whose last process has ended."""
        for _ in range(min(len(self._left_behind), REMOVALS_A_COMMAND)):
            group = self._left_behind.popleft()
            if not group.remove():
                self._left_behind.append(group)


def check(request: ExecRequest) -> None:
    """Raises `InvalidRequest` where no session could run the request."""
    if (request.command is None) == (request.argv is None):
        raise InvalidRequest("one of command and argv is needed, and not both")
    if request.argv == []:
        raise InvalidRequest("argv is empty")
    words = request.argv if request.argv is not None else [request.command or ""]
    if sum(_size("command", word) for word in words) > MAX_COMMAND_BYTES:
        raise InvalidRequest(f"the command is longer than {MAX_COMMAND_BYTES} bytes")
    if _size("stdin", request.stdin or "", nul_allowed=True) > MAX_STDIN_BYTES:
        raise InvalidRequest(f"stdin is longer than {MAX_STDIN_BYTES} bytes")
    if not 0 < len(request.session.name) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"session.name must have 1 to {MAX_NAME_LENGTH} characters")
    _size("session.cwd", request.session.cwd)
    _size("cwd", request.cwd or "")
    for field, env in (("session.env", request.session.env), ("env", request.env)):
        for name, value in env.items():
            if not NAME.fullmatch(name):
                raise InvalidRequest(f"not the name of a variable, in {field}: {name[:80]!r}")
            _size(f"{field}.{name[:80]}", value or "")


def _size(field: str, text: str, *, nul_allowed: bool = False) -> int:
    """In bytes of UTF-8. Raises `InvalidRequest` where no program could be given the text."""
    if "\0" in text and not nul_allowed:
        raise InvalidRequest(f"{field} has a NUL character")
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{field} has half of a surrogate pair") from error


def _completed(exit_code: int, started_at: float) -> Complete:
    return Complete(
        timestamp=timestamp(),
        conclusion=Conclusion.SUCCESS if exit_code == 0 else Conclusion.FAILURE,
        duration_ms=round((time.monotonic() - started_at) * 1000),
        exit_code=exit_code,
    )


def _error(code: str, sentence: str, hint: str, exit_code: int | None = None) -> Error:
    return Error(timestamp=timestamp(), code=code, error=sentence, hint=hint, exit_code=exit_code)
