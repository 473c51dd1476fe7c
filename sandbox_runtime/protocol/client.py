"""The synchronous client of one sandbox's runtime: HTTP/1.1 on its Unix socket.

The socket lies in a directory that the container can write to, so it is opened with care: no
symbolic link is followed, and what is found must be a socket.
"""

from __future__ import annotations

import http.client
import os
import socket
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from sandbox_runtime.protocol.events import TERMINAL, Numbered
from sandbox_runtime.protocol.requests import (
    BOOT_ID_HEADER,
    HEARTBEAT_S,
    Acknowledgements,
    CancelReason,
    CancelRequest,
    ExecutionRequest,
    ExecutionStatus,
    Pong,
)

CALL_TIMEOUT_S = 10.0
"""For a call that is answered at once. A frozen sandbox lets a connection in and is silent."""

SILENCE_LIMIT_S = 4 * HEARTBEAT_S
"""For a reader of events: the runtime sends heartbeats, so silence is a fault."""

READ_BYTES = 256 * 1024

MAX_IDLE_CONNECTIONS = 4

FINISH_TIMEOUT_S = 0.5

MAX_ANSWER_BYTES = 4 * 1024 * 1024


class RuntimeClient:
    """Speaks to the runtime of one sandbox; safe to share between threads.

    A connection whose answer was read to its end serves the next call: making one costs as much as
    a short command.
    """

    def __init__(self, socket_path: Path, token: str) -> None:
        self._socket_path = socket_path
        self._idle: deque[_UnixConnection] = deque(maxlen=MAX_IDLE_CONNECTIONS)
        self._headers = {"Authorization": f"Bearer {token}", "Host": "runtime"}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Closes what is idle; a later call connects anew."""
        while self._idle:
            self._idle.pop().close()

    def ping(self, timeout_s: float = CALL_TIMEOUT_S) -> Pong:
        return codec.decode_answer(200, self._call("GET", "/ping", timeout_s=timeout_s), Pong)

    def executions(self) -> list[ExecutionStatus]:
        return codec.decode_answer(200, self._call("GET", "/executions"), list[ExecutionStatus])

    def cancel(self, execution_id: str, reason: CancelReason) -> None:
        body = codec.encode(CancelRequest(reason=reason))
        self._call("POST", f"/executions/{execution_id}/cancel", body)

    def acknowledge(self, acks: Mapping[str, int]) -> None:
        """Tells the runtime up to which number each execution's events are kept elsewhere."""
        self._call("POST", "/acks", codec.encode(Acknowledgements(acks=dict(acks))))

    def end_session(self, name: str) -> None:
        self._call("DELETE", f"/sessions/{quote(name, safe='')}")

    def end_context(self, context_id: str) -> None:
        self._call("DELETE", f"/contexts/{quote(context_id, safe='')}")

    def unpack_archive(self, archive: Iterable[bytes], path: str, timeout_s: float) -> None:
        """Unpacks a tar archive into the directory `path`, as the sandbox's user."""
        target = f"/archive?path={quote(path, safe='')}"
        self._call("PUT", target, archive, timeout_s=timeout_s)

    @contextmanager
    def execution(
        self,
        execution_id: str,
        request: ExecutionRequest,
        *,
        boot_id: str | None,
        after: int = 0,
    ) -> Iterator[ExecutionReader]:
        """Starts the execution, or attaches to it, and reads its events after number `after`.

        Leaving the block ends the reading, not the execution. Raises `SandboxRestarted` where
        `boot_id` is not the runtime's own.
        """
        headers = dict(self._headers)
        if boot_id is not None:
            headers[BOOT_ID_HEADER] = boot_id
        path = f"/executions/{execution_id}?after={after}"
        connection, response = self._request("PUT", path, codec.encode(request), headers)
        try:
            if response.status != 200:
                raise codec.decode_fault(response.status, response.read(MAX_ANSWER_BYTES))
            if connection.sock is None:  # http.client has let go of it: the head said "close".
                response.close()
                raise RuntimeUnreachable("the answer is not the runtime's: it ends the connection")
            reader = ExecutionReader(connection, response)
            yield reader
            reader.finish()
        finally:
            self._give_back(connection, response)

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        connection, response = self._request(method, path, body, self._headers, timeout_s)
        try:
            answer = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error) from error
        finally:
            self._give_back(connection, response)
        if response.status >= 300:
            raise codec.decode_fault(response.status, answer)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None,
        headers: dict[str, str],
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> tuple[_UnixConnection, http.client.HTTPResponse]:
        """Sends a request; on an idle connection that the runtime has closed, once more anew.

        All that the runtime takes can be asked twice. A body that is a stream gets a new one.
        """
        if body is None or isinstance(body, bytes):
            try:
                connection = self._idle.pop()
            except IndexError:
                pass
            else:
                connection.sock.settimeout(timeout_s)
                try:
                    return connection, _send(connection, method, path, body, headers)
                except RuntimeUnreachable as fault:
                    if isinstance(fault.__cause__, TimeoutError):
                        raise  # It was not closed: the runtime is silent, and will be so again.
        connection = _UnixConnection(self._socket_path, timeout_s=timeout_s)
        return connection, _send(connection, method, path, body, headers)

    def _give_back(self, connection: _UnixConnection, response: http.client.HTTPResponse) -> None:
        is_free = response.isclosed() and not response.will_close and connection.sock is not None
        if is_free and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()


class ExecutionReader:
    """The events of one execution, in batches as they arrive."""

    def __init__(self, connection: _UnixConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._decoder = codec.LineDecoder()
        self._ended = False
        connection.sock.settimeout(SILENCE_LIMIT_S)

    def __iter__(self) -> Iterator[list[Numbered]]:
        """Batches of at least one event. Ends when the runtime closes the stream, which it does
        after the terminal event; a stream that ends before was cut.

        Raises `RuntimeUnreachable` where the connection breaks.
        """
        while True:
            try:
                data = self._response.read1(READ_BYTES)
            except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
                # ValueError and AttributeError: `stop` closed the connection under the reader.
                raise _unreachable(error) from error
            if not data:
                return
            if batch := self._decoder.feed(data):
                self._ended = isinstance(batch[-1].event, TERMINAL)
                yield batch

    def finish(self) -> None:
        """Reads what follows the terminal event, which is nothing, so that the connection is free.

        Where the terminal event has not come, the connection is lost to further use.
        """
        if self._ended:
            try:
                self._connection.sock.settimeout(FINISH_TIMEOUT_S)
                self._response.read1(READ_BYTES)
            except (OSError, ValueError, AttributeError, http.client.HTTPException):
                self._connection.close()

    def stop(self) -> None:
        """Ends the reading, from any thread; the iteration then ends or raises."""
        sock = self._connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It was closed already.


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: Path, timeout_s: float) -> None:
        super().__init__("runtime", timeout=timeout_s)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = connect_guarded(self._socket_path, self.timeout or CALL_TIMEOUT_S)


def connect_guarded(socket_path: Path, timeout_s: float) -> socket.socket:
    """Connects to a socket whose directory is not trusted.

    The last path component is opened without following links and must be a socket; the connection
    then goes to that very inode, by `/proc/self/fd`, which also has no limit of 108 bytes.
    """
    try:
        directory = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            entry = os.open(socket_path.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _unreachable(error) from error
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not stat.S_ISSOCK(os.fstat(entry).st_mode):
            raise RuntimeUnreachable(f"{socket_path.name} is not a socket")
        connection.settimeout(timeout_s)
        connection.connect(f"/proc/self/fd/{entry}")
    except OSError as error:
        connection.close()
        raise _unreachable(error) from error
    except RuntimeUnreachable:
        connection.close()
        raise
    finally:
        os.close(entry)
    return connection


def _send(
    connection: _UnixConnection,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None,
    headers: dict[str, str],
) -> http.client.HTTPResponse:
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> RuntimeUnreachable:
    return RuntimeUnreachable(f"{type(error).__name__}: {error}")
