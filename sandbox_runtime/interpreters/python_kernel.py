"""Starts an IPython kernel whose printing waits for its reader.

Run by the user's interpreter, which cannot read this file where it lies: the runtime puts a copy
beside the kernel's connection file. What it shows besides what IPython does, `rich_values.py` says.
As ipykernel comes,

- a message for a reader that is slow is dropped, the one that says "idle" included, and printing
  fills the memory meanwhile, as it does afterwards: all that was printed is kept for `%history`;
- what a cell's child processes wrote can come after the cell's end;
- a character of theirs of more than one byte can be cut in two, and is then lost;
- with a character that is not one (of a file name that is not UTF-8), all that was printed with it
  is lost.
"""

from __future__ import annotations

import codecs
import fcntl
import inspect
import os
import select
import struct
import sys
import termios
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HELD_CHARS = 256 * 1024
"""Of a stream, before the printing thread waits until it is sent."""

QUEUED_MESSAGES = 8
"""On each end of the socket."""

# What it would write beside this file, the runtime could not remove.
writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
import rich_values  # type: ignore[import-not-found]  # noqa: E402

sys.dont_write_bytecode = writes_none

# As ipykernel_launcher does: the kernel's packages are not to come from this directory.
if __name__ == "__main__":
    del sys.path[0]

import zmq  # noqa: E402
from ipykernel import iostream  # type: ignore[import-not-found]  # noqa: E402
from ipykernel.ipkernel import IPythonKernel  # type: ignore[import-not-found]  # noqa: E402
from ipykernel.kernelapp import IPKernelApp  # type: ignore[import-not-found]  # noqa: E402
from ipykernel.zmqshell import ZMQInteractiveShell  # type: ignore[import-not-found]  # noqa: E402


class BoundedStream(iostream.OutStream):  # type: ignore[misc]
    """`sys.stdout` or `sys.stderr` of a kernel, and the file descriptor below it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._held_chars = 0
        self._draining = threading.RLock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        super().__init__(*args, **kwargs)

    def write(self, string: str) -> int | None:
        written: int | None = super().write(string)
        self._held_chars += len(string)
        if self._held_chars >= HELD_CHARS:
            super().flush()
        return written

    def flush(self) -> None:
        """Sends what was printed, and what children that have ended wrote before."""
        if self._should_watch and self._is_master_process():
            self._drain()
        super().flush()

    def _flush(self) -> None:
        self._held_chars = 0
        super()._flush()

    def _flush_buffers(self) -> Iterator[tuple[Any, str]]:
        for parent, text in super()._flush_buffers():
            yield parent, _encodable(text)

    def _watch_pipe_fd(self) -> None:
        poll = select.poll()
        poll.register(self._fid, select.POLLIN)
        while self._should_watch:
            ((_, events),) = poll.poll()
            if not events & select.POLLIN:
                return  # All writers have closed it.
            self._drain()

    def _drain(self) -> None:
        """Takes what is in the pipe now; what is written meanwhile could go on for ever."""
        with self._draining:
            left = _readable_bytes(self._fid)
            while left > 0 and self._should_watch:
                data = os.read(self._fid, left)
                left -= len(data)
                if text := self._decoder.decode(data):
                    self.write(text)


TAKEN = inspect.signature(IPythonKernel.do_execute).parameters
"""What this release of ipykernel passes on; what of it is new, an older one refuses."""


class VariableKernel(IPythonKernel):  # type: ignore[misc]
    """Changes the environment as a cell's metadata say, which are the runtime's."""

    _execute_sleep = 0.0
    """Before each reply, for clients that do not wait for what was published. Ours does."""

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: dict[str, Any] | None = None,
        cell_id: str | None = None,
    ) -> Any:
        # Older releases of ipykernel have the metadata with the request alone.
        meta = self.get_parent().get("metadata", {}) if cell_meta is None else cell_meta
        _set_variables(meta.get("variables", {}))
        of_cell = meta.get("cell_variables", {})
        before = {name: os.environ.get(name) for name in of_cell}
        _set_variables(of_cell)
        try:
            more = {"cell_meta": cell_meta, "cell_id": cell_id}
            return await super().do_execute(
                code,
                silent,
                store_history,
                user_expressions,
                allow_stdin,
                **{name: value for name, value in more.items() if name in TAKEN},
            )
        finally:
            _set_variables(before)


class BoundedKernelApp(IPKernelApp):  # type: ignore[misc]
    """The kernel's program. Its own stderr is for failing to start, and ends when it has not."""

    kernel_class = VariableKernel

    def _bind_socket(self, socket: Any, port: int) -> Any:
        # Before it is bound: later, a bound on the queue is for readers that are there already.
        if socket.type == zmq.XPUB:
            socket.sndhwm = QUEUED_MESSAGES
            socket.xpub_nodrop = True
        return super()._bind_socket(socket, port)

    def init_shell(self) -> None:
        super().init_shell()
        rich_values.install(self.shell.display_formatter)

    def init_io(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os.close(nothing)
        super().init_io()


@contextmanager
def _keep_nothing(shell: Any, channel: str) -> Iterator[None]:
    yield


def _set_variables(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in variables:
        time.tzset()


def _encodable(text: str) -> str:
    """`text` without lone surrogates, as a file name can hold: UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _readable_bytes(descriptor: int) -> int:
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", answer)[0])


if __name__ == "__main__":
    # IPython says it on each `sys.exit()`, of a prompt that is not here.
    warnings.filterwarnings("ignore", message="To exit: use")
    iostream.OutStream = BoundedStream
    ZMQInteractiveShell._tee = _keep_nothing
    BoundedKernelApp.launch_instance()
