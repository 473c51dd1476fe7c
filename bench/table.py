"""Writes a report as one table of plain text."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import Goal, Report, Row

HEADINGS = ("", "n", "median", "p95", "", "ratio", "to", "")
_RIGHT = (1, 2, 3, 5)


def render_table(report: Report) -> str:
    """The rows below their groups' names, then each goal, then what was left out."""
    cells = [HEADINGS, *(_cells(row) for row in report.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [report.title, "", _line(HEADINGS, widths)]
    group = ""
    for row in report.rows:
        if row.group != group:
            group = row.group
            lines += ["", group]
        lines.append(_line(_cells(row), widths))
    if report.goals:
        lines += ["", *(render_goal(goal) for goal in report.goals)]
    if report.left_out:
        lines += ["", *(f"left out: {reason}" for reason in report.left_out)]
    return "\n".join(lines) + "\n"


def render_goal(goal: Goal) -> str:
    sign = "≥" if goal.at_least else "≤"
    verdict = "met" if goal.is_met else "MISSED"
    measured = f"{number(goal.measured)} {goal.unit}"
    return f"{goal.name} = {measured} (goal {sign} {goal.bound:g}): {verdict}"


def number(value: float) -> str:
    """Three digits that count, and no more than a clock can tell."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    return (
        f"  {row.name}",
        str(row.summary.count),
        number(row.summary.median),
        # Of one sample there is no spread to tell.
        number(row.summary.p95) if row.summary.count > 1 else "",
        row.unit,
        "" if ratio is None else f"{number(ratio)} ×",
        "" if row.baseline is None else row.baseline.name,
        row.note,
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.rjust(width) if column in _RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()
