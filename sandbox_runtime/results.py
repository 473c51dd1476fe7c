"""Makes one event of what a cell shows: the same thing in all MIME types that we know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sandbox_runtime.charts import chart_from
from sandbox_runtime.protocol.events import Display, Result

MAX_VALUE_BYTES = 10 * 1024 * 1024
"""One MIME type of a result, and all of a result together; what is larger is left out."""

MAX_ID_CHARS = 200
"""Of what a cell calls a place that it shows something in."""

TABLE_MIME = "application/vnd.dataresource+json"

TEXTS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "application/javascript": "javascript",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
}

_text_decoder = msgspec.json.Decoder(str)

BASE64 = ("image/png", "image/jpeg", "application/pdf")

VALUES = {
    "application/json": "json",
    TABLE_MIME: "data",
}


def shown(
    data: Mapping[str, msgspec.Raw],
    *,
    is_main: bool,
    display_id: str | None = None,
    update: bool = False,
) -> Result | Display:
    """What a kernel shows, by MIME type. What is of a wrong type or too large is named instead."""
    values: dict[str, Any] = {}
    notes = []
    left_bytes = MAX_VALUE_BYTES
    for mime, field in {**TEXTS, **VALUES}.items():
        if mime not in data:
            continue
        size = memoryview(data[mime]).nbytes
        if size > left_bytes:
            notes.append(f"[{mime} of {size:,} bytes is left out: over {MAX_VALUE_BYTES:,} bytes]")
            continue
        try:
            values[field] = data[mime] if mime in VALUES else _text(mime, data[mime])
            left_bytes -= size
        except (msgspec.DecodeError, UnicodeDecodeError):
            notes.append(f"[{mime} is left out: not a text]")
    chart = chart_from(data)
    if chart is not None:
        values["chart"] = chart
    if not values and not notes:
        notes.append(f"[{', '.join(mime[:100] for mime in list(data)[:10])}]")
    if notes:
        values["text"] = "\n".join([values["text"], *notes] if "text" in values else notes)
    if display_id is None:
        return Result(timestamp="", is_main=is_main, **values)
    return Display(timestamp="", display_id=display_id[:MAX_ID_CHARS], update=update, **values)


def _text(mime: str, raw: msgspec.Raw) -> str:
    text = _text_decoder.decode(raw)
    return text.strip() if mime in BASE64 else text
