"""Collects the heads of HTTP messages as llhttp tells them, and sees to it that each has an end."""

from __future__ import annotations

import httptools

from relay.messages import Header

MAX_HEAD_BYTES = 64 * 1024
"""Of a request or an answer, also of the trailers at a body's end."""

MAX_HEADERS = 200


class TooMuch(Exception):
    """More of a head than may be."""


class HeadReader:
    """Feeds a parser; the headers that it tells are collected here."""

    def __init__(self, parser: httptools.HttpRequestParser | httptools.HttpResponseParser) -> None:
        self._parser = parser
        self._headers: list[Header] = []
        self._progressed = False
        self._stalled_bytes = 0

    def feed(self, data: bytes) -> None:
        """Raises `httptools.HttpParserError`, which `TooMuch` caused where a head does not end."""
        self._progressed = False
        self._parser.feed_data(data)
        self._stalled_bytes = 0 if self._progressed else self._stalled_bytes + len(data)
        if self._stalled_bytes > MAX_HEAD_BYTES:
            raise httptools.HttpParserError from TooMuch()

    def add(self, name: bytes, value: bytes) -> None:
        """Raises `TooMuch`."""
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            raise TooMuch

    def progressed(self) -> None:
        """A head, a piece of a body or a message has come to its end."""
        self._progressed = True

    def take(self) -> tuple[Header, ...]:
        """The headers since this was last asked."""
        taken, self._headers = tuple(self._headers), []
        return taken
