"""The heads of HTTP messages: what of them goes on, and how they are written.

They come from llhttp, which has refused what could be read in two ways (both of Content-Length and
Transfer-Encoding, control characters, bare line feeds, folded lines, …); what goes on is written
anew from what was read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

Header = tuple[bytes, bytes]
"""Name, as it was written, and value."""

CONTINUE = 100
SWITCHING_PROTOCOLS = 101

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_FOR_THE_HOP = _HOP_BY_HOP | {b"content-length"}
_PLAIN = frozenset({b"close", b"keep-alive", b"upgrade"})
"""What `Connection` mostly says; none of it is the name of a further header."""

_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a client asks for."""

    method: bytes
    target: bytes
    """Path and query."""
    headers: tuple[Header, ...]
    is_http_11: bool
    keep_alive: bool

    def values(self, name: bytes) -> list[bytes]:
        """`name` in lower case."""
        return [value for header, value in self.headers if header.lower() == name]

    @property
    def has_body(self) -> bool:
        length = self.values(b"content-length")
        return self.is_chunked or (bool(length) and length[0].strip() != b"0")

    @property
    def is_chunked(self) -> bool:
        return bool(self.values(b"transfer-encoding"))

    @property
    def is_websocket(self) -> bool:
        return self.method == b"GET" and [value.lower() for value in self.values(b"upgrade")] == [
            b"websocket"
        ]


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What is answered."""

    status: int
    headers: tuple[Header, ...]

    @property
    def length(self) -> bytes | None:
        """The body's, where it is told."""
        for name, value in self.headers:
            if name.lower() == b"content-length":
                return value.strip()
        return None

    def has_body(self, method: bytes) -> bool:
        return method != b"HEAD" and self.status >= 200 and self.status not in _BODILESS


def end_to_end(headers: Iterable[Header]) -> list[Header]:
    """Without those that are for the next hop alone, and without the body's length."""
    kept: list[Header] = []
    named: set[bytes] = set()
    for header in headers:
        name = header[0].lower()
        if name == b"connection":
            named.update(token.strip() for token in header[1].lower().split(b","))
        elif name not in _FOR_THE_HOP:
            kept.append(header)
    return kept if named <= _PLAIN else without(kept, frozenset(named))


def without(headers: Iterable[Header], names: frozenset[bytes]) -> list[Header]:
    """`names` in lower case."""
    return [(name, value) for name, value in headers if name.lower() not in names]


def only(headers: Iterable[Header], names: frozenset[bytes]) -> list[Header]:
    """`names` in lower case."""
    return [(name, value) for name, value in headers if name.lower() in names]


def request_bytes(method: bytes, target: bytes, headers: Iterable[Header]) -> bytes:
    return b"%s %s HTTP/1.1\r\n%s\r\n" % (method, target, _lines(headers))


def response_bytes(status: int, headers: Iterable[Header]) -> bytes:
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, _reason(status), _lines(headers))


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def last_chunk(trailers: Iterable[Header]) -> bytes:
    return b"0\r\n%s\r\n" % _lines(trailers)


def _lines(headers: Iterable[Header]) -> bytes:
    return b"".join([b"%s: %s\r\n" % header for header in headers])


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"-"
