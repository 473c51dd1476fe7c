"""Reads the plotted data out of what a cell shows: a chart of our own, Plotly's or Vega-Lite's.

The bundle comes from the user's interpreter, so anything may be in it. It is written as JSON, which
refuses what no JSON can hold, and read again by type; a trace or view of another form is left out.
"""

from __future__ import annotations

import base64
import math
import re
import statistics
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from sandbox_runtime.protocol.charts import (
    MAX_CHARTS,
    MAX_POINTS,
    MAX_SERIES,
    MAX_TEXT,
    Box,
    Chart,
    ChartType,
    Scale,
    Series,
    Value,
)

OWN_MIME = "application/vnd.coldframe.chart+json"
PLOTLY_MIME = "application/vnd.plotly.v1+json"

MAX_FIGURE_BYTES = 512 * 1024
"""Of a figure's JSON; of a larger one is said that there was one."""

MAX_ROWS = 10_000
"""Of a Vega-Lite view; Altair refuses more than 5000 by itself."""

MAX_FIGURE_ROWS = 50_000
"""Of its views together, which may share their rows."""

DEFAULT_BINS = 10
MAX_BINS = 1000

_VEGA_MIME = re.compile(r"application/vnd\.vega(lite)?\.v\d+[.+]json")
_UNIT = re.compile(r"[(\[]([^()\[\]]+)[)\]]\s*$")
_DATE = re.compile(r"\d{4}-\d\d(-\d\d|$)")

_SCALES = {
    "linear": Scale.LINEAR,
    "quantitative": Scale.LINEAR,
    "log": Scale.LOG,
    "date": Scale.TIME,
    "temporal": Scale.TIME,
    "category": Scale.CATEGORY,
    "nominal": Scale.CATEGORY,
    "ordinal": Scale.CATEGORY,
}

_TYPED = {"f8": "d", "f4": "f", "i4": "i", "u4": "I", "i2": "h", "u2": "H", "i1": "b", "u1": "B"}
"""Plotly's names of number formats by those of `struct`."""

_MARKS = {
    "line": ChartType.LINE,
    "trail": ChartType.LINE,
    "area": ChartType.LINE,
    "bar": ChartType.BAR,
    "point": ChartType.SCATTER,
    "circle": ChartType.SCATTER,
    "square": ChartType.SCATTER,
    "arc": ChartType.PIE,
    "rect": ChartType.HEATMAP,
    "boxplot": ChartType.BOX,
}

_AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": lambda numbers: sum(numbers) / len(numbers),
    "average": lambda numbers: sum(numbers) / len(numbers),
    "median": statistics.median,
    "min": min,
    "max": max,
}

_Plain = float | str | bool | None


class _TypedArray(msgspec.Struct, frozen=True):
    dtype: str
    bdata: str
    shape: str = ""


_Column = list[_Plain] | _TypedArray | None


class _Trace(msgspec.Struct, frozen=True):
    type: str = "scatter"
    name: str | None = None
    mode: str = "lines"
    orientation: str = "v"
    x: _Column = None
    y: _Column = None
    z: list[list[_Plain] | _TypedArray] | _TypedArray | None = None
    labels: _Column = None
    values: _Column = None
    xaxis: str = "x"
    yaxis: str = "y"
    nbinsx: int | None = None
    nbinsy: int | None = None
    visible: Any = True


class _PlotlyFigure(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    layout: dict[str, Any] = {}


class _Channel(msgspec.Struct, frozen=True, rename="camel"):
    """What a Vega-Lite view draws its data's field as."""

    field: str | None = None
    type: str | None = None
    aggregate: Any = None
    bin: Any = None
    time_unit: Any = None
    title: Any = msgspec.UNSET
    axis: Any = None
    scale: Any = None

    @property
    def is_length(self) -> bool:
        return bool(self.aggregate) or (self.type == "quantitative" and not self.bin)


class _Encoding(msgspec.Struct, frozen=True):
    x: _Channel = _Channel()
    y: _Channel = _Channel()
    color: _Channel = _Channel()
    theta: _Channel = _Channel()
    row: Any = None
    column: Any = None
    facet: Any = None


class _Mark(msgspec.Struct, frozen=True):
    type: str


class _VegaData(msgspec.Struct, frozen=True):
    name: str = ""
    values: list[Any] = []


class _View(msgspec.Struct, frozen=True):
    mark: str | _Mark
    encoding: _Encoding = _Encoding()
    data: _VegaData = _VegaData()
    transform: Any = None


class _Axis(msgspec.Struct, frozen=True):
    label: str | None = None
    kind: Any = None
    """The library's word for its scale, where it says one."""


class _Plot(msgspec.Struct):
    """One sub-plot as found, not bounded yet, each series with its type."""

    series: list[Series]
    x: _Axis
    y: _Axis
    title: str | None = None
    truncated: bool = False


_OWN_DECODER = msgspec.json.Decoder(Chart)
_PLOTLY_DECODER = msgspec.json.Decoder(_PlotlyFigure)
_TRACE_DECODER = msgspec.json.Decoder(_Trace)
_VEGA_DECODER = msgspec.json.Decoder(dict[str, Any])


def chart_from(bundle: Mapping[str, msgspec.Raw]) -> Chart | None:
    """The chart of a MIME bundle; None where it shows none, or one that nobody could read."""
    for mime in sorted(bundle, key=lambda mime: mime != OWN_MIME):
        vega = _VEGA_MIME.fullmatch(mime)
        if mime not in (OWN_MIME, PLOTLY_MIME) and not vega:
            continue
        library = "plotly" if mime == PLOTLY_MIME else "altair" if vega and vega[1] else "vega"
        figure = bundle[mime]
        if memoryview(figure).nbytes > MAX_FIGURE_BYTES:
            return Chart(type=ChartType.UNKNOWN, library=library, truncated=True)
        try:
            if mime == OWN_MIME:
                return _OWN_DECODER.decode(figure)
            if mime == PLOTLY_MIME:
                return _plotly(_PLOTLY_DECODER.decode(figure))
            return _vega(_VEGA_DECODER.decode(figure), library)
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
            continue
    return None


def _plotly(figure: _PlotlyFigure) -> Chart:
    plots: dict[tuple[str, str], _Plot] = {}
    for number, raw in enumerate(figure.data):
        try:
            trace = _TRACE_DECODER.decode(raw)
            series = _trace_series(trace)
        except (msgspec.ValidationError, ValueError):
            continue
        place = (f"pie {number}", "") if trace.type == "pie" else (trace.xaxis, trace.yaxis)
        if series and trace.visible is True:
            x, y = (_plotly_axis(figure.layout, axis) for axis in place)
            plots.setdefault(place, _Plot(series=[], x=x, y=y)).series.append(series)
    return _figure("plotly", _title(figure.layout.get("title")), list(plots.values()))


def _plotly_axis(layout: dict[str, Any], name: str) -> _Axis:
    axis = layout.get(f"{name[:1]}axis{name[1:]}")
    if not isinstance(axis, dict):
        return _Axis()
    return _Axis(label=_title(axis.get("title")), kind=axis.get("type"))


def _trace_series(trace: _Trace) -> Series | None:
    x, y = _values(trace.x), _values(trace.y)
    label = _name(trace.name) or None
    lies = trace.orientation == "h"
    match trace.type:
        case "scatter" | "scattergl":
            kind = ChartType.LINE if "lines" in trace.mode else ChartType.SCATTER
            return _columns(kind, label, x or _count(len(y)), y)
        case "bar":
            x, y = (y, x) if lies else (x, y)
            return _columns(ChartType.BAR, label, x or _count(len(y)), y, lies)
        case "histogram":
            # Plotly keeps the values alone, and finds the bins when it draws.
            at_most = trace.nbinsx if x else trace.nbinsy
            return _histogram(label, x or y, at_most, horizontal=not x)
        case "box":
            names, lengths = (y, x) if lies or not y else (x, y)
            names = names or [label or ""] * len(lengths)
            return _boxes(label, names, lengths, horizontal=lies or not y)
        case "pie":
            labels = _values(trace.labels)
            parts = _values(trace.values) or [1.0] * len(labels)
            return _pie(labels or _count(len(parts)), parts) if parts else None
        case "heatmap":
            rows = _rows(trace.z)
            width = min(map(len, rows), default=0)
            x = x if len(x) == width else _count(width)
            y = y if len(y) == len(rows) else _count(len(rows))
            z = [[_number(cell) for cell in row[:width]] for row in rows]
            return Series(type=ChartType.HEATMAP, label=label, x=x, y=y, z=z) if width else None
    return None


def _vega(spec: dict[str, Any], library: str) -> Chart:
    title = _title(spec.get("title"))
    if library == "vega":  # It says how to draw, not what the data means.
        return Chart(type=ChartType.UNKNOWN, library=library, title=title)
    views = _leaves(spec, ("hconcat", "vconcat", "concat"), MAX_CHARTS + 1)
    plots = []
    left_rows = MAX_FIGURE_ROWS
    for view in views:
        plot = _Plot(series=[], x=_Axis(), y=_Axis(), title=_title(view.get("title")))
        for layer in _leaves(view, ("layer",), MAX_SERIES + 1):
            try:
                drawn = msgspec.convert(layer, _View)
                values = _view_values(drawn, spec.get("datasets"))
                rows = values[: min(MAX_ROWS, left_rows)]
                left_rows -= len(rows)
                plot.truncated = plot.truncated or len(rows) < len(values)
                _draw_view(plot, drawn, msgspec.convert(rows, list[dict[str, _Plain]]))
            except (msgspec.ValidationError, ValueError):
                continue
        plots.append(plot)
    return _figure(library, title, plots)


def _leaves(view: dict[str, Any], keys: tuple[str, ...], most: int) -> list[dict[str, Any]]:
    """The innermost views under `keys`, in order, each with the data and channels of the outer.

    The first `most` of them.
    """
    leaves: list[dict[str, Any]] = []
    left = [view]
    while left and len(leaves) < most:
        view = left.pop()
        inner = next((view[key] for key in keys if isinstance(view.get(key), list)), None)
        if inner is None:
            leaves.append(view)
            continue
        for one in reversed(inner[:most]):
            if isinstance(one, dict):
                outer, own = view.get("encoding"), one.get("encoding")
                channels = {**_known(outer), **_known(own)}
                kept = {key: one.get(key) or view.get(key) or {} for key in ("data", "transform")}
                left.append({**one, **kept, "encoding": channels})
    return leaves


def _known(encoding: Any) -> dict[str, Any]:
    channels = encoding if isinstance(encoding, dict) else {}
    return {name: channels[name] for name in _Encoding.__struct_fields__ if name in channels}


def _view_values(view: _View, datasets: Any) -> list[Any]:
    named = datasets.get(view.data.name) if isinstance(datasets, dict) else None
    return view.data.values or (named if isinstance(named, list) else [])


def _draw_view(plot: _Plot, view: _View, rows: list[dict[str, _Plain]]) -> None:
    """Adds what `view` draws of `rows` to `plot`."""
    encoding = view.encoding
    x, y = encoding.x, encoding.y
    if any((view.transform, encoding.row, encoding.column, encoding.facet)):
        return
    if x.time_unit or y.time_unit or encoding.color.time_unit:
        return
    series = _view_series(view, rows)
    plot.series += series
    if series and series[0].type is not ChartType.PIE:
        plot.x, plot.y = _vega_axis(plot.x, x), _vega_axis(plot.y, y)


def _vega_axis(found: _Axis, channel: _Channel) -> _Axis:
    if found.label is not None or found.kind is not None:
        return found
    label = channel.field
    if isinstance(channel.aggregate, str):
        label = f"{channel.aggregate.capitalize()} of {channel.field or 'Records'}"
    if channel.title is not msgspec.UNSET:
        label = _title(channel.title)
    elif isinstance(channel.axis, dict) and "title" in channel.axis:
        label = _title(channel.axis["title"])
    scale = channel.scale.get("type") if isinstance(channel.scale, dict) else None
    return _Axis(label=_title(label), kind=scale or channel.type)


def _view_series(view: _View, rows: list[dict[str, _Plain]]) -> list[Series]:
    kind = _MARKS.get(view.mark if isinstance(view.mark, str) else view.mark.type)
    encoding = view.encoding
    color = encoding.color
    horizontal = encoding.x.is_length and not encoding.y.is_length
    across, along = (encoding.y, encoding.x) if horizontal else (encoding.x, encoding.y)
    if kind is ChartType.PIE:
        labels, parts = _drawn(rows, color, encoding.theta)
        return [_pie(labels, parts)] if parts else []
    if kind is ChartType.HEATMAP:
        return _cells(rows, encoding)
    splits = color.type in ("nominal", "ordinal", None) and color.field not in (None, across.field)
    groups: dict[str | None, list[dict[str, _Plain]]] = {}
    for row in rows:
        name = _name(_value(row.get(color.field or ""))) if splits else None
        groups.setdefault(name, []).append(row)
    series: list[Series | None] = []
    for label, some in groups.items():
        if kind is ChartType.BAR and across.bin and along.aggregate == "count":
            numbers = [_value(row.get(across.field or "")) for row in some]
            wish = across.bin.get("maxbins") if isinstance(across.bin, dict) else None
            at_most = wish if isinstance(wish, int) else None
            series.append(_histogram(label, numbers, at_most, horizontal=horizontal))
        elif kind is ChartType.BOX:
            names, lengths = _drawn(some, across, along)
            series.append(_boxes(label, names, lengths, horizontal=horizontal))
        elif kind and not across.bin:
            names, lengths = _drawn(some, across, along)
            lies = horizontal and kind is ChartType.BAR
            if horizontal and not lies:
                names, lengths = lengths, names
            series.append(_columns(kind, label, names, lengths, lies))
    return [one for one in series if one]


def _drawn(
    rows: list[dict[str, _Plain]], across: _Channel, along: _Channel
) -> tuple[list[Value], list[Value]]:
    """The positions of `rows` and their lengths there, aggregated where `along` says so."""
    if across.aggregate:
        return [], []
    names = [_value(row.get(across.field or "")) for row in rows]
    if not along.aggregate:
        lengths = [_value(row.get(along.field or "")) for row in rows]
        return (names, lengths) if along.field else ([], [])
    groups: dict[Value, list[dict[str, _Plain]]] = {}
    for name, row in zip(names, rows, strict=True):
        groups.setdefault(name, []).append(row)
    known = along.aggregate == "count" or str(along.aggregate) in _AGGREGATES
    return (list(groups), [_length(some, along) for some in groups.values()]) if known else ([], [])


def _length(rows: list[dict[str, _Plain]], channel: _Channel) -> float | None:
    """Of all `rows` together; where the channel aggregates nothing, the last one's."""
    if channel.aggregate == "count":
        return float(len(rows))
    found = [_number(row.get(channel.field or "")) for row in rows]
    numbers = [number for number in found if number is not None]
    function = _AGGREGATES.get(str(channel.aggregate))
    if not numbers or function is None:
        return found[-1]
    return _number(function(numbers))


def _cells(rows: list[dict[str, _Plain]], encoding: _Encoding) -> list[Series]:
    """A heatmap of one cell for each pair of names, None where no row has both."""
    x, y, color = encoding.x, encoding.y, encoding.color
    if x.field is None or y.field is None or x.bin or y.bin:
        return []
    groups: dict[tuple[Value, Value], list[dict[str, _Plain]]] = {}
    for row in rows:
        place = (_value(row.get(x.field)), _value(row.get(y.field)))
        groups.setdefault(place, []).append(row)
    names = list(dict.fromkeys(name for name, _ in groups))
    # More than is kept, but not the product of all names that there are.
    levels = list(dict.fromkeys(level for _, level in groups))
    levels = levels[: max(1, 4 * MAX_POINTS // max(1, len(names)))]
    cells = {place: _length(some, color) for place, some in groups.items()}
    z = [[cells.get((name, level)) for name in names] for level in levels]
    return [Series(type=ChartType.HEATMAP, x=names, y=levels, z=z)] if names else []


def _columns(
    kind: ChartType, label: str | None, x: list[Value], y: list[Value], horizontal: bool = False
) -> Series | None:
    both = min(len(x), len(y))
    if not both:
        return None
    return Series(type=kind, label=label, x=x[:both], y=y[:both], horizontal=horizontal)


def _pie(labels: list[Value], parts: list[Value]) -> Series:
    """Wedges of one name are one, as Plotly and Vega-Lite draw them."""
    sums: dict[str, float] = {}
    for label, part in zip(labels, parts, strict=False):
        name = _name(label)
        sums[name] = _number(sums.get(name, 0.0) + (_number(part) or 0.0)) or 0.0
    return Series(type=ChartType.PIE, labels=list(sums), values=list(sums.values()))


def _histogram(
    label: str | None, values: list[Value], at_most: int | None, *, horizontal: bool
) -> Series | None:
    """Counts in bins of 1, 2 or 5 tens, as Plotly and Vega-Lite choose them; names are counted."""
    if any(isinstance(value, str) for value in values):
        found = Counter(_name(value) for value in values if value is not None)
        lengths: list[Value] = [float(count) for count in found.values()]
        return _columns(ChartType.BAR, label, list(found), lengths, horizontal)
    numbers = [value for value in values if isinstance(value, float)]
    if not numbers:
        return None
    low, high = min(numbers), max(numbers)
    edges: list[Value] = [low - 0.5, high + 0.5]
    counts = [float(len(numbers))]
    if 1e-300 < high - low < 1e300:
        bins = min(max(at_most or DEFAULT_BINS, 1), MAX_BINS)
        power = 10.0 ** math.floor(math.log10((high - low) / bins))
        wide = (power * tens for tens in (1, 2, 5) if power * tens * bins >= high - low)
        step = next(wide, power * 10)
        first = math.floor(low / step) * step
        counts = [0.0] * max(1, math.ceil((high - first) / step))
        edges = [first + step * edge for edge in range(len(counts) + 1)]
        for number in numbers:
            counts[max(0, min(int((number - first) / step), len(counts) - 1))] += 1.0
    kind = ChartType.HISTOGRAM
    return Series(type=kind, label=label, edges=edges, counts=counts, horizontal=horizontal)


def _boxes(
    label: str | None, names: list[Value], lengths: list[Value], *, horizontal: bool
) -> Series | None:
    groups: dict[str, list[float]] = {}
    for name, length in zip(names, lengths, strict=False):
        number = _number(length)
        if number is not None:
            groups.setdefault(_name(name), []).append(number)
    boxes = [_box(name or None, sorted(numbers)) for name, numbers in groups.items()]
    if not boxes:
        return None
    return Series(type=ChartType.BOX, label=label, boxes=boxes, horizontal=horizontal)


def _box(label: str | None, ordered: list[float]) -> Box:
    """Quartiles by linear interpolation, whiskers as far as 1.5 times what is between them."""
    q1, median, q3 = (_quantile(ordered, part) for part in (0.25, 0.5, 0.75))
    reach = 1.5 * (q3 - q1)
    inside = [number for number in ordered if q1 - reach <= number <= q3 + reach] or ordered
    low, high = inside[0], inside[-1]
    outliers = [number for number in ordered if not low <= number <= high]
    return Box(label=label, min=low, q1=q1, median=median, q3=q3, max=high, outliers=outliers)


def _quantile(ordered: list[float], part: float) -> float:
    at = part * (len(ordered) - 1)
    below = math.floor(at)
    weight = at - below
    return ordered[below] * (1 - weight) + ordered[math.ceil(at)] * weight


def _figure(library: str, title: str | None, plots: list[_Plot]) -> Chart:
    """The chart of what is drawn in `plots`, within the bounds."""
    drawn = [plot for plot in plots if plot.series]
    if not drawn:
        return Chart(type=ChartType.UNKNOWN, library=library, title=title)
    shown = drawn[:MAX_CHARTS]
    charts = [_chart(library, plot, MAX_POINTS // len(shown)) for plot in shown]
    if len(charts) == 1:
        return replace(charts[0], title=title or charts[0].title)
    more = len(drawn) > len(shown)
    kind = ChartType.MULTIPLE
    return Chart(type=kind, library=library, title=title, charts=charts, truncated=more)


def _chart(library: str, plot: _Plot, share: int) -> Chart:
    """One sub-plot, of `share` points at most."""
    series = plot.series[:MAX_SERIES]
    truncated = plot.truncated or len(plot.series) > len(series)
    while sum(one.points for one in series) > share:
        series = [_halved(one) for one in series]
        truncated = True
    kind = series[0].type or ChartType.UNKNOWN
    units = [_UNIT.search(axis.label or "") for axis in (plot.x, plot.y)]
    x_unit, y_unit = (unit[1].strip() if unit else None for unit in units)
    x_scale, y_scale = _scales(plot, series[0])
    return Chart(
        type=kind,
        library=library,
        title=plot.title,
        x_label=plot.x.label,
        y_label=plot.y.label,
        x_unit=x_unit,
        y_unit=y_unit,
        x_scale=x_scale,
        y_scale=y_scale,
        data=[replace(one, type=None) if one.type is kind else one for one in series],
        truncated=truncated,
    )


def _halved(one: Series) -> Series:
    """Every second point; a histogram's bins are joined in pairs."""
    edges = [*one.edges[: len(one.counts) : 2], *one.edges[-1:]]
    return replace(
        one,
        x=one.x[::2],
        y=one.y[::2],
        labels=one.labels[::2],
        values=one.values[::2],
        edges=edges,
        counts=[sum(one.counts[at : at + 2]) for at in range(0, len(one.counts), 2)],
        boxes=[replace(box, outliers=box.outliers[::2]) for box in one.boxes[::2]],
        z=[row[::2] for row in one.z[::2]],
    )


def _scales(plot: _Plot, one: Series) -> tuple[Scale | None, Scale | None]:
    """What the library says; else what the first series looks like."""
    if one.type is ChartType.PIE:
        return None, None
    across = one.x or one.edges or [box.label for box in one.boxes]
    along = one.y or [0.0]
    if one.horizontal:
        across, along = along, across
    pairs = ((plot.x.kind, across), (plot.y.kind, along))
    x, y = (_SCALES.get(kind) if isinstance(kind, str) else None for kind, _ in pairs)
    return x or _look(across), y or _look(along)


def _look(values: list[Value]) -> Scale | None:
    names = [value for value in values if isinstance(value, str)]
    if names:
        return Scale.TIME if all(map(_DATE.match, names)) else Scale.CATEGORY
    return Scale.LINEAR if any(value is not None for value in values) else None


def _rows(z: list[list[_Plain] | _TypedArray] | _TypedArray | None) -> list[list[Value]]:
    if not isinstance(z, _TypedArray):
        return [_values(row) for row in z or []]
    cells = _values(z)
    width = int(z.shape.split(",")[-1])
    if width <= 0:
        raise ValueError("rows of no cells")
    return [cells[at : at + width] for at in range(0, len(cells), width)]


def _values(column: _Column) -> list[Value]:
    if isinstance(column, _TypedArray):
        data = base64.b64decode(column.bdata)
        code = _TYPED.get(column.dtype, "f")
        count = len(data) // struct.calcsize(code)
        column = list(struct.unpack_from(f"<{count}{code}", data))
    return [_value(value) for value in column or []]


def _value(value: _Plain) -> Value:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value)


def _number(value: _Plain) -> float | None:
    return float(value) if isinstance(value, float | int) and math.isfinite(value) else None


def _name(value: Value) -> str:
    return f"{value:.15g}" if isinstance(value, float) else (value or "")[:MAX_TEXT]


def _title(value: Any) -> str | None:
    """Plotly's and Vega-Lite's titles: a text, its lines, or one of them with its look."""
    if isinstance(value, dict):
        value = value.get("text")
    if isinstance(value, list):
        value = " ".join(line for line in value if isinstance(line, str))
    return value[:MAX_TEXT] or None if isinstance(value, str) else None


def _count(length: int) -> list[Value]:
    return [float(number) for number in range(length)]
