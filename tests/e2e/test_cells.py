"""What cells of each language give, in a real container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client
from tests.e2e.cells import JAVASCRIPT, PYTHON, TYPESCRIPT, Cell

FORMS = ("text", "html", "markdown", "latex", "svg", "png", "jpeg", "data")


@pytest.fixture(scope="module")
def box(api: Client) -> str:
    api.sandbox("cells")
    return "cells"


def shown(results: list[dict[str, Any]]) -> Iterator[str]:
    for result in results:
        yield from (form for form in FORMS if form in result)
        if "chart" in result:
            yield f"chart:{result['chart']['type']}"


def check(cell: Cell, run: dict[str, Any]) -> None:
    values = [one for one in run["results"] if one.get("isMain")]
    logs, raised = run["logs"], run.get("exception")
    said = f"{raised['name']}: {raised['value']}" if raised else ""
    assert "".join(logs["stdout"]) == cell.stdout
    assert "".join(logs["stderr"]) == cell.stderr
    assert said.startswith(cell.exception) if cell.exception else not said
    assert run["conclusion"] == ("failure" if cell.exception else "success")
    if cell.text is not None:
        assert values[0]["text"] == cell.text
    assert [one["json"] for one in run["results"] if "json" in one] == (
        [] if cell.json is None else [cell.json]
    )
    if cell.forms:
        assert set(cell.forms) <= set(shown(run["results"]))
    elif cell.text is None and cell.json is None:
        assert not run["results"]


@pytest.mark.parametrize(
    ("language", "cells"),
    [("python", PYTHON), ("javascript", JAVASCRIPT), ("typescript", TYPESCRIPT)],
)
def test_each_cell_gives_what_it_says(
    api: Client, box: str, language: str, cells: list[Cell]
) -> None:
    wrong = []
    counts = []

    for cell in cells:
        run = api.code(box, cell.code, language=language)
        counts.append(run["executionCount"])
        try:
            check(cell, run)
        except AssertionError as error:
            wrong.append(f"{cell.code!r}: {error}\n{run}")

    assert not wrong, "\n\n".join(wrong)
    assert len(counts) >= 20
