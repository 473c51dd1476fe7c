"""The data of what a cell shows: of every kind of chart, bounded, and whatever the bundle holds."""

from __future__ import annotations

import base64
import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_runtime.charts import (
    MAX_FIGURE_BYTES,
    MAX_FIGURE_ROWS,
    MAX_ROWS,
    OWN_MIME,
    PLOTLY_MIME,
    chart_from,
)
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
)
from sandbox_runtime.protocol.codec import encode
from tests.unit.mime_bundles import bundle_of

ALTAIR_MIME = "application/vnd.vegalite.v5+json"

ROWS = [
    {"day": "mon", "shop": "a", "sold": 1},
    {"day": "tue", "shop": "a", "sold": 2},
    {"day": "mon", "shop": "b", "sold": 3},
    {"day": "tue", "shop": "b", "sold": 6},
]
DAY = {"field": "day", "type": "nominal"}
SHOP = {"field": "shop", "type": "nominal"}
SOLD = {"field": "sold", "type": "quantitative"}


def chart(mime: str, value: object) -> Chart:
    found = chart_from(bundle_of({"text/plain": "p", mime: value}))
    assert found is not None
    assert msgspec.json.decode(encode(found), type=Chart) == found
    return found


def plotly(*traces: dict[str, Any], **layout: object) -> Chart:
    return chart(PLOTLY_MIME, {"data": list(traces), "layout": layout})


def altair(mark: object, rows: list[Any] = ROWS, **encoding: object) -> Chart:
    return chart(ALTAIR_MIME, {"mark": mark, "encoding": encoding, "data": {"values": rows}})


def typed(code: str, dtype: str, *numbers: float, **more: str) -> dict[str, str]:
    data = struct.pack(f"<{len(numbers)}{code}", *numbers)
    return {"dtype": dtype, "bdata": base64.b64encode(data).decode(), **more}


def nested(levels: int, key: str) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "line", "library": "x"}
    for _ in range(levels):
        value = {"type": "multiple", "library": "x", key: [value]}
    return value


def test_a_bundle_without_a_figure_has_no_chart() -> None:
    assert chart_from(bundle_of({"text/plain": "p", "application/json": {"data": []}})) is None


def test_a_chart_of_our_own_is_taken_before_all_others() -> None:
    own = {"type": "line", "library": "matplotlib", "data": [{"x": [1, "a"], "y": [None, 2]}]}

    found = chart_from(bundle_of({PLOTLY_MIME: {"data": []}, OWN_MIME: own}))

    data = [Series(x=[1.0, "a"], y=[None, 2.0])]
    assert found == Chart(type=ChartType.LINE, library="matplotlib", data=data)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "nothing"},
        {"title": "x" * (MAX_TEXT + 1)},
        {"title": "\ud800"},
        {"data": [{"x": [1.0], "y": [1.0, 2.0]}]},
        {"data": [{"edges": [1.0], "counts": [1.0]}]},
        {"data": [{"x": [1.0], "y": [1.0], "z": [[1.0, 2.0]]}]},
        {"data": [{"x": [1.0] * MAX_POINTS, "y": [1.0] * MAX_POINTS}]},
        {"data": [{}] * (MAX_SERIES + 1)},
        {"data": [{"labels": ["a"], "values": [float("nan")]}]},
        {"charts": [{"type": "line", "library": "x"}] * (MAX_CHARTS + 1)},
        {"charts": [nested(1, "charts")]},
        {"charts": [nested(300, "charts")]},
    ],
)
def test_a_chart_of_our_own_that_breaks_the_agreement_is_none(changes: dict[str, Any]) -> None:
    assert chart_from(bundle_of({OWN_MIME: {"type": "line", "library": "x", **changes}})) is None


def test_plotly_lines_and_points_have_their_axes() -> None:
    found = plotly(
        {"name": "A", "x": ["2024-01-01", "2024-01-02"], "y": typed("d", "f8", 1.5, float("nan"))},
        {"type": "scattergl", "mode": "markers", "y": [3, 4]},
        title={"text": "T"},
        xaxis={"title": {"text": "Day"}},
        yaxis={"title": "Sales ($)", "type": "log"},
    )

    assert found == Chart(
        type=ChartType.LINE,
        library="plotly",
        title="T",
        x_label="Day",
        y_label="Sales ($)",
        y_unit="$",
        x_scale=Scale.TIME,
        y_scale=Scale.LOG,
        data=[
            Series(label="A", x=["2024-01-01", "2024-01-02"], y=[1.5, None]),
            Series(type=ChartType.SCATTER, x=[0.0, 1.0], y=[3.0, 4.0]),
        ],
    )


@pytest.mark.parametrize(
    ("trace", "type_", "series"),
    [
        ({"type": "bar", "x": ["a"], "y": [1]}, ChartType.BAR, Series(x=["a"], y=[1.0])),
        (
            {"type": "bar", "orientation": "h", "x": [1], "y": ["a"]},
            ChartType.BAR,
            Series(x=["a"], y=[1.0], horizontal=True),
        ),
        (
            {"type": "pie", "labels": ["a", "b", "a"], "values": typed("b", "i1", 1, 2, 3)},
            ChartType.PIE,
            Series(labels=["a", "b"], values=[4.0, 2.0]),
        ),
        (
            {"type": "histogram", "x": [0, 1, None, 1, 4], "nbinsx": 2},
            ChartType.HISTOGRAM,
            Series(edges=[0.0, 2.0, 4.0], counts=[3.0, 1.0]),
        ),
        (
            {"type": "histogram", "y": ["a", "b", "a"]},
            ChartType.BAR,
            Series(x=["a", "b"], y=[2.0, 1.0], horizontal=True),
        ),
        (
            {"type": "histogram", "x": [7, 7]},
            ChartType.HISTOGRAM,
            Series(edges=[6.5, 7.5], counts=[2.0]),
        ),
        (
            {"type": "box", "name": "A", "y": [1, 2, 3, 4, 5, 30]},
            ChartType.BOX,
            Series(
                label="A",
                boxes=[Box(label="A", min=1, q1=2.25, median=3.5, q3=4.75, max=5, outliers=[30.0])],
            ),
        ),
        (
            {"type": "heatmap", "z": typed("h", "i2", 1, 2, 3, 4, shape="2, 2"), "x": ["a", "b"]},
            ChartType.HEATMAP,
            Series(x=["a", "b"], y=[0.0, 1.0], z=[[1.0, 2.0], [3.0, 4.0]]),
        ),
        (
            {"type": "heatmap", "z": [[1, None], [3, True]]},
            ChartType.HEATMAP,
            Series(x=[0.0, 1.0], y=[0.0, 1.0], z=[[1.0, None], [3.0, None]]),
        ),
    ],
)
def test_plotly_traces_become_series(
    trace: dict[str, Any], type_: ChartType, series: Series
) -> None:
    found = plotly(trace)

    assert (found.type, found.data) == (type_, [series])


def test_plotly_traces_on_other_axes_are_sub_plots() -> None:
    found = plotly(
        {"y": [1]},
        {"y": [2], "xaxis": "x2", "yaxis": "y2"},
        {"type": "bar", "y": [3], "xaxis": "x2", "yaxis": "y2"},
        title="T",
        xaxis2={"title": "second"},
    )

    assert (found.type, found.title) == (ChartType.MULTIPLE, "T")
    first, second = found.charts
    assert (first.x_label, second.x_label) == (None, "second")
    assert [one.type for one in second.data] == [None, ChartType.BAR]


@pytest.mark.parametrize(
    "trace",
    [
        {"type": "violin", "y": [1]},
        {"type": "pie"},
        {"y": [{"a": 1}]},
        {"y": {"dtype": "f8", "bdata": "!"}},
        {"y": {"dtype": "zz", "bdata": "AA"}},
        {"type": "heatmap", "z": {"dtype": "f8", "bdata": "", "shape": "a"}},
        {"y": [1], "visible": "legendonly"},
    ],
)
def test_a_plotly_figure_that_is_not_understood_is_unknown(trace: dict[str, Any]) -> None:
    assert plotly(trace, title="T") == Chart(type=ChartType.UNKNOWN, library="plotly", title="T")


def test_a_trace_of_another_form_leaves_the_others() -> None:
    found = plotly({"y": 5}, {"y": [1]})

    assert found.data == [Series(x=[0.0], y=[1.0])]


@pytest.mark.parametrize(
    ("mark", "encoding", "type_", "series"),
    [
        (
            "line",
            {"x": DAY, "y": SOLD, "color": SHOP},
            ChartType.LINE,
            [
                Series(label="a", x=["mon", "tue"], y=[1.0, 2.0]),
                Series(label="b", x=["mon", "tue"], y=[3.0, 6.0]),
            ],
        ),
        (
            {"type": "bar"},
            {"x": {**SOLD, "aggregate": "mean"}, "y": DAY},
            ChartType.BAR,
            [Series(x=["mon", "tue"], y=[2.0, 4.0], horizontal=True)],
        ),
        (
            "bar",
            {"x": DAY, "y": {"aggregate": "count"}},
            ChartType.BAR,
            [Series(x=["mon", "tue"], y=[2.0, 2.0])],
        ),
        (
            "bar",
            {"x": {**SOLD, "bin": {"maxbins": 3}}, "y": {"aggregate": "count"}},
            ChartType.HISTOGRAM,
            [Series(edges=[0.0, 2.0, 4.0, 6.0], counts=[1.0, 2.0, 1.0])],
        ),
        (
            "circle",
            {"x": SOLD, "y": SOLD},
            ChartType.SCATTER,
            [Series(x=[1.0, 2.0, 3.0, 6.0], y=[1.0, 2.0, 3.0, 6.0])],
        ),
        (
            "arc",
            {"theta": SOLD, "color": DAY},
            ChartType.PIE,
            [Series(labels=["mon", "tue"], values=[4.0, 8.0])],
        ),
        (
            "rect",
            {"x": DAY, "y": SHOP, "color": {**SOLD, "aggregate": "sum"}},
            ChartType.HEATMAP,
            [Series(x=["mon", "tue"], y=["a", "b"], z=[[1.0, 2.0], [3.0, 6.0]])],
        ),
        (
            "boxplot",
            {"x": SHOP, "y": SOLD},
            ChartType.BOX,
            [
                Series(
                    boxes=[
                        Box(label="a", min=1, q1=1.25, median=1.5, q3=1.75, max=2),
                        Box(label="b", min=3, q1=3.75, median=4.5, q3=5.25, max=6),
                    ]
                )
            ],
        ),
    ],
)
def test_vega_lite_marks_become_series(
    mark: object, encoding: dict[str, Any], type_: ChartType, series: list[Series]
) -> None:
    found = altair(mark, **encoding)

    assert (found.type, found.library, found.data) == (type_, "altair", series)


def test_vega_lite_axes_are_named_as_they_are_drawn() -> None:
    found = altair(
        "point",
        x={**SOLD, "title": "Mass [kg]", "scale": {"type": "log"}},
        y={**SOLD, "aggregate": "max"},
    )

    assert (found.x_label, found.x_unit, found.x_scale) == ("Mass [kg]", "kg", Scale.LOG)
    assert (found.y_label, found.y_unit, found.y_scale) == ("Max of sold", None, Scale.LINEAR)


@pytest.mark.parametrize("mime", [ALTAIR_MIME, "application/vnd.vegalite.v6.json"])
def test_vega_lite_layers_are_series_and_views_side_by_side_sub_plots(mime: str) -> None:
    layered = {
        "layer": [{"mark": "bar", "encoding": {"y": SOLD}}, {"mark": "line"}, {"mark": "rule"}],
        "encoding": {"x": DAY, "y": {**SOLD, "aggregate": "sum"}},
        "title": ["one", "two"],
    }
    single = {"mark": "point", "encoding": {"x": DAY, "y": SOLD}}
    spec = {"hconcat": [layered, {"vconcat": [single]}], "data": {"name": "d"}, "title": "T"}

    found = chart(mime, {**spec, "datasets": {"d": ROWS}})

    assert (found.type, found.title) == (ChartType.MULTIPLE, "T")
    first, second = found.charts
    assert (first.title, first.type) == ("one two", ChartType.BAR)
    assert first.data[1] == Series(type=ChartType.LINE, x=["mon", "tue"], y=[4.0, 8.0])
    assert second.type is ChartType.SCATTER


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"mark": "geoshape"},
        {"mark": 5},
        {"mark": "bar", "encoding": {"x": DAY, "y": SOLD}, "data": {"url": "x.csv"}},
        {"mark": "bar", "encoding": {"x": DAY, "y": {**SOLD, "aggregate": "stdev"}}},
        {"mark": "bar", "encoding": {"x": DAY, "y": {**SOLD, "aggregate": {"argmax": "a"}}}},
        {"mark": "bar", "encoding": {"x": {**DAY, "timeUnit": "year"}, "y": SOLD}},
        {"mark": "bar", "encoding": {"x": DAY, "y": SOLD}, "transform": [{"filter": "false"}]},
        {"mark": "bar", "encoding": {"x": DAY, "y": SOLD, "row": SHOP}},
        {"facet": SHOP, "spec": {"mark": "bar", "encoding": {"x": DAY, "y": SOLD}}},
        {"layer": [5, {"mark": "bar"}]},
    ],
)
def test_a_vega_lite_chart_that_is_not_understood_is_unknown(spec: dict[str, Any]) -> None:
    found = chart(ALTAIR_MIME, {"data": {"values": ROWS}, "title": "T", **spec})

    assert found == Chart(type=ChartType.UNKNOWN, library="altair", title="T")


def test_of_vega_the_title_alone_is_known() -> None:
    found = chart("application/vnd.vega.v5+json", {"title": {"text": "T"}, "marks": []})

    assert found == Chart(type=ChartType.UNKNOWN, library="vega", title="T")


def test_points_over_the_bound_are_left_out_evenly() -> None:
    found = plotly({"y": list(range(20_000))})

    assert found.truncated
    assert found.data[0].y[:3] == [0.0, 4.0, 8.0]
    assert len(found.data[0].y) == 5000


def test_bins_over_the_bound_are_joined_and_none_is_lost() -> None:
    traces = [{"type": "histogram", "x": list(range(999)), "nbinsx": 999}] * 6

    found = plotly(*traces)

    assert found.truncated
    assert [sum(one.counts) for one in found.data] == [999.0] * 6


def test_a_heatmap_over_the_bound_keeps_its_form() -> None:
    found = plotly({"type": "heatmap", "z": [[1.0] * 301] * 200})

    (series,) = found.data
    assert (len(series.x), len(series.y)) == (76, 50)


def test_sub_plots_share_the_bound_and_too_many_are_left_out() -> None:
    boxes = [
        {"type": "box", "y": [*range(9), 99], "xaxis": f"x{number}"} for number in range(MAX_CHARTS)
    ]
    lines = [{"y": list(range(1000)), "xaxis": "x99"}]

    found = plotly(*boxes * (MAX_SERIES + 1), *lines)

    assert found.truncated
    assert len(found.charts) == MAX_CHARTS
    assert [len(one.data) for one in found.charts] == [MAX_SERIES] * MAX_CHARTS


def test_long_texts_are_cut() -> None:
    found = plotly({"name": "n" * 1000, "x": ["x" * 1000], "y": [1]}, title="t" * 1000)

    (series,) = found.data
    lengths = {len(str(text)) for text in (found.title, series.label, series.x[0])}
    assert lengths == {MAX_TEXT}


def test_views_within_views_are_read_as_one() -> None:
    spec: dict[str, Any] = {"mark": "point", "encoding": {"x": DAY, "y": SOLD}}
    for _ in range(100):
        spec = {"layer": [spec]}

    assert chart(ALTAIR_MIME, {**spec, "data": {"values": ROWS}}).type is ChartType.SCATTER


@pytest.mark.parametrize("mime", [OWN_MIME, PLOTLY_MIME, ALTAIR_MIME])
@pytest.mark.parametrize("value", [None, 5, "a", [], 2**70, float("nan"), "\ud800", {1: 2}])
def test_what_is_no_figure_gives_no_data(mime: str, value: object) -> None:
    found = chart_from(bundle_of({mime: value}))

    assert found is None or (found.type is ChartType.UNKNOWN and not found.data)


NUMBERS = st.one_of(st.floats(), st.integers(), st.sampled_from([1e308, -1e308, 5e-324]))
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
JSON = st.recursive(
    PLAIN, lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(), part, max_size=4)
)
COLUMN = st.one_of(st.lists(NUMBERS, max_size=8), st.lists(PLAIN, max_size=8), JSON)


def parts(**of: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the names of `of`, each of its values or, at times, of any other."""
    return st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(some) | JSON for name, some in of.items()}
    )


TRACE = st.builds(
    lambda trace, columns: {**trace, **columns},
    parts(
        type=["scatter", "bar", "pie", "histogram", "box", "heatmap"],
        orientation=["v", "h"],
        mode=["markers"],
        nbinsx=[0, -1, 5, 10**9],
        xaxis=["x", "x2", ""],
    ),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("x", "y", "labels", "values"), COLUMN) | {"z": JSON}
    ),
)
CHANNEL = parts(
    field=["a", "b"],
    type=["nominal", "quantitative", "temporal"],
    aggregate=["count", "mean", "median"],
    bin=[True, {"maxbins": 3}],
)
VIEW = st.fixed_dictionaries(
    {
        "mark": st.sampled_from(["line", "bar", "point", "arc", "rect", "boxplot"]) | JSON,
        "encoding": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("x", "y", "color", "theta"), CHANNEL)
        ),
        "data": st.fixed_dictionaries(
            {"values": st.lists(st.fixed_dictionaries({"a": PLAIN, "b": PLAIN}), max_size=6)}
        ),
    }
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.dictionaries(st.sampled_from([OWN_MIME, PLOTLY_MIME, ALTAIR_MIME]), JSON),
        st.builds(
            lambda data, layout: {PLOTLY_MIME: {"data": data, "layout": layout}},
            st.lists(TRACE, max_size=4),
            st.dictionaries(st.sampled_from(["title", "xaxis", "yaxis"]), JSON),
        ),
        VIEW.map(lambda view: {ALTAIR_MIME: view}),
    )
)
def test_whatever_is_shown_the_chart_of_it_can_be_read(bundle: dict[str, Any]) -> None:
    found = chart_from(bundle_of(bundle))

    assert found is None or msgspec.json.decode(encode(found), type=Chart) == found


def test_a_figure_that_is_too_large_is_named_and_not_read() -> None:
    found = plotly({"y": [1.25] * (MAX_FIGURE_BYTES // 4)})

    assert (found.type, found.library, found.truncated) == (ChartType.UNKNOWN, "plotly", True)


@pytest.mark.parametrize("shape", ["2,-3", "6,0", ",", "x"])
def test_cells_of_a_shape_that_is_none_are_left_out(shape: str) -> None:
    z = typed("d", "f8", *map(float, range(6)), shape=shape)

    assert plotly({"type": "heatmap", "z": z}).data == []


def test_views_that_share_their_rows_share_what_may_be_read_of_them() -> None:
    rows = [{"a": float(number), "b": 1.0} for number in range(MAX_ROWS)]
    channels = {axis: {"field": field, "type": "quantitative"} for axis, field in ("xa", "yb")}
    view = {"mark": "point", "encoding": channels}
    many = 2 * MAX_FIGURE_ROWS // MAX_ROWS
    spec = {"data": {"name": "d"}, "datasets": {"d": rows}, "hconcat": [view] * many}

    found = chart(ALTAIR_MIME, spec)

    assert len(found.charts) == MAX_FIGURE_ROWS // MAX_ROWS


@pytest.mark.parametrize("key", ["hconcat", "layer"])
def test_views_without_end_take_no_more_than_the_figure_itself(key: str) -> None:
    figure = msgspec.Raw(b'{"%s":[%s]}' % (key.encode(), b",".join([b"{}"] * 150_000)))

    tracemalloc.start()
    try:
        chart_from({"application/vnd.vegalite.v5+json": figure})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # The figure as Python has it: a dictionary and its place in a list for each view.
    assert peak < 150_000 * 100
