"""Acknowledgements reach each runtime, whatever another one does."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import msgspec

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.requests import Acknowledgements
from tests.client import wait_for
from workers.acknowledger import Acknowledger


class Answering(socketserver.ThreadingUnixStreamServer):
    """Takes acknowledgements, as a runtime does."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Taker)
        self.taken: dict[str, int] = {}


class Taker(BaseHTTPRequestHandler):
    server: Answering

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken |= msgspec.json.decode(body, type=Acknowledgements).acks
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering(path: Path) -> Iterator[Answering]:
    with Answering(path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_runtime_that_is_silent_holds_up_no_acknowledgement_of_another(tmp_path: Path) -> None:
    acknowledger = Acknowledger()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent,
        answering(tmp_path / "awake") as awake,
    ):
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        frozen, other = (RuntimeClient(tmp_path / name, "token") for name in ("silent", "awake"))

        for n in range(1, 50):
            acknowledger.tell(frozen, {"a": n})
        acknowledger.tell(other, {"b": 7})

        # Long before a call to the silent one is given up.
        wait_for(lambda: awake.taken == {"b": 7}, "the other was told", deadline_s=5)
        acknowledger.stop()
