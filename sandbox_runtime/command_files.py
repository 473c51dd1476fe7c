"""Keeps the files by which a session's shell is given its commands, and reads what they write.

They are ours; the user's group may open them. Making them anew would cost a third of a short
command, so script and FIFOs stay for the next one. A FIFO that a program left behind still holds
open is replaced, so that no command's output takes in what an earlier one prints late.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox_runtime.output import Output
from sandbox_runtime.pipes import PipeReader
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.events import Stream


@dataclass(frozen=True)
class CommandPaths:
    """What the shell opens for one command."""

    script: str
    stdin: str
    stdout: str
    stderr: str


class CommandFiles:
    """The files of one session, in a directory of its own."""

    def __init__(self, directory: str, programs: UserPrograms) -> None:
        self._stdin_path = f"{directory}/stdin"
        self._programs = programs
        self._script = _File(f"{directory}/script", programs)
        self._stdout = _Fifo(f"{directory}/stdout", programs)
        self._stderr = _Fifo(f"{directory}/stderr", programs)

    @contextmanager
    def of_command(self, script: str, stdin: str | None, output: Output) -> Iterator[CommandPaths]:
        """The files for as long as one command runs.

        At the end, what the command has written is in `output`; what programs that it left behind
        write to its pipes later is dropped.
        """
        self._script.write(script)
        with (
            self._stdin(stdin) as stdin_path,
            self._stdout.read_into(output, Stream.STDOUT),
            self._stderr.read_into(output, Stream.STDERR),
        ):
            yield CommandPaths(self._script.path, stdin_path, self._stdout.path, self._stderr.path)

    def close(self) -> None:
        self._script.close()

    @contextmanager
    def _stdin(self, text: str | None) -> Iterator[str]:
        if text is None:
            yield "/dev/null"
            return
        # Never reused: a program that was left behind may still read it.
        file = _File(self._stdin_path, self._programs)
        try:
            file.write(text)
            yield file.path
        finally:
            file.close()
            Path(file.path).unlink()


class _File:
    """A file that the user may read."""

    def __init__(self, path: str, programs: UserPrograms) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        programs.share_with_user(path, 0o640)

    def write(self, text: str) -> None:
        """Makes the text all that is in it. Raises `OSError` where there is no room."""
        data = text.encode()
        os.ftruncate(self._descriptor, 0)
        if os.pwrite(self._descriptor, data, 0) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)

    def close(self) -> None:
        os.close(self._descriptor)


class _Fifo:
    """A FIFO that the user may write to; another one under another name once that is needed."""

    def __init__(self, prefix: str, programs: UserPrograms) -> None:
        self._names = (f"{prefix}-{number}" for number in itertools.count(1))
        self._programs = programs
        self.path = self._made()

    @contextmanager
    def read_into(self, output: Output, stream: Stream) -> Iterator[None]:
        # Opened anew, it does not read as ended before the shell has opened it for writing.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        reader = PipeReader(descriptor, stream, output)
        try:
            yield
        finally:
            if not reader.finish():
                Path(self.path).unlink()
                self.path = self._made()

    def _made(self) -> str:
        path = next(self._names)
        os.mkfifo(path, 0o600)
        self._programs.share_with_user(path, 0o660)
        return path
