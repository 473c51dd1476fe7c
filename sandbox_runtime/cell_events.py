"""Bounds the events that a kernel reports, which are the user's word, before they are passed on."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from sandbox_runtime.protocol.events import CellException, Display, Result

MAX_EXCEPTION_CHARS = 256 * 1024
"""Each of an exception's name, value and traceback: the first half and the last."""

RESULT_OVERHEAD_BYTES = 200
"""What a result counts for beside its values: its event on the wire."""

TEXTS = ("text", "html", "markdown", "latex", "javascript", "svg", "png", "jpeg", "pdf")
VALUES = ("json", "data")


def on_one_line(told: Result | Display) -> Result | Display:
    """As a line of events can hold it: its values are JSON from the user's own programs."""
    values: dict[str, msgspec.Raw | UnsetType] = {}
    notes = []
    for field in VALUES:
        value = getattr(told, field)
        if value is UNSET:
            continue
        try:
            values[field] = msgspec.Raw(msgspec.json.format(_utf8(value), indent=-1))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            values[field] = UNSET
            notes.append(f"[{field} is left out: not JSON]")
    text = "\n".join([told.text, *notes] if told.text else notes) if notes else told.text
    return replace(told, text=text, **values) if values else told


def size_of(told: Result | Display) -> int:
    """Bytes, roughly as on the wire."""
    texts = (getattr(told, field) for field in TEXTS)
    values = (getattr(told, field) for field in VALUES)
    return (
        RESULT_OVERHEAD_BYTES
        + sum(len(text.encode()) for text in texts if text)
        + sum(memoryview(value).nbytes for value in values if value is not UNSET)
        + (len(msgspec.json.encode(told.chart)) if told.chart else 0)
    )


def shortened(raised: CellException) -> CellException:
    return CellException(
        timestamp=raised.timestamp,
        name=_shortened(raised.name),
        value=_shortened(raised.value),
        traceback=_shortened(raised.traceback),
    )


def _utf8(raw: msgspec.Raw) -> bytes:
    data = bytes(raw)
    data.decode()
    return data


def _shortened(text: str) -> str:
    if len(text) <= MAX_EXCEPTION_CHARS:
        return text
    half = MAX_EXCEPTION_CHARS // 2
    return f"{text[:half]}\n[…]\n{text[-half:]}"
