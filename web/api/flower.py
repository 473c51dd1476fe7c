"""The routes of Flower, passed on to the Unix socket that it listens on."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

from flask import Response, request

from web.errors import FlowerUnavailable, RouteNotFound
from web.keys import Scope
from web.operations import Operation

TIMEOUT_S = 30.0
CHUNK_BYTES = 64 * 1024

# RFC 9110, 7.6.1: what concerns one connection. `Host` and the length are http.client's to write.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_PASSED_ON = _HOP_BY_HOP | {"authorization", "x-api-key", "host", "content-length", "expect"}


class FlowerRoutes:
    """The dashboard, behind the API's own key."""

    def __init__(self, flower_socket: Path | None) -> None:
        self._socket = flower_socket

    def operations(self) -> list[Operation]:
        below = "/flower/{rest}"
        admin = Scope.ADMIN
        return [
            Operation("GET", "/flower/", self.front, {200: None}, is_page=True, scope=admin),
            Operation("GET", below, self.page, {200: None}, is_page=True, scope=admin),
            Operation("POST", below, self.action, {200: None}, is_page=True, scope=admin),
        ]

    def front(self) -> Response:
        """Flower's front page."""
        return self._pass_on()

    def page(self, rest: str) -> Response:
        """A page of Flower, or an answer of its API."""
        return self._pass_on()

    def action(self, rest: str) -> Response:
        """An action of Flower's API."""
        return self._pass_on()

    def _pass_on(self) -> Response:
        if self._socket is None:
            raise RouteNotFound
        connection = _UnixConnection(self._socket)
        try:
            connection.request(
                request.method, _target(), request.get_data(cache=False) or None, _headers()
            )
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise FlowerUnavailable(f"Flower does not answer: {error}") from error
        response = Response(_content(answer), answer.status)
        response.headers.clear()
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                response.headers.add(name, value)
        response.call_on_close(connection.close)
        return response


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("flower", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def _target() -> str:
    """Path and query as they came, not decoded and encoded anew."""
    raw: str | None = request.environ.get("RAW_URI")
    return raw if raw and raw.startswith("/") else request.full_path.rstrip("?")


def _headers() -> dict[str, str]:
    passed = {name: value for name, value in request.headers if name.lower() not in _NOT_PASSED_ON}
    return passed | {"Host": request.host, "X-Forwarded-Proto": request.scheme}


def _content(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := answer.read(CHUNK_BYTES):
        yield chunk
