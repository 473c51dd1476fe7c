"""The synchronous client of one sandbox's runtime: HTTP/1.1 on its Unix socket.

The socket lies in a directory that the container can write to, so it is opened with care: no
symbolic link is followed, and what is found must be a socket.
"""

from __future__ import annotations

import http.client
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from sandbox_runtime.protocol.events import Numbered
from sandbox_runtime.protocol.requests import (
    BOOT_ID_HEADER,
    Acknowledgement,
    CancelReason,
    CancelRequest,
    ExecutionRequest,
    ExecutionStatus,
    Pong,
)

CALL_TIMEOUT_S = 10.0
"""For a call that is answered at once. A frozen sandbox lets a connection in and is silent."""

SILENCE_LIMIT_S = 30.0
"""For a reader of events: the runtime sends heartbeats, so silence is a fault."""

READ_BYTES = 256 * 1024

MAX_ANSWER_BYTES = 4 * 1024 * 1024


class RuntimeClient:
    """Speaks to the runtime of one sandbox. Holds no connection; safe to share between threads."""

    def __init__(self, socket_path: Path, token: str) -> None:
        self._socket_path = socket_path
        self._headers = {"Authorization": f"Bearer {token}", "Host": "runtime"}

    def ping(self, timeout_s: float = CALL_TIMEOUT_S) -> Pong:
        return codec.decode_answer(200, self._call("GET", "/ping", timeout_s=timeout_s), Pong)

    def executions(self) -> list[ExecutionStatus]:
        return codec.decode_answer(200, self._call("GET", "/executions"), list[ExecutionStatus])

    def cancel(self, execution_id: str, reason: CancelReason) -> None:
        body = codec.encode(CancelRequest(reason=reason))
        self._call("POST", f"/executions/{execution_id}/cancel", body)

    def acknowledge(self, execution_id: str, n: int) -> None:
        body = codec.encode(Acknowledgement(n=n))
        self._call("POST", f"/executions/{execution_id}/ack", body)

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
        connection = _UnixConnection(self._socket_path, timeout_s=CALL_TIMEOUT_S)
        try:
            path = f"/executions/{execution_id}?after={after}"
            response = _request(connection, "PUT", path, codec.encode(request), headers)
            if response.status != 200:
                raise codec.decode_fault(response.status, response.read(MAX_ANSWER_BYTES))
            yield ExecutionReader(connection, response)
        finally:
            connection.close()

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        connection = _UnixConnection(self._socket_path, timeout_s=timeout_s)
        try:
            response = _request(connection, method, path, body, self._headers)
            answer = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error) from error
        finally:
            connection.close()
        if response.status >= 300:
            raise codec.decode_fault(response.status, answer)
        return answer


class ExecutionReader:
    """The events of one execution, in batches as they arrive."""

    def __init__(self, connection: _UnixConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._decoder = codec.LineDecoder()
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
                yield batch

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


def _request(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None,
    headers: dict[str, str],
) -> http.client.HTTPResponse:
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> RuntimeUnreachable:
    return RuntimeUnreachable(f"{type(error).__name__}: {error}")
