"""A relay for the web's tests: behind it are runtimes that have started what they are asked for."""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType

KNOWN = ("python", "javascript", "typescript")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["language"] in KNOWN:
            self._answer(204, b"")
        else:
            fault = {"code": "language_unsupported", "message": f"No {asked['language']} here."}
            self._answer(422, json.dumps(fault).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "web"

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class FakeRelay:
    """Answers on `socket` from the moment it is entered, until it is left."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="relay-")
        self.socket = Path(self._directory.name) / "relay.sock"
        self._server = _Server(str(self.socket), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> FakeRelay:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._directory.cleanup()
