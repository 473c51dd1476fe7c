"""Makes one event of what a cell shows: the same thing in all MIME types that we know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sandbox_runtime.charts import chart_from
from sandbox_runtime.protocol.events import Display, Result

MAX_VALUE_BYTES = 10 * 1024 * 1024
"""One MIME type of a result, and all of a result together; what is larger is left out."""

TABLE_MIME = "application/vnd.dataresource+json"

FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "application/javascript": "javascript",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/json": "json",
    TABLE_MIME: "data",
}

VALUES = ("json", "data")
"""Fields that are not texts."""


def shown(
    data: Mapping[str, Any], *, is_main: bool, display_id: str | None = None, update: bool = False
) -> Result | Display:
    """`data` is JSON, by MIME type. What is of a wrong type or too large is left out, and named."""
    values: dict[str, Any] = {}
    notes = []
    left_bytes = MAX_VALUE_BYTES
    for mime, field in FIELDS.items():
        if mime not in data:
            continue
        value = data[mime]
        if not isinstance(value, str) and field not in VALUES:
            notes.append(f"[{mime} is left out: not a text]")
            continue
        size = len(msgspec.json.encode(value))
        if size > left_bytes:
            notes.append(f"[{mime} of {size:,} bytes is left out: over {MAX_VALUE_BYTES:,} bytes]")
            continue
        left_bytes -= size
        values[field] = value.strip() if field in ("png", "jpeg") else value
    chart = chart_from(data)
    if chart is not None:
        values["chart"] = chart
    if not values and not notes:
        notes.append(f"[{', '.join(mime[:100] for mime in list(data)[:10])}]")
    if notes:
        values["text"] = "\n".join([values["text"], *notes] if "text" in values else notes)
    if display_id is None:
        return Result(timestamp="", is_main=is_main, **values)
    return Display(timestamp="", display_id=display_id, update=update, **values)
