"""The workers' client of one sandbox's runtime: synchronous, on its Unix socket."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.connections import (
    Body,
    Connection,
    Connections,
    connect_guarded,
    unreachable,
)
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from sandbox_runtime.protocol.events import TERMINAL, Numbered
from sandbox_runtime.protocol.requests import (
    BOOT_ID_HEADER,
    SILENCE_LIMIT_S,
    Acknowledgements,
    CancelReason,
    CancelRequest,
    ExecutionRequest,
    ExecutionStatus,
    Pong,
    Spares,
)

CALL_TIMEOUT_S = 10.0
"""For a call that is answered at once. A frozen sandbox lets a connection in and is silent."""

SPARES_TIMEOUT_S = 60.0

READ_BYTES = 256 * 1024

FINISH_TIMEOUT_S = 0.5

MAX_ANSWER_BYTES = 4 * 1024 * 1024


class RuntimeClient:
    """Speaks to the runtime of one sandbox; safe to share between threads.

    All that it asks can be asked twice.
    """

    def __init__(self, socket_path: Path, token: str) -> None:
        self._connections = Connections(lambda timeout_s: connect_guarded(socket_path, timeout_s))
        self._headers = {"Authorization": f"Bearer {token}", "Host": "runtime"}

    def close(self) -> None:
        """Closes what is idle; a later call connects anew."""
        self._connections.close()

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

    def have_spares(self, languages: list[str]) -> None:
        """Returns when contexts of these languages, and no others, can begin at once."""
        body = codec.encode(Spares(languages=languages))
        self._call("PUT", "/spares", body, timeout_s=SPARES_TIMEOUT_S)

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
        connection, response = self._connections.request(
            "PUT", path, codec.encode(request), headers, timeout_s=CALL_TIMEOUT_S
        )
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
            self._connections.give_back(connection, response)

    def _call(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        connection, response = self._connections.request(
            method, path, body, self._headers, timeout_s=timeout_s
        )
        try:
            answer = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(error) from error
        finally:
            self._connections.give_back(connection, response)
        if response.status >= 300:
            raise codec.decode_fault(response.status, answer)
        return answer


class ExecutionReader:
    """The events of one execution, in batches as they arrive."""

    def __init__(self, connection: Connection, response: http.client.HTTPResponse) -> None:
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
                raise unreachable(error) from error
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
