"""What a runtime that was taken over answers costs a worker little memory, and ends in a fault."""

from __future__ import annotations

import itertools
import resource
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.requests import ExecRequest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
BLOCK = b"x" * 65536
DEEP = b'{"n":1,"event":{"type":"result","timestamp":"","json":%s}}\n' % (b"[" * 100_000)
MARGIN_KIB = 128 * 1024
"""Four times the longest event: it is read in pieces, joined, and decoded."""

ANSWERS: dict[str, Callable[[], Iterable[bytes]]] = {
    "garbage": lambda: [b"\x00\xff\r\n\r\n"],
    "nothing": lambda: [],
    "half an answer": lambda: [HEAD % 100, b"half"],
    "a body of 4 GiB": lambda: itertools.chain([HEAD % (4 << 30)], itertools.repeat(BLOCK)),
    "a body without end": lambda: itertools.chain([ENDLESS], itertools.repeat(BLOCK)),
    "a head without end": lambda: itertools.chain(
        [b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"X: y\r\n" * 1000)
    ),
    "a status line without end": lambda: itertools.repeat(BLOCK),
    "lists in lists in lists": lambda: [HEAD % len(DEEP), DEEP],
    "another answer": lambda: [HEAD % 8, b'{"a": 1}'],
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("asked", ["a call", "an execution"])
def test_what_is_no_answer_is_a_fault_and_is_not_kept(
    tmp_path: Path, answer: str, asked: str
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "runtime.sock"))
    listener.listen()
    serving = threading.Thread(target=_serve, args=(listener, ANSWERS[answer]))
    serving.start()
    client = RuntimeClient(tmp_path / "runtime.sock", "token")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    try:
        with pytest.raises(RuntimeFault):
            _ask(client, asked)
    finally:
        client.close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        serving.join(timeout=10)

    assert not serving.is_alive()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MARGIN_KIB


def _ask(client: RuntimeClient, asked: str) -> None:
    if asked == "a call":
        client.ping(timeout_s=5.0)
        return
    with client.execution("e1", ExecRequest(command="true"), boot_id=None) as reader:
        events = [event for batch in reader for event in batch]
    if not events:
        raise RuntimeFault("the stream was cut")  # As who reads it tells by the missing end.


def _serve(listener: socket.socket, answer: Callable[[], Iterable[bytes]]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, suppress(OSError):
            connection.recv(65536)
            for piece in answer():
                connection.sendall(piece)
