"""The data of real Matplotlib figures, as a reader of the protocol gets it."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest

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

pytest.importorskip("matplotlib")
Figure: Any = importlib.import_module("matplotlib.figure").Figure
reader: Any = importlib.import_module("sandbox_runtime.interpreters.matplotlib_charts")

Draw = Callable[[Any], object]


def chart_of(figure: Any) -> Chart:
    found = reader.chart_of(figure)
    json.dumps(found, allow_nan=False)
    return msgspec.convert(found, Chart)


def drawn(draw: Draw) -> Chart:
    figure = Figure()
    draw(figure.subplots())
    return chart_of(figure)


def bars_with_names(axes: Any) -> None:
    axes.bar([-0.2, 0.8], [1, 2], 0.4, label="A", yerr=0.1, capsize=2)
    axes.bar([0.2, 1.2], [3, 4], 0.4, label="B")
    axes.set_xticks([0, 1])
    axes.set_xticklabels(["p", "q"])
    axes.axhline(1)


def bar_and_line(axes: Any) -> None:
    axes.bar([1, 3], [1, 2])
    axes.plot([1, 3], [2, 1], label="over")


def named_image(axes: Any) -> None:
    axes.imshow([[1, math.nan], [3, 4]])
    axes.set_xticks([0, 1])
    axes.set_xticklabels(["a", "b"])


def test_the_reader_keeps_the_bounds_of_the_protocol() -> None:
    bounds = (reader.MAX_POINTS, reader.MAX_SERIES, reader.MAX_CHARTS, reader.MAX_TEXT)

    assert bounds == (MAX_POINTS, MAX_SERIES, MAX_CHARTS, MAX_TEXT)


def test_lines_have_their_axes_and_helper_lines_are_none() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [3, math.nan], label="A")
    axes.plot([1, 2], [3, 4], "o")
    axes.axvline(1)
    axes.axline((0, 0), slope=1)
    axes.set(xlabel="Time [s]", ylabel="Sales ($)", yscale="log")
    figure.suptitle("T")

    assert chart_of(figure) == Chart(
        type=ChartType.LINE,
        library="matplotlib",
        title="T",
        x_label="Time [s]",
        x_unit="s",
        x_scale=Scale.LINEAR,
        y_label="Sales ($)",
        y_unit="$",
        y_scale=Scale.LOG,
        data=[
            Series(label="A", x=[1.0, 2.0], y=[3.0, None]),
            Series(type=ChartType.SCATTER, x=[1.0, 2.0], y=[3.0, 4.0]),
        ],
    )


def test_dates_are_iso_8601_and_categories_names() -> None:
    dates = drawn(lambda axes: axes.plot([datetime(2024, 1, 1, 12), datetime(2024, 1, 2)], [1, 2]))
    names = drawn(lambda axes: axes.scatter([1, 2], ["a", "b"]))

    assert (dates.x_scale, names.y_scale) == (Scale.TIME, Scale.CATEGORY)
    assert dates.data[0].x == ["2024-01-01T12:00:00", "2024-01-02T00:00:00"]
    assert names.data[0].y == ["a", "b"]


@pytest.mark.parametrize(
    ("draw", "type_", "data"),
    [
        (
            bars_with_names,
            ChartType.BAR,
            [
                Series(label="A", x=["p", "q"], y=[1.0, 2.0]),
                Series(label="B", x=["p", "q"], y=[3.0, 4.0]),
            ],
        ),
        (
            bar_and_line,
            ChartType.BAR,
            [
                Series(x=[1.0, 3.0], y=[1.0, 2.0]),
                Series(type=ChartType.LINE, label="over", x=[1.0, 3.0], y=[2.0, 1.0]),
            ],
        ),
        (
            lambda axes: axes.barh(["a", "b"], [1, 2]),
            ChartType.BAR,
            [Series(x=["a", "b"], y=[1.0, 2.0], horizontal=True)],
        ),
        (
            lambda axes: axes.bar(["a", "b"], [1, 2], width=1),
            ChartType.BAR,
            [Series(x=["a", "b"], y=[1.0, 2.0])],
        ),
        (
            lambda axes: axes.hist([1, 2, 2, 5], bins=[1, 2, 5], label="h"),
            ChartType.HISTOGRAM,
            [Series(label="h", edges=[1.0, 2.0, 5.0], counts=[1.0, 3.0])],
        ),
        (
            lambda axes: axes.hist([1, 2, 2, 5], bins=[1, 2, 5], orientation="horizontal"),
            ChartType.HISTOGRAM,
            [Series(edges=[1.0, 2.0, 5.0], counts=[1.0, 3.0], horizontal=True)],
        ),
        (
            lambda axes: axes.hist([1, 2, 2, 5], bins=[1, 2, 5], histtype="step"),
            ChartType.HISTOGRAM,
            [Series(edges=[1.0, 2.0, 5.0], counts=[1.0, 3.0])],
        ),
        (
            lambda axes: axes.hist([1, 2, 2, 5], bins=[1, 2, 5], histtype="stepfilled"),
            ChartType.HISTOGRAM,
            [Series(edges=[1.0, 2.0, 5.0], counts=[1.0, 3.0])],
        ),
        (
            lambda axes: axes.stairs([1, 3], [1, 2, 5]),
            ChartType.HISTOGRAM,
            [Series(edges=[1.0, 2.0, 5.0], counts=[1.0, 3.0])],
        ),
        (
            lambda axes: axes.pie([1, 3], labels=["a", "b"], autopct="%d"),
            ChartType.PIE,
            [Series(labels=["a", "b"], values=[0.25, 0.75])],
        ),
        (
            lambda axes: axes.errorbar([1, 2], [3, 4], yerr=0.1, capsize=2, label="E"),
            ChartType.LINE,
            [Series(label="E", x=[1.0, 2.0], y=[3.0, 4.0])],
        ),
        (
            lambda axes: axes.stem([1, 2], [3, 4]),
            ChartType.SCATTER,
            [Series(x=[1.0, 2.0], y=[3.0, 4.0])],
        ),
        (
            named_image,
            ChartType.HEATMAP,
            [Series(x=["a", "b"], y=[0.0, 1.0], z=[[1.0, None], [3.0, 4.0]])],
        ),
        (
            lambda axes: axes.imshow([[1, 2]], extent=(0, 10, 0, 4), origin="lower"),
            ChartType.HEATMAP,
            [Series(x=[2.5, 7.5], y=[2.0], z=[[1.0, 2.0]])],
        ),
        (
            lambda axes: axes.pcolormesh([0, 1, 3], [0, 2], [[1, 2]]),
            ChartType.HEATMAP,
            [Series(x=[0.5, 2.0], y=[1.0], z=[[1.0, 2.0]])],
        ),
    ],
)
def test_what_is_drawn_becomes_series(draw: Draw, type_: ChartType, data: list[Series]) -> None:
    found = drawn(draw)

    assert (found.type, found.data) == (type_, data)


@pytest.mark.parametrize("patch_artist", [False, True])
@pytest.mark.parametrize(
    ("options", "outliers"),
    [
        ({}, [20.0]),
        ({"notch": True, "showmeans": True}, [20.0]),
        ({"showcaps": False}, [20.0]),
        ({"showmeans": True, "meanline": True, "showfliers": False}, []),
    ],
)
def test_boxes_are_read_back_however_they_are_drawn(
    patch_artist: bool, options: dict[str, Any], outliers: list[float]
) -> None:
    def draw(axes: Any) -> None:
        axes.boxplot([[1, 2, 3, 4, 20], [2, 2]], patch_artist=patch_artist, **options)

    (series,) = drawn(draw).data

    assert series.boxes == [
        Box(label="1", min=1, q1=2, median=3, q3=4, max=4, outliers=outliers),
        Box(label="2", min=2, q1=2, median=2, q3=2, max=2),
    ]


def test_several_axes_are_sub_plots_and_a_colour_bar_is_none() -> None:
    figure = Figure()
    first, second, _ = figure.subplots(1, 3)
    first.plot([1, 2], [3, 4])
    figure.colorbar(second.scatter([1, 2], [3, 4], c=[5, 6]), ax=second)
    second.set_title("second")
    figure.suptitle("T")

    found = chart_of(figure)

    assert (found.type, found.title) == (ChartType.MULTIPLE, "T")
    kinds = [(chart.type, chart.title) for chart in found.charts]
    assert kinds == [(ChartType.LINE, None), (ChartType.SCATTER, "second")]


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes: None,
        lambda axes: axes.text(0, 0, "x"),
        lambda axes: axes.fill_between([1, 2], [1, 2]),
        lambda axes: axes.axvspan(1, 2),
        lambda axes: axes.contourf([[1, 2], [3, 4]]),
        lambda axes: axes.imshow([[[0, 0, 0], [1, 1, 1]]]),
        lambda axes: axes.plot([1, 2], [3, 4], linestyle=""),
    ],
)
def test_a_figure_with_nothing_known_has_no_chart(draw: Draw) -> None:
    figure = Figure()
    draw(figure.subplots())

    assert reader.chart_of(figure) is None


def test_points_over_the_bound_are_left_out_evenly() -> None:
    line = drawn(lambda axes: axes.plot(range(20_000)))
    image = drawn(lambda axes: axes.imshow([[1.0] * 301] * 200))

    assert line.truncated
    assert line.data[0].y[:2] == [0.0, 4.0]
    assert image.truncated
    assert (len(image.data[0].x), len(image.data[0].y)) == (76, 50)


def test_bins_over_the_bound_are_joined_and_none_is_lost() -> None:
    found = drawn(lambda axes: axes.stairs([1] * 9999, range(10_000)))

    assert sum(found.data[0].counts) == 9999


def test_too_many_series_and_sub_plots_are_left_out() -> None:
    figure = Figure()
    for axes in figure.subplots(8, 8).flat:
        axes.plot([[1.0] * (MAX_SERIES + 1)] * 2)

    found = chart_of(figure)

    assert found.truncated
    assert [len(chart.data) for chart in found.charts] == [MAX_SERIES] * MAX_CHARTS


def test_texts_are_cut_and_can_be_read() -> None:
    found = drawn(lambda axes: axes.plot([1, 2], label="\ud800" + "x" * 1000))

    assert found.data[0].label == "?" + "x" * (MAX_TEXT - 1)


def test_an_artist_of_the_users_own_that_fails_costs_its_axes_alone() -> None:
    class Broken(importlib.import_module("matplotlib.lines").Line2D):  # type: ignore[misc]
        def get_xdata(self, orig: bool = True) -> Any:
            raise RuntimeError("user code")

    figure = Figure()
    first, second = figure.subplots(2)
    first.add_artist(Broken([1], [1]))
    second.plot([1, 2])

    assert chart_of(figure).type is ChartType.LINE


@pytest.mark.filterwarnings("ignore")
def test_what_pandas_draws_has_its_names_and_periods() -> None:
    pandas = pytest.importorskip("pandas")
    months = pandas.period_range("2024-01", periods=2, freq="M")
    table = pandas.DataFrame({"a": [1, 2], "b": [3, 4]}, index=months)

    lines = drawn(lambda axes: table.plot(ax=axes))
    bars = drawn(lambda axes: table.set_index([["p", "q"]]).plot.bar(ax=axes))

    assert lines.x_scale is Scale.TIME
    assert lines.data[1].x == ["2024-01-01T00:00:00", "2024-02-01T00:00:00"]
    assert bars.data == [
        Series(label="a", x=["p", "q"], y=[1.0, 2.0]),
        Series(label="b", x=["p", "q"], y=[3.0, 4.0]),
    ]


@pytest.mark.filterwarnings("ignore")
def test_what_seaborn_draws_is_named_by_its_legend() -> None:
    seaborn = pytest.importorskip("seaborn")
    columns = {"day": list("ppqq"), "shop": list("abab"), "sold": [1.0, 2, 3, 4]}
    table = importlib.import_module("pandas").DataFrame(columns)

    bars = drawn(lambda axes: seaborn.barplot(table, x="day", y="sold", hue="shop", ax=axes))
    points = drawn(lambda axes: seaborn.scatterplot(table, x="sold", y="sold", hue="shop", ax=axes))

    assert bars.data == [
        Series(label="a", x=["p", "q"], y=[1.0, 3.0]),
        Series(label="b", x=["p", "q"], y=[2.0, 4.0]),
    ]
    assert [series.label for series in points.data] == ["a", "b"]
