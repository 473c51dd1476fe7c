"""Writes a report as JSON, for comparing runs."""

from __future__ import annotations

import json

from bench.report import Goal, Report, Row


def render_json(report: Report) -> str:
    document = {
        "title": report.title,
        "rows": [_row(row) for row in report.rows],
        "goals": [_goal(goal) for goal in report.goals],
        "leftOut": list(report.left_out),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _row(row: Row) -> dict[str, object]:
    return {
        "group": row.group,
        "name": row.name,
        "unit": row.unit,
        "count": row.summary.count,
        "median": row.summary.median,
        "p95": row.summary.p95,
        "baseline": None if row.baseline is None else row.baseline.name,
        "ratio": row.ratio,
        "note": row.note,
        "ours": row.ours,
    }


def _goal(goal: Goal) -> dict[str, object]:
    return {
        "name": goal.name,
        "measured": goal.measured,
        "unit": goal.unit,
        "atLeast" if goal.at_least else "atMost": goal.bound,
        "met": goal.is_met,
    }
