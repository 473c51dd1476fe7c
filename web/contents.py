"""Bytes in JSON: as text where they are UTF-8, else in base64."""

from __future__ import annotations

import base64

from sandbox_runtime.protocol.requests import Encoding
from web.errors import InvalidField


def decoded(field: str, content: str, encoding: Encoding) -> bytes:
    """What a request's field stands for. Raises `InvalidField`."""
    if encoding is Encoding.UTF8:
        return content.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:  # Also where it is not even ASCII.
        raise InvalidField(field, f"Not base64: {error}.") from error


def encoded(content: bytes | bytearray) -> tuple[str, Encoding]:
    try:
        return content.decode(), Encoding.UTF8
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), Encoding.BASE64
