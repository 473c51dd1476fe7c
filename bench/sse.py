"""Reads server-sent events as the platform writes them: one JSON object in one `data:` line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TERMINAL_TYPES = ("complete", "error")


@dataclass(frozen=True, slots=True)
class Event:
    """What the bench looks at in an event."""

    type: str
    data: str = ""
    """Of `stdout` and `stderr`."""
    conclusion: str = ""
    """Of `complete`."""
    error: str = ""
    """Of `error`: its code and message."""


def read_events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events up to the terminal one and with it; comments and ids are passed over."""
    for line in lines:
        if line.startswith(b"data:"):
            event = _event(line[5:])
            yield event
            if event.type in TERMINAL_TYPES:
                return


def _event(text: bytes) -> Event:
    fields = json.loads(text)
    kind = str(fields["type"])
    return Event(
        type=kind,
        data=str(fields.get("data", "")),
        conclusion=str(fields.get("conclusion", "")),
        error=f"{fields.get('code')}: {fields.get('error')}" if kind == "error" else "",
    )
