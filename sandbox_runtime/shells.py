"""Drives one interactive bash through the commands of a session, one after another.

The shell's stdin is a pipe of ours, the control pipe; its own output goes nowhere. A command is a
file that the shell sources with stdin, stdout and stderr opened for that command alone. The next
line on the control pipe tells how it ended, on the report pipe. So the lines that bash reads are
ours and short, and no mistake in a command can take them in.

Why it is like that, as measured with bash 5.2:

- Interactive: SIGINT, `${x?}` and `set -u` then return to the next line of the control pipe, with
  directory, variables and functions kept. They abandon the line that they are in, so the report
  has a line of its own.
- Sourced: while bash reads a file it does not print what interactive shells do (`exit`, the number
  of a background job). `eval` in it: a syntax error then names no file of ours.
- `A=1 … eval …`: the variable is as before when eval ends, however it ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sandbox_runtime.bash_text import change_directory, quoted
from sandbox_runtime.cancellation import Cancellation
from sandbox_runtime.command_files import CommandPaths
from sandbox_runtime.programs import JobGroup, UserPrograms

START_TIMEOUT_S = 10.0
"""For a new shell to say that it is there. A machine under load is slow."""

SETTLE_S = 0.02
"""No command is interrupted before: the shell may still be reading our lines."""

INTERRUPT_GRACE_S = 0.15
"""What a program may do about a SIGINT before it is killed."""

RETURN_TIMEOUT_S = 0.5
"""When a shell that did not come back after a SIGINT is killed."""

NUDGE_S = 0.02
"""Between two attempts to get a shell back that starts one program after another."""

REPORT_DESCRIPTOR = 200
"""At least: out of the way of what scripts use, and of the 255 that bash uses."""

REPORT_LIMIT_BYTES = 64 * 1024

_BASH = ("bash", "--norc", "--noprofile", "--noediting", "-i")

_QUIET = "PS1= PS2=; set +H +o history; unset HISTFILE MAILCHECK"


class ShellFailed(Exception):
    """A shell could not be started."""


class ShellMissing(ShellFailed):
    """There is no bash to start."""


@dataclass(frozen=True)
class Reported:
    """The command ended by itself, the shell lives."""

    exit_code: int


@dataclass(frozen=True)
class ShellEnded:
    """The shell ended with the command: `exit`, `set -e`, a signal."""

    exit_code: int


@dataclass(frozen=True)
class Interrupted:
    """The command was cut off. Whether the shell still lives, it says itself."""


class Shell:
    """One bash process. It is a member of `group`, and so is what its commands start.

    Between commands it may be moved to another group, to tell the next command's processes from
    those that were left behind.
    """

    def __init__(
        self,
        programs: UserPrograms,
        group: JobGroup,
        *,
        directories: Sequence[str],
        env: Mapping[str, str],
        user: int,
    ) -> None:
        """Starts the process, to be used once it is `ready`. Raises `ShellFailed`.

        The shell is in the last of `directories` that it can enter, else at home.
        """
        self._group = group
        self._nonce = secrets.token_hex(8)
        self._command_number = 0
        self._last_exit_code = 0
        self._exit_code: int | None = None
        self._report = b""
        self._cwd = "/"
        stdin, self._control = os.pipe2(os.O_CLOEXEC)
        self._reports, report = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._control, False)
        os.set_blocking(self._reports, False)
        self._report_descriptor = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, REPORT_DESCRIPTOR)
        try:
            self._process = programs.spawn(
                _BASH,
                cwd="/",
                env=env,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._report_descriptor,),
                group=group,
                user=user,
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(self._control)
            os.close(self._reports)
            failure = ShellMissing if isinstance(error, FileNotFoundError) else ShellFailed
            raise failure(f"bash could not be started: {error}") from error
        finally:
            for descriptor in (stdin, report, self._report_descriptor):
                os.close(descriptor)
        self._loop = asyncio.get_running_loop()
        self._settled: asyncio.Future[Reported | ShellEnded | None] = self._loop.create_future()
        """Of the command that runs. None: it is to be cut off, and another future waits for it."""
        self._loop.add_reader(self._reports, self._read_reports)
        self._watch = self._loop.create_task(self._watch_end(programs))
        # Each is entered as the user; where that fails, the shell stays in the one before.
        enter = "; ".join(change_directory(path) for path in directories)
        self._write(f"{_QUIET}; builtin cd; {enter}; unset OLDPWD\n{self._report_line()}")

    @property
    def ended(self) -> bool:
        return self._exit_code is not None

    @property
    def cwd(self) -> str:
        """Where the shell was when it last reported."""
        return self._cwd

    def leaves_others(self) -> bool:
        """Whether commands have left processes behind in the shell's group."""
        return self._group.has_others(self._process.pid)

    def move_to(self, group: JobGroup) -> JobGroup:
        """The group that it leaves, with what its commands left behind."""
        left, self._group = self._group, group
        left.release(self._process.pid)
        if not self.ended:
            group.adopt(self._process.pid)
        return left

    async def ready(self) -> None:
        """Returns when the shell takes commands. Raises `ShellFailed`, after which it is closed."""
        if not await self._settles_within(START_TIMEOUT_S) or self.ended:
            await self.close()
            raise ShellFailed("bash ended, or was silent, instead of taking commands")

    async def run(
        self, paths: CommandPaths, cancellation: Cancellation, *, cleanup: str
    ) -> Reported | ShellEnded | Interrupted:
        """Runs one command; one at a time.

        `cleanup` are lines that bash runs after the command, however it ended. When this returns,
        what the command wrote is in its pipes; what it started may live, in the shell's group.
        """
        started_at = self._loop.time()
        self._command_number += 1
        settled: asyncio.Future[Reported | ShellEnded | None] = self._loop.create_future()
        self._settled = settled

        def cut_off() -> None:
            if not settled.done():
                self._settled = self._loop.create_future()
                settled.set_result(None)

        try:
            self._write(self._lines(paths, cleanup))
            cancellation.call(cut_off)
            outcome = await settled
            if outcome is None:
                await self._interrupt(started_at)
                return Interrupted()
            return outcome
        finally:
            cancellation.forget(cut_off)

    async def close(self) -> None:
        """Kills the shell; its group is left to its owner."""
        if not self.ended:
            self._process.kill()
        await self._watch

    def _lines(self, paths: CommandPaths, cleanup: str) -> str:
        status = self._last_exit_code
        return (
            # The next command may ask for the status of this one. `&&`: `set -e` must not see it.
            (f"(exit {status}) && :\n" if status else "")
            + f"builtin . {quoted(paths.script)} <{quoted(paths.stdin)} >{quoted(paths.stdout)} "
            + f"2>{quoted(paths.stderr)} {self._report_descriptor}>&-\n"
            + self._report_line(cleanup)
        )

    def _report_line(self, cleanup: str = "") -> str:
        """Has bash write `NUL nonce number status cwd NUL`, the cwd after the cleanup."""
        head = f"'{self._nonce} {self._command_number}'"
        to_us = f">&{self._report_descriptor}"
        if not cleanup:
            return f'builtin printf \'\\0%s %s %s\\0\' {head} "$?" "$PWD" {to_us}\n'
        return (
            f"builtin printf '\\0%s %s ' {head} \"$?\" {to_us}\n"
            f"{cleanup}"
            f"builtin printf '%s\\0' \"$PWD\" {to_us}\n"
        )

    def _write(self, lines: str) -> None:
        try:
            os.write(self._control, lines.encode())
        except BrokenPipeError:
            pass  # The shell has just ended; its end is about to be told.
        except BlockingIOError:
            self._process.kill()  # It has not read for long what it should have.

    def _read_reports(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._reports, REPORT_LIMIT_BYTES)
            if not data:
                self._loop.remove_reader(self._reports)
            self._report += data
        *reports, self._report = self._report.split(b"\0")
        for report in reports:
            self._take(report)
        self._report = self._report[-REPORT_LIMIT_BYTES:]

    def _take(self, report: bytes) -> None:
        # What else is on this pipe: what a trap of the user's wrote, answers to old questions.
        head = f"{self._nonce} {self._command_number} ".encode()
        status, found, cwd = report.removeprefix(head).partition(b" ")
        if report.startswith(head) and found and status.isdigit() and not self._settled.done():
            self._cwd = os.fsdecode(cwd)
            self._last_exit_code = int(status)
            self._settled.set_result(Reported(self._last_exit_code))

    async def _watch_end(self, programs: UserPrograms) -> None:
        exit_code = await programs.wait(self._process)
        self._read_reports()  # It may have reported, and then ended.
        self._exit_code = exit_code
        self._loop.remove_reader(self._reports)
        os.close(self._reports)
        os.close(self._control)
        if not self._settled.done():
            self._settled.set_result(ShellEnded(exit_code))

    async def _settles_within(self, timeout_s: float) -> bool:
        await asyncio.wait((self._settled,), timeout=max(timeout_s, 0))
        return self._settled.done()

    async def _interrupt(self, started_at: float) -> None:
        """Gets the shell back from the command, or kills it."""
        if await self._settles_within(started_at + SETTLE_S - self._loop.time()):
            return
        deadline = self._loop.time() + RETURN_TIMEOUT_S
        self._group.send(signal.SIGINT)
        if await self._settles_within(INTERRUPT_GRACE_S):
            return
        shell = self._process.pid
        while self._loop.time() < deadline:
            self._group.send(signal.SIGKILL, except_pid=shell)
            os.kill(shell, signal.SIGINT)
            # The first SIGINT may have hit the line that reports. A SIGINT eats what is being read.
            self._write("\n" + self._report_line())
            if await self._settles_within(NUDGE_S):
                return
        self._process.kill()
        await self._watch
