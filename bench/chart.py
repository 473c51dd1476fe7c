"""Draws a report as an SVG of horizontal bars, readable on light and on dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from xml.sax.saxutils import escape

from bench.report import Report, Row, Unit
from bench.table import number

WIDTH = 860
MARGIN = 24
NAME_WIDTH = 300
VALUE_WIDTH = 190
BAR_HEIGHT = 16
ROW_HEIGHT = 26
TITLE_HEIGHT = 34
GROUP_HEIGHT = 40
MIN_BAR = 2.0

# The system's own fonts; colours that a reader of either theme can tell apart, by lightness too.
_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
  .title { font-size: 12px; fill: #57606a; }
  .group { font-weight: 600; font-size: 14px; }
  .value { font-variant-numeric: tabular-nums; }
  .ours { fill: #0969da; }
  .theirs { fill: #afb8c1; }
  .spread { stroke: #57606a; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .title { fill: #9da7b3; }
    .ours { fill: #4493f8; }
    .theirs { fill: #6e7681; }
    .spread { stroke: #9da7b3; }
  }
"""


def render_chart(report: Report) -> str:
    """A panel for each group of times, each with a scale of its own; a whisker ends at the p95."""
    times = [row for row in report.rows if row.unit is Unit.MS]
    panels = [(name, list(rows)) for name, rows in groupby(times, key=lambda row: row.group)]
    height = MARGIN * 2 + TITLE_HEIGHT
    height += sum(GROUP_HEIGHT + ROW_HEIGHT * len(rows) for _, rows in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{_attribute(report.title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 10}">{escape(report.title)}</text>',
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 28}">'
        "Median in milliseconds, whisker to the 95th percentile; shorter is better. "
        "Blue: Coldframe.</text>",
    ]
    top = MARGIN + TITLE_HEIGHT
    for name, rows in panels:
        lines.append(f'<text class="group" x="{MARGIN}" y="{top + 28}">{escape(name)}</text>')
        top += GROUP_HEIGHT
        lines += _bars(rows, top)
        top += ROW_HEIGHT * len(rows)
    return "\n".join([*lines, "</svg>", ""])


def _bars(rows: Sequence[Row], top: int) -> list[str]:
    left = MARGIN + NAME_WIDTH
    room = WIDTH - left - VALUE_WIDTH - MARGIN
    longest = max(max(row.summary.median, row.summary.p95) for row in rows) or 1.0
    lines = []
    for place, row in enumerate(rows):
        y = top + place * ROW_HEIGHT
        bar = max(MIN_BAR, row.summary.median / longest * room)
        whisker = max(bar, row.summary.p95 / longest * room)
        middle = y + ROW_HEIGHT / 2
        lines += [
            f'<text x="{left - 10}" y="{middle + 4.5:.1f}" text-anchor="end">'
            f"{escape(row.name)}</text>",
            f'<rect class="{"ours" if row.ours else "theirs"}" x="{left}" '
            f'y="{middle - BAR_HEIGHT / 2:.1f}" width="{bar:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            f'<path class="spread" fill="none" d="M{left + bar:.1f} {middle:.1f}'
            f'H{left + whisker:.1f}m0 -4v8"/>',
            f'<text class="value" x="{left + whisker + 10:.1f}" y="{middle + 4.5:.1f}">'
            f"{escape(_value(row))}</text>",
        ]
    return lines


def _value(row: Row) -> str:
    text = f"{number(row.summary.median)} ms"
    return f"{text} · {row.note}" if row.note else text


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
