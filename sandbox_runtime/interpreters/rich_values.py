"""Gives IPython more forms of values: plain data as JSON, tables as data, figures as charts.

Run by the user's interpreter beside `python_kernel.py`. Figures and tables are recognised without
importing Matplotlib or pandas before the user does.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

CHART_MIME = "application/vnd.coldframe.chart+json"
TABLE_MIME = "application/vnd.dataresource+json"

MAX_ROWS = 1000
"""Of a table as data; its `totalRows` says how many there are."""

MAX_LEVELS = 100

_CHARTS = Path(__file__).with_name("matplotlib_charts.py")
_CHARTS_TEXT = _CHARTS.read_text()
"""Taken at once: when there is a figure, the file can no longer be read."""


class NotPlain(Exception):
    """JSON would not say all of a value."""


def install(display_formatter: Any) -> None:
    """`display_formatter` is IPython's."""
    as_json = display_formatter.formatters["application/json"]
    for plain_type in (dict, list, tuple):
        as_json.for_type(plain_type, _or_nothing(lambda value: plain(value, MAX_LEVELS)))
    for mime, module, kind, form in (
        # IPython forgets all forms of `Figure` itself when it sets up its own.
        (CHART_MIME, "matplotlib.figure", "FigureBase", chart_of),
        (TABLE_MIME, "pandas", "DataFrame", table_of),
        (TABLE_MIME, "pandas", "Series", table_of),
    ):
        formatter = display_formatter.formatters.get(mime)
        if formatter is None:
            formatter = type(as_json)(parent=display_formatter)
            formatter.format_type = mime
            formatter.print_method = "_repr_nothing_"  # Types do not show themselves so.
            display_formatter.formatters[mime] = formatter
            display_formatter.active_types = [*display_formatter.active_types, mime]
        for name in _names(module):
            formatter.for_type_by_name(name, kind, _or_nothing(form))


def plain(value: Any, levels: int) -> Any:
    """`value` as JSON takes it, numbers of NumPy's and times included. Raises `NotPlain`."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) < 2**63:
            return int(value)
    elif isinstance(value, float):
        if math.isfinite(value):
            return float(value)
    elif isinstance(value, datetime.date):
        return value.isoformat()
    elif type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return plain(value.item(), levels - 1)
    elif levels > 0 and isinstance(value, list | tuple):
        return [plain(part, levels - 1) for part in value]
    elif levels > 0 and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(part, levels - 1) for key, part in value.items()}
    raise NotPlain


def table_of(table: Any) -> dict[str, Any]:
    """A Table Schema with data, as pandas makes it, of the first rows."""
    found: dict[str, Any] = json.loads(table.head(MAX_ROWS).to_json(orient="table"))
    found["totalRows"] = len(table)
    return found


def chart_of(figure: Any) -> Any:
    """What is drawn in a figure of Matplotlib's."""
    return _charts().chart_of(figure)


@cache
def _charts() -> ModuleType:
    module = ModuleType(_CHARTS.stem)
    exec(compile(_CHARTS_TEXT, _CHARTS.name, "exec"), module.__dict__)
    return module


def _or_nothing(form: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What has no such form is shown in its others: IPython would print a traceback."""

    def formed(value: Any) -> Any:
        try:
            return form(value)
        except Exception:  # noqa: BLE001 - the user's own types can raise anything
            return None

    return formed


def _names(module: str) -> tuple[str, ...]:
    """What pandas calls the module of its types has changed with version 3."""
    return (
        ("pandas", "pandas.core.frame", "pandas.core.series") if module == "pandas" else (module,)
    )
