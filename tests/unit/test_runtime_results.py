"""What a kernel shows, as results: every value bounded, and JSON that any reader takes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from sandbox_runtime.cell_events import on_one_line, size_of
from sandbox_runtime.delegate_messages import Shown
from sandbox_runtime.kernel_client import bundle_from
from sandbox_runtime.protocol.codec import encode
from sandbox_runtime.protocol.events import Display, Result
from sandbox_runtime.results import MAX_VALUE_BYTES, shown
from tests.unit.mime_bundles import bundle_of


def result_from(data: Mapping[str, object], *, is_main: bool) -> Result:
    result = shown(bundle_from(dict(data)), is_main=is_main)
    assert isinstance(result, Result)
    return result


def test_every_mime_type_of_one_output_is_in_one_result() -> None:
    data = {
        "text/plain": "p",
        "text/html": "h",
        "text/markdown": "m",
        "text/latex": "l",
        "application/javascript": "j",
        "image/svg+xml": ["<svg>", "</svg>"],
        "image/png": "UE5H\n",
        "image/jpeg": "SlBH\n",
        "application/pdf": "UERG\n",
        "application/json": {"a": [1, None]},
    }

    result = result_from(data, is_main=True)

    assert msgspec.json.decode(encode(result)) == {
        "timestamp": "",
        "type": "result",
        "isMain": True,
        "text": "p",
        "html": "h",
        "markdown": "m",
        "latex": "l",
        "javascript": "j",
        "svg": "<svg></svg>",
        "png": "UE5H",
        "jpeg": "SlBH",
        "pdf": "UERG",
        "json": {"a": [1, None]},
    }


def test_what_can_be_told_of_again_names_its_place() -> None:
    told = shown(bundle_of({"text/plain": "50 %"}), is_main=False, display_id="bar", update=True)

    assert told == Display(timestamp="", text="50 %", display_id="bar", update=True)


def test_a_table_is_told_as_data() -> None:
    table = {"schema": {"fields": [{"name": "n", "type": "integer"}]}, "data": [{"n": 1}]}

    told = shown(bundle_of({"application/vnd.dataresource+json": table}), is_main=True)

    assert msgspec.json.decode(encode(told))["data"] == table


def test_a_figure_is_told_as_a_chart() -> None:
    figure = {"data": [{"type": "bar", "x": ["a"], "y": [1]}], "layout": {"title": "T"}}

    chart = shown(bundle_of({"application/vnd.plotly.v1+json": figure}), is_main=True).chart

    assert chart is not None
    assert (chart.type, chart.title, chart.data[0].y) == ("bar", "T", [1.0])


def test_a_value_that_is_too_large_is_left_out_and_named() -> None:
    data = {"text/plain": "p", "image/png": "A" * MAX_VALUE_BYTES}

    result = result_from(data, is_main=False)

    assert result.png is None
    assert result.text == "p\n[image/png of 10,485,762 bytes is left out: over 10,485,760 bytes]"


def test_all_values_together_are_bounded() -> None:
    data = {"text/html": "h" * 6_000_000, "image/png": "A" * 6_000_000, "text/plain": "p"}

    result = result_from(data, is_main=False)

    assert len(result.html or "") == 6_000_000
    assert result.png is None


def test_an_output_of_unknown_types_names_them() -> None:
    assert result_from({"application/x-a": 1}, is_main=False).text == "[application/x-a]"


def nested(levels: int) -> object:
    return 1 if levels == 0 else [nested(levels - 1)]


@pytest.mark.parametrize(
    "value",
    ["\ud800", {"\udfff": 1}, ["a", "\udc80"], 2**70, nested(500), float("nan"), [None, True]],
)
def test_whatever_json_a_kernel_shows_the_event_can_be_read(value: object) -> None:
    result = result_from({"application/json": value, "text/plain": "p"}, is_main=False)

    decoded = msgspec.json.decode(encode(result), type=type(result))
    assert (decoded.text or "").startswith("p")


def test_a_lone_surrogate_is_replaced_and_a_pair_joined() -> None:
    assert (
        result_from({"text/plain": "\ud83d\ude00 \ud800"}, is_main=False).text
        == "\U0001f600 \ufffd"
    )


@pytest.mark.parametrize("value", [None, 5, {"a": 1}, ["a", 1]])
def test_a_text_that_is_none_is_refused(value: object) -> None:
    assert result_from({"text/html": value}, is_main=False).html is None


def shown_as(value: bytes) -> Result | Display:
    """What becomes of a value that a kernel of the user's own has written."""
    report = b'{"type":"shown","is_main":true,"data":{"text/plain":"p","application/json":%b}}'
    told = msgspec.json.decode(report % value, type=Shown)
    return on_one_line(shown(told.data, is_main=told.is_main))


def test_a_value_is_told_on_one_line_and_holds_nothing_else_of_its_report() -> None:
    told = shown_as(b'{ "a" :\n [1,\r\n2] }')

    assert b'"json":{"a":[1,2]}' in encode(told)
    assert size_of(told) < 300


@pytest.mark.parametrize("value", [b'"\xff"', b'["\xed\xa0\x80"]'])
def test_a_value_that_is_no_text_is_left_out_and_named(value: bytes) -> None:
    told = shown_as(value)

    assert told.text == "p\n[json is left out: not JSON]"
    assert b'"json"' not in encode(told)


def test_a_text_that_is_not_utf8_is_left_out_and_named() -> None:
    report = b'{"type":"shown","is_main":true,"data":{"text/plain":"\xff"}}'

    told = msgspec.json.decode(report, type=Shown)

    assert shown(told.data, is_main=True).text == "[text/plain is left out: not a text]"


def test_the_size_of_a_result_is_about_what_it_takes_on_the_wire() -> None:
    told = shown(bundle_of({"text/html": "ä" * 1000, "application/json": [1] * 1000}), is_main=True)

    assert len(encode(told)) <= size_of(told) <= len(encode(told)) + 200
