"""Reads the plotted data back out of a Matplotlib figure.

Run by the user's interpreter from a copy: any Python from 3.8 with any Matplotlib from 3.3. It
therefore imports nothing of ours, and gives the wire form of `protocol/charts.py` as plain JSON.
"""

from __future__ import annotations

import math
import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from matplotlib import (
    category,
    collections,
    colors,
    container,
    dates,
    patches,
    ticker,
)

# As in protocol/charts.py.
MAX_POINTS = 10_000
MAX_SERIES = 40
MAX_CHARTS = 30
MAX_TEXT = 500

SAME = 1e-3
"""Of a step between positions: what is nearer is the same position."""

COLUMNS = ("x", "y", "labels", "values", "edges", "counts")

UNDRAWN = ("None", "none", " ", "", None)
"""Names of no marker, and of no line style."""

STEP_PATCH = getattr(patches, "StepPatch", ())
"""From Matplotlib 3.4 on."""

_UNIT = re.compile(r"[(\[]([^()\[\]]+)[)\]]\s*$")


def chart_of(figure: Any) -> dict[str, Any] | None:
    """The data of all that is known in `figure`; None where that is nothing."""
    drawn = [(axes, series) for axes in figure.axes for series in [_or_none(_read, axes)] if series]
    shown = drawn[:MAX_CHARTS]
    found = [_or_none(_chart, axes, series, MAX_POINTS // len(shown)) for axes, series in shown]
    charts = [chart for chart in found if chart]
    title = getattr(figure, "_suptitle", None)
    named = _given(title=_text(title.get_text()) if title else None)
    if len(charts) < 2:
        return {**named, **charts[0]} if charts else None
    more = {"truncated": True} if len(drawn) > len(shown) else {}
    return {"type": "multiple", "library": "matplotlib", **named, "charts": charts, **more}


def _or_none(read: Callable[..., Any], *of: Any) -> Any:
    try:
        return read(*of)
    except Exception:  # noqa: BLE001 - artists can be of classes that the user wrote
        return None


def _read(axes: Any) -> list[dict[str, Any]]:
    """The series on `axes`, in the wire form but for Matplotlib's own arrays and positions."""
    if not axes.get_visible() or axes.name == "3d":
        return []
    if axes.get_label() == "<colorbar>" or hasattr(axes, "_colorbar"):
        return []
    alone = _heatmaps(axes) or _pies(axes) or _boxes(axes)
    if alone:
        return alone
    bars = [*_bars(axes), *_steps(axes)]
    bars.sort(key=lambda one: one["type"] == "bar")
    return [*bars, *_scatters(axes), *_lines(axes, bars)]


def _chart(axes: Any, series: list[dict[str, Any]], share: int) -> dict[str, Any]:
    """The wire form of one sub-plot, of `share` points at most."""
    truncated = len(series) > MAX_SERIES
    series = series[:MAX_SERIES]
    while sum(map(_size, series)) > share:
        series = [_halved(one) for one in series]
        truncated = True
    x_axis, y_axis = _Axis(axes.xaxis), _Axis(axes.yaxis)
    data = []
    for one in series:
        axis, lengths = (y_axis, x_axis) if one.get("horizontal") else (x_axis, y_axis)
        data.append(_wire(one, axis, lengths))
        if one["type"] == series[0]["type"]:
            del data[-1]["type"]
    axis_wires = {} if series[0]["type"] == "pie" else {**x_axis.wire("x"), **y_axis.wire("y")}
    chart = {"type": series[0]["type"], "library": "matplotlib", **axis_wires, "data": data}
    return {**chart, **_given(title=_text(axes.get_title()), truncated=truncated or None)}


def _wire(one: dict[str, Any], axis: _Axis, lengths: _Axis) -> dict[str, Any]:
    """A series in its wire form, its positions as the axes name them."""
    kind = one["type"]
    wire = {**one, "label": _text(one.get("label")), "width": None}
    for column in ("x", "edges"):
        if column in one:
            wire[column] = axis.values(one[column], kind)
    if "y" in one:
        wire["y"] = _numbers(one["y"]) if kind == "bar" else lengths.values(one["y"], kind)
    for column in ("values", "counts"):
        if column in one:
            wire[column] = [_number(value) or 0.0 for value in one[column]]
    if "z" in one:
        wire["z"] = [_numbers(row) for row in one["z"].tolist()]
    if "boxes" in one:
        names = axis.values([box["label"] for box in one["boxes"]], kind)
        named = _pairs(one["boxes"], names)
        wire["boxes"] = [{**box, **_given(label=_text(name))} for box, name in named]
    return _given(**wire)


class _Axis:
    """One axis as drawn: what it calls its positions."""

    def __init__(self, axis: Any) -> None:
        self._axis = axis
        converter = axis.get_converter() if hasattr(axis, "get_converter") else axis.converter
        # By its name: pandas has its own, which are no kinds of Matplotlib's.
        self._is_period = "Period" in type(converter).__name__
        self._is_time = self._is_period or "Date" in type(converter).__name__
        self._is_category = isinstance(converter, category.StrCategoryConverter)
        self._is_named = False
        self._ticks = _named_ticks(axis)

    def values(self, positions: Iterable[Any], kind: str) -> list[Any]:
        """Names, ISO 8601 dates or numbers; bars and boxes stand near their names, not on them."""
        numbers = _numbers(positions)
        if self._is_time:
            return [None if number is None else self._date(number) for number in numbers]
        names = self._names(numbers, kind)
        self._is_named = self._is_named or names is not None
        return names or numbers

    def wire(self, name: str) -> dict[str, Any]:
        label = _text(self._axis.get_label_text())
        unit = _UNIT.search(label or "")
        scale = "category" if self._is_named else self._axis.get_scale()
        scale = "time" if self._is_time else scale
        wire = {
            "Label": label,
            "Unit": unit.group(1).strip() if unit else None,
            "Scale": scale if scale in ("linear", "log", "time", "category") else None,
        }
        return _given(**{name + part: value for part, value in wire.items()})

    def _date(self, number: float) -> str:
        """What has no time zone is drawn as UTC; UTC is given as none."""
        if self._is_period:
            freq = self._axis.freq
            period = sys.modules["pandas"].Period(ordinal=round(number), freq=freq)
            return str(period.to_timestamp().isoformat())
        return str(dates.num2date(number).replace(tzinfo=None).isoformat())

    def _names(self, numbers: list[Any], kind: str) -> list[str] | None:
        """The names of all `numbers`; None where one has none."""
        places = sorted(self._ticks)
        if not places or None in numbers:
            return None
        step = min((after - place for place, after in _pairs(places, places[1:])), default=1.0)
        reach = step * (0.5 if kind in ("bar", "box") or self._is_category else SAME)
        nearest = [_nearest(places, number) for number in numbers]
        if any(abs(place - number) > reach for place, number in _pairs(nearest, numbers)):
            return None
        if kind == "bar" and not self._is_category and len(set(nearest)) < len(nearest):
            return None  # A few named places on an axis of numbers.
        return [self._ticks[place] for place in nearest]


def _heatmaps(axes: Any) -> list[dict[str, Any]]:
    found = []
    for image in axes.images:
        z = image.get_array()
        if z is not None and z.ndim == 2 and z.size:
            left, right, low, high = image.get_extent()
            first, last = (high, low) if image.origin == "upper" else (low, high)
            rows, columns = z.shape
            x, y = _centres(left, right, columns), _centres(first, last, rows)
            found.append({"type": "heatmap", "x": x, "y": y, "z": z})
    for mesh in axes.collections:
        z = mesh.get_array() if isinstance(mesh, collections.QuadMesh) else None
        if z is None or z.ndim > 2:
            continue
        corners = mesh.get_coordinates() if hasattr(mesh, "get_coordinates") else mesh._coordinates
        x, y = corners[0, :, 0], corners[:, 0, 1]
        if z.size != x.size * y.size:  # Else it is shaded from corner to corner.
            x, y = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
        found.append({"type": "heatmap", "x": x, "y": y, "z": z.reshape(y.size, x.size)})
    return found


def _pies(axes: Any) -> list[dict[str, Any]]:
    rings: dict[float, dict[str, Any]] = {}
    for wedge in axes.patches:
        if isinstance(wedge, patches.Wedge):
            ring = rings.setdefault(wedge.r, {"type": "pie", "labels": [], "values": []})
            ring["labels"].append(_text(_label(wedge)) or "")
            ring["values"].append((wedge.theta2 - wedge.theta1) / 360)
    return list(rings.values())


def _boxes(axes: Any) -> list[dict[str, Any]]:
    lines = list(axes.lines)
    for lies in (False, True):
        boxes = [box for at in range(len(lines)) for box in [_box(lines[at : at + 9], lies)] if box]
        if boxes:
            return [{"type": "box", "boxes": boxes, "horizontal": lies or None}]
    return []


def _box(lines: list[Any], lies: bool) -> dict[str, Any] | None:
    """The box whose lines begin `lines`: two whiskers, two caps or none, median, mean, outliers."""
    if [len(line.get_xdata(orig=False)) for line in lines[:3]] != [2, 2, 2]:
        return None
    ((at, *places), (q1, low)), ((*more, _), (q3, high)) = (_data(one, lies) for one in lines[:2])
    finite = math.isfinite(at) and math.isfinite(low) and math.isfinite(high)
    if not finite or {at, *places, *more} != {at} or not low <= q1 <= q3 <= high:
        return None
    level = []
    for line in lines[2:6]:
        across, along = _data(line, lies)
        if len(across) != 2 or along[0] != along[1] or across[0] == across[1]:
            break
        level.append(along[0])
    if not level:
        return None
    after = lines[2 + len(level) : 4 + len(level)]
    dots = [_data(line, lies)[1] for line in after if line.get_linestyle() in UNDRAWN]
    # A mean comes before them; where it comes alone, it is rarely beyond the whiskers.
    beyond = [value for value in dots[-1] if not low <= value <= high] if dots else []
    outliers = [value for value in beyond if math.isfinite(value)]
    median = level[2] if len(level) > 2 else level[0]
    ends = {"min": low, "q1": q1, "median": median, "q3": q3, "max": high}
    return {"label": at, **ends, "outliers": outliers}


def _bars(axes: Any) -> Iterator[dict[str, Any]]:
    """Bars that touch one another are a histogram's, unless they have names."""
    names = _legend_names(axes)
    for one in axes.containers:
        drawn = one.patches if isinstance(one, container.BarContainer) else ()
        # Seaborn draws one nowhere, for its colour.
        bars = [bar for bar in drawn if math.isfinite(bar.get_x() + bar.get_y())]
        if not bars:
            continue
        # What Matplotlib before 3.4 knows of it is the side that bars stand on.
        stands_on = bars[0].sticky_edges
        upright = "vertical" if stands_on.y or not stands_on.x else "horizontal"
        lies = getattr(one, "orientation", None) or upright
        rows = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in bars]
        if lies == "horizontal":
            rows = [(bar.get_y(), bar.get_height(), bar.get_width()) for bar in bars]
        width = max(abs(row[1]) for row in rows)
        gaps = [abs(end[0] - start[0] - start[1]) for start, end in _pairs(rows, rows[1:])]
        series = {
            "label": _label(one) or _label(bars[0]) or names.get(_colour(bars[0])),
            "horizontal": lies == "horizontal" or None,
            "width": width,
        }
        lengths = [row[2] for row in rows]
        centres = [start + width / 2 for start, width, _ in rows]
        named = _named_ticks(axes.yaxis if lies == "horizontal" else axes.xaxis)
        if gaps and max(gaps) <= SAME * width and not named:
            edges = [*(row[0] for row in rows), rows[-1][0] + rows[-1][1]]
            yield {**series, "type": "histogram", "edges": edges, "counts": lengths}
        else:
            yield {**series, "type": "bar", "x": centres, "y": lengths}


def _steps(axes: Any) -> Iterator[dict[str, Any]]:
    """Histograms drawn as an outline, of two bins or more where it could be any polygon."""
    for patch in axes.patches:
        one = {"type": "histogram", "label": _label(patch), "width": 0.0}
        if isinstance(patch, STEP_PATCH):
            counts, edges, _ = patch.get_data()
            lies = patch.orientation == "horizontal" or None
            yield {**one, "edges": edges, "counts": counts, "horizontal": lies}
        elif isinstance(patch, patches.Polygon) and _is_data(patch, axes):
            corners = patch.get_xy()
            for lies, half in ((lies, n) for lies in (False, True) for n in _halves(len(corners))):
                across, along = (corners[:half, ::-1] if lies else corners[:half]).T
                edges, level = across[::2], along[1:-1:2]
                if (edges == across[1::2]).all() and (level == along[2::2]).all():
                    yield {**one, "edges": edges, "counts": level, "horizontal": lies or None}
                    break


def _scatters(axes: Any) -> Iterator[dict[str, Any]]:
    names = _legend_names(axes)
    for points in axes.collections:
        # Those of filled contours lie where the data does, these where their offsets are.
        if not isinstance(points, collections.PathCollection) or _is_data(points, axes):
            continue
        at = points.get_offsets()
        tints = points.get_facecolor()
        if not len(at):
            continue
        groups: dict[Any, Any] = {_label(points): slice(None)}
        if names and len(tints) == len(at) <= MAX_POINTS:
            tints = [names.get(colors.to_hex(tint)) for tint in tints]
            if None not in tints:
                groups = {name: [tint == name for tint in tints] for name in dict.fromkeys(tints)}
        for label, of in groups.items():
            yield {"type": "scatter", "label": label, "x": at[of][:, 0], "y": at[of][:, 1]}


def _lines(axes: Any, bars: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    names = _legend_names(axes)
    labels: dict[Any, Any] = {}
    parts: list[Any] = []
    for one in axes.containers:
        if isinstance(one, (container.ErrorbarContainer, container.StemContainer)):
            line, *others = one
            labels[line] = _label(one)
            for other in others:
                parts.extend(other if isinstance(other, (tuple, list)) else [other])
    lies = any(one["horizontal"] for one in bars)
    width = max((one["width"] for one in bars), default=0.0)
    for line in axes.lines:
        x, y = line.get_xdata(orig=False), line.get_ydata(orig=False)
        is_line = line.get_linestyle() not in UNDRAWN and len(x) > 1
        drawn = is_line or line.get_marker() not in UNDRAWN
        if line in parts or not drawn or not (x + y == x + y).any() or not _is_data(line, axes):
            continue
        label = labels.get(line) or _label(line)
        across = (y if lies else x)[(x == x) & (y == y)]
        # The error bars that seaborn draws as lines, no wider than a bar.
        if not label and is_line and across.max() - across.min() <= width:
            continue
        label = label or names.get(_colour(line))
        yield {"type": "line" if is_line else "scatter", "label": label, "x": x, "y": y}


def _size(one: dict[str, Any]) -> int:
    """How many of MAX_POINTS a series takes."""
    boxes = sum(6 + len(box["outliers"]) for box in one.get("boxes", ()))
    cells = one["z"].size if "z" in one else 0
    return boxes + cells + sum(len(one[column]) for column in COLUMNS if column in one)


def _halved(one: dict[str, Any]) -> dict[str, Any]:
    """Every second point of a series; a histogram's bins are joined in pairs."""
    half = {**one, **{column: one[column][::2] for column in COLUMNS if column in one}}
    if "z" in one:
        half["z"] = one["z"][::2, ::2]
    if "boxes" in one:
        half["boxes"] = [{**box, "outliers": box["outliers"][::2]} for box in one["boxes"][::2]]
    if "counts" in one:
        counts = list(one["counts"])
        half["counts"] = [sum(counts[at : at + 2]) for at in range(0, len(counts), 2)]
        half["edges"] = [*one["edges"][: len(counts) : 2], one["edges"][-1]]
    return half


def _named_ticks(axis: Any) -> dict[float, str]:
    formatter, locator = axis.get_major_formatter(), axis.get_major_locator()
    fixed = isinstance(locator, ticker.FixedLocator) and isinstance(
        formatter, (ticker.FixedFormatter, ticker.FuncFormatter)
    )
    if not fixed and not isinstance(formatter, category.StrCategoryFormatter):
        return {}
    places = [float(place) for place in locator()]
    named = _pairs(places, formatter.format_ticks(places))
    return {place: _text(name) or "" for place, name in named if name != ""}


def _legend_names(axes: Any) -> dict[str, str]:
    """The legend's names by colour, of those that stand on no artist: seaborn labels none."""
    taken = {_label(artist) for artist in axes.containers}
    taken |= {_label(line) for line in axes.lines if len(line.get_xdata())}
    taken |= {_label(points) for points in axes.collections if len(points.get_offsets())}
    names = {}
    for legend in [axes.get_legend(), *axes.figure.legends]:
        if legend:
            new = hasattr(legend, "legend_handles")
            handles = legend.legend_handles if new else legend.legendHandles
            for handle, text in _pairs(handles, legend.get_texts()):
                if text.get_text() not in taken:
                    names[_colour(handle)] = text.get_text()
    return names


def _colour(artist: Any) -> str:
    colour = artist.get_color() if hasattr(artist, "get_color") else artist.get_facecolor()
    some = colors.to_rgba_array(colour)
    return str(colors.to_hex(some[0])) if len(some) else ""


def _is_data(artist: Any, axes: Any) -> bool:
    """Whether it is drawn in the axes' data, and not across them as by `axhline`."""
    return bool(artist.get_transform().contains_branch(axes.transData))


def _label(artist: Any) -> str | None:
    """What a legend would say of it, None where nothing."""
    label = artist.get_label()
    return None if label is None or str(label).startswith("_") else str(label)


def _data(line: Any, lies: bool) -> tuple[list[Any], list[Any]]:
    x, y = line.get_xdata(orig=False).tolist(), line.get_ydata(orig=False).tolist()
    return (y, x) if lies else (x, y)


def _halves(corners: int) -> tuple[int, ...]:
    """How many corners go along the tops of an outline's bins: an open one's, a closed one's."""
    return tuple(half for half in (corners, (corners + 3) // 2) if half > 5 and half % 2 == 0)


def _centres(first: float, last: float, cells: int) -> list[float]:
    return [first + (cell + 0.5) * (last - first) / cells for cell in range(cells)]


def _nearest(places: list[float], number: float) -> float:
    at = bisect_left(places, number)
    return min(places[max(0, at - 1) : at + 1], key=lambda place: abs(place - number))


def _numbers(values: Iterable[Any]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    """None for what is none in JSON, too: masked, or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str | None:
    """As much of it as is kept, without the lone surrogates that UTF-8 cannot hold."""
    text = "" if value is None else str(value)[:MAX_TEXT].encode("utf-8", "replace").decode()
    return text or None


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _pairs(some: Iterable[Any], others: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(some, others)  # noqa: B905 - Python 3.8 knows no `strict`
