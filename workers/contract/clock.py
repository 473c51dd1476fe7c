"""Tells the time as the wire form wants it: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def timestamp() -> str:
    """Now."""
    return _text(datetime.now(UTC))


def later(than: str, by_ms: int) -> str:
    """The time that lies so much after another."""
    return _text(datetime.fromisoformat(than) + timedelta(milliseconds=by_ms))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
