"""Keep-alive HTTP connections of a program of ours to a socket, its own or a runtime's.

A runtime's socket lies in a directory that its container can write to, so it is opened with care:
no symbolic link is followed, and what is found must be a socket.
"""

from __future__ import annotations

import http.client
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox_runtime.protocol.errors import RuntimeUnreachable

MAX_IDLE_CONNECTIONS = 4

LOOK_S = 1.0
"""So often it is asked whether an answer is still wanted."""

Body = bytes | Iterable[bytes] | None

Dial = Callable[[float], socket.socket]
"""Connects within so many seconds. Raises `RuntimeUnreachable`."""


class Connection(http.client.HTTPConnection):
    """One connection, dialled when it is first used."""

    def __init__(self, dial: Dial, timeout_s: float) -> None:
        super().__init__("runtime", timeout=timeout_s)
        self._dial = dial
        self._timeout_s = timeout_s
        self._body = b""

    def connect(self) -> None:
        self.sock = self._dial(self._timeout_s)

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        """A body that is there goes out in one piece with the head: its listener wakes once."""
        if isinstance(message_body, bytes):
            self._body, message_body = message_body, None
        super().endheaders(message_body, encode_chunked=encode_chunked)

    def send(self, data: Any) -> None:
        body, self._body = self._body, b""
        super().send(data + body if body else data)


class Connections:
    """Connections to one listener; safe to share between threads.

    One whose answer was read to its end serves the next request: making one costs as much as a
    short command.
    """

    def __init__(self, dial: Dial, *, max_idle: int = MAX_IDLE_CONNECTIONS) -> None:
        self._dial = dial
        self._max_idle = max_idle
        self._idle: deque[Connection] = deque(maxlen=max_idle)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Closes what is idle; a later request connects anew."""
        while self._idle:
            self._idle.pop().close()

    def request(
        self,
        method: str,
        path: str,
        body: Body,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        repeatable: bool = True,
        is_wanted: Callable[[], bool] | None = None,
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """Sends a request; on an idle connection that was closed meanwhile, once more anew.

        A request that cannot be repeated, and a body that is a stream, get a new connection.
        `timeout_s` is for each wait of it; while the answer has not begun, `is_wanted` is asked
        whether to go on waiting. Raises `RuntimeUnreachable`.
        """
        if repeatable and (body is None or isinstance(body, bytes)):
            try:
                connection = self._idle.pop()
            except IndexError:
                pass
            else:
                connection.sock.settimeout(timeout_s)
                try:
                    return connection, _send(connection, method, path, body, headers, is_wanted)
                except RuntimeUnreachable as fault:
                    # It was not closed: the runtime is silent, and will be so again.
                    if isinstance(fault.__cause__, TimeoutError | ConnectionAbortedError):
                        raise
        connection = Connection(self._dial, timeout_s)
        return connection, _send(connection, method, path, body, headers, is_wanted)

    def give_back(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        """Keeps the connection for the next request, where its answer was read to the end."""
        is_free = response.isclosed() and not response.will_close and connection.sock is not None
        if is_free and len(self._idle) < self._max_idle:
            self._idle.append(connection)
        else:
            connection.close()


@contextmanager
def guarded_entry(socket_path: Path) -> Iterator[int]:
    """A descriptor of a socket's file whose directory is not trusted, to be connected to as
    `/proc/self/fd/<descriptor>`: it is that very inode, and has no limit of 108 bytes.

    The last path component is opened without following links and must be a socket. Raises
    `RuntimeUnreachable`.
    """
    try:
        directory = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            entry = os.open(socket_path.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise unreachable(error) from error
    try:
        if not stat.S_ISSOCK(os.fstat(entry).st_mode):
            raise RuntimeUnreachable(f"{socket_path.name} is not a socket")
        yield entry
    finally:
        os.close(entry)


def connect_guarded(socket_path: Path, timeout_s: float) -> socket.socket:
    """Connects to a socket whose directory is not trusted. Raises `RuntimeUnreachable`."""
    with guarded_entry(socket_path) as entry:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(f"/proc/self/fd/{entry}")
        except OSError as error:
            connection.close()
            raise unreachable(error) from error
    return connection


def _send(
    connection: Connection,
    method: str,
    path: str,
    body: Body,
    headers: Mapping[str, str],
    is_wanted: Callable[[], bool] | None = None,
) -> http.client.HTTPResponse:
    try:
        try:
            connection.request(method, path, body, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            if body is None or isinstance(body, bytes):
                raise
            # A stream can be refused before its end; then there is an answer.
        if is_wanted is not None:
            _wait_for_answer(connection.sock, is_wanted)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise unreachable(error) from error
    except BaseException:  # The body's own: what was sent of it must not look like all.
        connection.close()
        raise


def _wait_for_answer(connection: socket.socket, is_wanted: Callable[[], bool]) -> None:
    """Raises `OSError` where it is wanted no more, or did not come in the connection's timeout."""
    deadline = time.monotonic() + (connection.gettimeout() or 0)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while not poll.poll(LOOK_S * 1000):
        if not is_wanted():
            raise ConnectionAbortedError("who asked has left")
        if time.monotonic() > deadline:
            raise TimeoutError("no answer in time")


def unreachable(error: Exception) -> RuntimeUnreachable:
    return RuntimeUnreachable(f"{type(error).__name__}: {error}")
