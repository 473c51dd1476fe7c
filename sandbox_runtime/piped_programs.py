"""Starts programs whose output is read into an `Output`, and ends with each all that it started."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from sandbox_runtime.output import Output
from sandbox_runtime.pipes import PipeReader
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.events import Stream


class PipedProgram:
    """One that runs, with what it started. Who started it awaits `wait`, once."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        user: int,
        stdin: int,
        programs: UserPrograms,
        output: Output,
        group_name: str,
    ) -> None:
        """Starts it. Raises `OSError` where it cannot be executed."""
        self._programs = programs
        self._group = programs.new_group(group_name)
        with ExitStack() as cleanup:
            stdout, stderr = (
                _pipe_into(output, stream, programs, user, cleanup)
                for stream in (Stream.STDOUT, Stream.STDERR)
            )
            try:
                self._process = programs.spawn(
                    argv,
                    cwd=cwd,
                    env=env,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    group=self._group,
                    user=user,
                )
            except OSError:
                self._group.remove()
                raise
            self._cleanup = cleanup.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended_by_signal(self) -> bool:
        return (self._process.returncode or 0) < 0

    def send(self, signal_number: int) -> None:
        """To it and to all that it started."""
        self._group.send(signal_number)

    def kill(self) -> None:
        self._group.kill_all()

    async def wait(self) -> int:
        """The exit code as a shell tells it, when all has ended and what was printed is told."""
        with self._cleanup:
            exit_code = await self._programs.wait(self._process)
            await self._group.close()
        return exit_code


def _pipe_into(
    output: Output, stream: Stream, programs: UserPrograms, user: int, cleanup: ExitStack
) -> int:
    """The end of a pipe that the program writes to; the other is read until the cleanup."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    programs.give_to_user(write_end, user)
    cleanup.callback(PipeReader(read_end, stream, output).finish)
    cleanup.callback(os.close, write_end)
    return write_end
