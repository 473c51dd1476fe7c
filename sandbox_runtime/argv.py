"""Argument lists: those that commands stand for, and a program run from one, without a shell."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence

from sandbox_runtime.cancellation import Cancellation
from sandbox_runtime.output import Output
from sandbox_runtime.piped_programs import PipedProgram
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.events import Stream

NOT_FOUND = 127
NOT_EXECUTABLE = 126
"""The exit codes that shells give for a program that could not be started."""

INTERRUPT_GRACE_S = 0.15
"""What a program may do about a SIGINT before it is killed."""


MAX_COMMAND_TOLD_CHARS = 4096
"""In a record."""


def argv_of(command: str | None, argv: list[str] | None, path: str) -> list[str]:
    """The list that was given, else a shell's that runs the command; without one, a shell's own."""
    if argv is not None:
        return argv
    shell = shutil.which("bash", path=path) or "/bin/sh"
    return [shell] if command is None else [shell, "-c", command]


def told(command: str | None, argv: list[str] | None) -> str:
    """What is run, as a shell would be told it, for a record."""
    return ((command or "") if argv is None else shlex.join(argv))[:MAX_COMMAND_TOLD_CHARS]


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
    stdin_file = _file_of(stdin)
    try:
        program = PipedProgram(
            argv,
            cwd=cwd,
            env=env,
            user=user,
            stdin=stdin_file,
            programs=programs,
            output=output,
            group_name="argv",
        )
    except OSError as error:
        return _not_started(argv[0], error, output)
    finally:
        os.close(stdin_file)
    ended = asyncio.create_task(program.wait())
    if await _ends_by_itself(ended, cancellation):
        return ended.result()
    program.send(signal.SIGINT)
    await asyncio.wait((ended,), timeout=INTERRUPT_GRACE_S)
    program.kill()
    await ended
    return None


async def _ends_by_itself(ended: asyncio.Task[int], cancellation: Cancellation) -> bool:
    """Waits for the program, or for the cancellation: then False."""
    wake = asyncio.Event()
    ended.add_done_callback(lambda _: wake.set())
    cancellation.call(wake.set)
    try:
        await wake.wait()
    finally:
        cancellation.forget(wake.set)
    return ended.done()


def _not_started(name: str, error: OSError, output: Output) -> int:
    """What a shell would say, and its exit code."""
    found = not isinstance(error, FileNotFoundError)
    reason = error.strerror if found else "command not found"
    output.write(Stream.STDERR, f"{name}: {reason}\n".encode())
    return NOT_EXECUTABLE if found else NOT_FOUND


def _file_of(data: bytes) -> int:
    """A file in memory, at its start."""
    descriptor = os.memfd_create("stdin")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
