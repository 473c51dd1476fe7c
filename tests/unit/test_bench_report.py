"""The table, the chart and the JSON of a report."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from bench.chart import WIDTH, render_chart
from bench.report import Baseline, Goal, Part, Report, Row, Unit, joined, single
from bench.report_json import render_json
from bench.summary import Summary
from bench.table import number, render_goal, render_table

OURS = Row("Warm", "exec <ours>", Summary(200, 5.0, 7.5), baseline=Baseline("no-op", 2.5))
THEIRS = Row(
    "Warm",
    "docker exec",
    Summary(200, 100.0, 140.0),
    baseline=Baseline("exec", 5.0),
    ours=False,
)
MEMORY = Row("Memory", "web", single(61.25), Unit.MIB, note="idle")
SPEEDUP = Goal("docker / exec", 20.0, "x", 15.0, at_least=True)
REPORT = Report("a machine", (OURS, THEIRS, MEMORY), (SPEEDUP,), ("1000 readers: no room",))

SVG = "{http://www.w3.org/2000/svg}"


def test_the_table_has_a_line_for_each_row_below_its_group() -> None:
    lines = render_table(REPORT).splitlines()

    assert [line.split() for line in lines if line] == [
        ["a", "machine"],
        ["n", "median", "p95", "ratio", "to"],
        ["Warm"],
        ["exec", "<ours>", "200", "5.00", "7.50", "ms", "2.00", "×", "no-op"],
        ["docker", "exec", "200", "100", "140", "ms", "20.0", "×", "exec"],
        ["Memory"],
        ["web", "1", "61.2", "MiB", "idle"],
        ["docker", "/", "exec", "=", "20.0", "x", "(goal", "≥", "15):", "met"],
        ["left", "out:", "1000", "readers:", "no", "room"],
    ]


def test_the_tables_numbers_stand_below_each_other() -> None:
    lines = render_table(REPORT).splitlines()

    ends = {line.index("ms") for line in lines if " ms " in line}

    assert len(ends) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (456.7, "457")]
)
def test_numbers_are_written_with_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("measured", "at_least", "verdict"),
    [(4.0, False, "met"), (4.1, False, "MISSED"), (4.0, True, "met"), (3.9, True, "MISSED")],
)
def test_a_goal_says_whether_it_is_met(measured: float, at_least: bool, verdict: str) -> None:
    goal = Goal("extra", measured, "ms", 4.0, at_least=at_least)

    assert render_goal(goal).endswith(f"4): {verdict}")


def test_a_row_without_baseline_has_no_ratio() -> None:
    assert MEMORY.ratio is None


def test_parts_are_joined_in_their_order() -> None:
    report = joined("t", [Part(rows=(THEIRS,), left_out=("x",)), Part(rows=(OURS,))])

    assert report == Report("t", (THEIRS, OURS), (), ("x",))


def test_the_chart_is_well_formed_and_holds_a_bar_for_each_time() -> None:
    root = ElementTree.fromstring(render_chart(REPORT))

    bars = {bar.get("class"): float(bar.get("width", "")) for bar in root.iter(f"{SVG}rect")}
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert bars["theirs"] == pytest.approx(bars["ours"] * 20, rel=0.02)
    assert "exec <ours>" in texts
    assert "5.00 ms" in texts
    assert "web" not in texts


def test_the_chart_keeps_every_bar_and_whisker_left_of_its_value() -> None:
    root = ElementTree.fromstring(render_chart(REPORT))

    values = [text for text in root.iter(f"{SVG}text") if text.get("class") == "value"]
    assert all(float(value.get("x", "")) < WIDTH - 100 for value in values)


def test_the_chart_knows_light_and_dark_grounds() -> None:
    assert "prefers-color-scheme: dark" in render_chart(REPORT)


def test_the_json_holds_each_row_with_its_ratio() -> None:
    document = json.loads(render_json(REPORT))

    assert [row["ratio"] for row in document["rows"]] == [2.0, 20.0, None]
    assert document["goals"][0] == {
        "name": "docker / exec",
        "measured": 20.0,
        "unit": "x",
        "atLeast": 15.0,
        "met": True,
    }
    assert document["leftOut"] == ["1000 readers: no room"]
