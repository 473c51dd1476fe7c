"""The plotted data itself, beside the picture, of a figure that a cell shows.

Labels, units and scales are those of the axes as drawn. Data is bounded: of what is more, points
are left out evenly.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import msgspec

MAX_POINTS = 10_000
"""Numbers and names in one figure's data, all series and sub-plots together."""

MAX_SERIES = 40

MAX_CHARTS = 30
"""Sub-plots of a figure."""

MAX_TEXT = 500
"""Characters of a title, a label or a name."""

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Value = Number | Text | None
"""A number, a category's name or a date (ISO 8601); None for a number that is none, as NaN."""


class ChartType(StrEnum):
    LINE = "line"
    BAR = "bar"
    SCATTER = "scatter"
    PIE = "pie"
    HISTOGRAM = "histogram"
    BOX = "box"
    HEATMAP = "heatmap"
    MULTIPLE = "multiple"
    """Several axes: each is one of `charts`."""
    UNKNOWN = "unknown"
    """A figure whose data could not be read."""


class Scale(StrEnum):
    LINEAR = "linear"
    LOG = "log"
    TIME = "time"
    CATEGORY = "category"


class _Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class Box(_Part, frozen=True, kw_only=True):
    """One box of a box plot. `min` and `max` are the whiskers' ends."""

    label: Text | None = None
    min: Number
    q1: Number
    median: Number
    q3: Number
    max: Number
    outliers: list[Number] = []


class Series(_Part, frozen=True, kw_only=True):
    """What is drawn under one label: of the columns those that its type needs."""

    label: Text | None = None
    type: ChartType | None = None
    """None: the chart's."""
    horizontal: bool = False
    """Bars, bins or boxes lie: `x` is still the bars' categories, `y` their lengths."""
    x: list[Value] = []
    """Of lines, points and bars; of a heatmap the columns' names or centres."""
    y: list[Value] = []
    """As long as `x`; of a heatmap the rows' names or centres."""
    labels: list[Text] = []
    """Of a pie's wedges, "" for one that has none."""
    values: list[Number] = []
    """Of a pie's wedges. Matplotlib keeps their parts of the circle alone, from 0 to 1."""
    edges: list[Value] = []
    """Of a histogram's bins, one more than `counts`."""
    counts: list[Number] = []
    """The bins' heights: densities where the figure shows those."""
    boxes: list[Box] = []
    z: list[list[Number | None]] = []
    """A heatmap's rows, in the order of `y`, each as long as `x`."""

    def __post_init__(self) -> None:
        if not (
            len(self.y) == (len(self.z) if self.z else len(self.x))
            and all(len(row) == len(self.x) for row in self.z)
            and len(self.labels) == len(self.values)
            and len(self.edges) == (len(self.counts) + 1 if self.counts else 0)
        ):
            raise ValueError("columns of different lengths")

    @property
    def points(self) -> int:
        """How many of MAX_POINTS it takes."""
        columns = len(self.x) + len(self.y) + len(self.labels) + len(self.values)
        bins = len(self.edges) + len(self.counts)
        boxes = sum(6 + len(box.outliers) for box in self.boxes)
        return columns + bins + boxes + sum(len(row) for row in self.z)


class Chart(_Part, frozen=True, kw_only=True):
    """A figure, or one of its sub-plots."""

    type: ChartType
    library: Text
    """matplotlib, plotly, altair (all of Vega-Lite) or vega."""
    title: Text | None = None
    x_label: Text | None = None
    y_label: Text | None = None
    x_unit: Text | None = None
    """What stands in brackets at the label's end: "$" of "Sales ($)"."""
    y_unit: Text | None = None
    x_scale: Scale | None = None
    """None where it is another, or the chart has no such axis."""
    y_scale: Scale | None = None
    data: list[Series] = []
    charts: list[Chart] = []
    """Of `multiple`: the sub-plots with something drawn, in order, none of them `multiple`."""
    truncated: bool = False
    """Points, series or sub-plots were left out."""

    def __post_init__(self) -> None:
        if any(chart.charts for chart in self.charts):
            raise ValueError("sub-plots of a sub-plot")
        series = [*self.data, *(one for chart in self.charts for one in chart.data)]
        if len(self.data) > MAX_SERIES or len(self.charts) > MAX_CHARTS:
            raise ValueError("too many series or sub-plots")
        if sum(one.points for one in series) > MAX_POINTS:
            raise ValueError("too many points")
