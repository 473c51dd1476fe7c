"""The runtime's client: connections are kept, given up and made anew without anybody noticing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_runtime.protocol.calls import RuntimeCalls
from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.connections import Connections, connect_guarded
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from sandbox_runtime.protocol.requests import ExecRequest, Pong

PONG = b'{"bootId":"b","uptimeMs":1,"executions":0,"sessions":[],"contexts":[]}'


class Server:
    """Answers pings on a Unix socket, by hand, and counts who connected."""

    def __init__(self, path: Path, *, answers_each: int, goes_silent: bool = False) -> None:
        """`goes_silent`: after its answers a connection stays, without any more of them."""
        self._answers_each = answers_each
        self._goes_silent = goes_silent
        self.connections = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                for _ in range(self._answers_each):
                    if not _read_request(connection):
                        break
                    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PONG)
                    connection.sendall(head + PONG)
                while self._goes_silent and _read_request(connection):
                    pass


def _read_request(connection: socket.socket) -> bool:
    """All of it, for who is answered and cut off in the middle cannot write the rest."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return False
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if b"content-length" in line.lower()
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runtime.sock"


@pytest.fixture
def patient(path: Path) -> Iterator[Server]:
    server = Server(path, answers_each=1000)
    yield server
    server.close()


def test_one_connection_serves_calls_that_follow_each_other(path: Path, patient: Server) -> None:
    client = RuntimeClient(path, "token")

    for _ in range(5):
        client.ping()

    assert patient.connections == 1
    client.close()


def test_a_connection_that_the_runtime_gave_up_is_made_anew(path: Path) -> None:
    server = Server(path, answers_each=1)
    client = RuntimeClient(path, "token")

    answers = [client.ping().boot_id for _ in range(3)]

    assert answers == ["b"] * 3
    client.close()
    server.close()


def test_a_stream_that_ends_without_a_terminal_event_keeps_no_connection(path: Path) -> None:
    server = Server(path, answers_each=1)
    client = RuntimeClient(path, "token")

    request = ExecRequest(command="true")
    with client.execution("one", request, boot_id=None) as reader:
        events = list(reader)

    assert events == []
    assert client.ping().boot_id == "b"
    client.close()
    server.close()


def test_a_call_by_way_of_the_relay_keeps_its_connection_for_the_next(
    path: Path, patient: Server
) -> None:
    relay = Connections(lambda timeout_s: connect_guarded(path, timeout_s))
    calls = RuntimeCalls(relay, "a" * 26)

    for _ in range(5):
        calls.call("GET", "/ping", kind=Pong)

    assert patient.connections == 1
    relay.close()


def test_what_nobody_wants_any_more_is_not_waited_for_on_a_kept_connection_either(
    path: Path,
) -> None:
    server = Server(path, answers_each=1, goes_silent=True)
    relay = Connections(lambda timeout_s: connect_guarded(path, timeout_s))
    calls = RuntimeCalls(relay, "a" * 26)
    calls.order("GET", "/ping")

    with pytest.raises(RuntimeUnreachable, match="has left"):
        calls.call("GET", "/files/search", kind=Pong, timeout_s=10.0, is_wanted=lambda: False)

    assert server.connections == 1  # Nor was it asked again.
    relay.close()
    server.close()
