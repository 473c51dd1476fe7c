"""Tells the time as the wire form wants it: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def timestamp() -> str:
    """Now."""
    return timestamp_of(datetime.now(UTC))


def later(than: str, by_ms: int) -> str:
    """The time that lies so much after another."""
    return timestamp_of(datetime.fromisoformat(than) + timedelta(milliseconds=by_ms))


def timestamp_of(moment: datetime) -> str:
    """A moment that has a time zone."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
