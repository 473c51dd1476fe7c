"""Runs a program from its argument list, without a shell."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from sandbox_runtime.cancellation import Cancellation
from sandbox_runtime.output import Output
from sandbox_runtime.pipes import PipeReader
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.protocol.events import Stream

NOT_FOUND = 127
NOT_EXECUTABLE = 126
"""The exit codes that shells give for a program that could not be started."""

INTERRUPT_GRACE_S = 0.15
"""What a program may do about a SIGINT before it is killed."""


async def run_argv(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    user: int,
    stdin: bytes,
    programs: UserPrograms,
    output: Output,
    cancellation: Cancellation,
) -> int | None:
    """The exit code; None where the program was cut off. Nothing that it started outlives it."""
    group = programs.new_group("argv")
    with ExitStack() as cleanup:
        stdin_file = _file_of(stdin)
        cleanup.callback(os.close, stdin_file)
        stdout, stderr = (
            _pipe_into(output, stream, programs, user, cleanup)
            for stream in (Stream.STDOUT, Stream.STDERR)
        )
        try:
            process = programs.spawn(
                argv,
                cwd=cwd,
                env=env,
                stdin=stdin_file,
                stdout=stdout,
                stderr=stderr,
                group=group,
                user=user,
            )
        except OSError as error:
            group.remove()
            return _not_started(argv[0], error, output)
        ended = asyncio.create_task(programs.wait(process))
        by_itself = await _ends_by_itself(ended, group, cancellation)
        await group.close()
        exit_code = await ended
    return exit_code if by_itself else None


async def _ends_by_itself(
    ended: asyncio.Task[int], group: JobGroup, cancellation: Cancellation
) -> bool:
    """Waits for the program, or for the cancellation, upon which it is asked to end."""
    wake = asyncio.Event()
    ended.add_done_callback(lambda _: wake.set())
    cancellation.call(wake.set)
    try:
        await wake.wait()
    finally:
        cancellation.forget(wake.set)
    if ended.done():
        return True
    group.send(signal.SIGINT)
    await asyncio.wait((ended,), timeout=INTERRUPT_GRACE_S)
    return False


def _not_started(name: str, error: OSError, output: Output) -> int:
    """What a shell would say, and its exit code."""
    found = not isinstance(error, FileNotFoundError)
    reason = error.strerror if found else "command not found"
    output.write(Stream.STDERR, f"{name}: {reason}\n".encode())
    return NOT_EXECUTABLE if found else NOT_FOUND


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


def _file_of(data: bytes) -> int:
    """A file in memory, at its start."""
    descriptor = os.memfd_create("stdin")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
