"""What the tour prints, and the repository that it builds."""

from __future__ import annotations

import base64
import io
import tarfile

import pytest

from stack.api import Event
from stack.errors import TourFailed
from stack.progress import Progress
from stack.sample_project import FILES, sample_archive
from stack.status import render_table
from stack.tour import describe, follow


def test_a_stream_that_ends_in_complete_and_success_is_given_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = [
        Event(type="start"),
        Event(type="stdout", data="one\n"),
        Event(type="complete", conclusion="success", exit_code=0),
    ]

    seen = follow(iter(events))

    assert seen == events
    assert "stdout   one" in capsys.readouterr().out


@pytest.mark.parametrize(
    "events",
    [
        [],
        [Event(type="stdout", data="one\n")],
        [Event(type="complete", conclusion="failure", exit_code=1)],
        [Event(type="error", code="sandbox_lost", error="It ended.")],
    ],
    ids=["no event", "no terminal event", "failure", "error"],
)
def test_a_stream_that_ends_otherwise_fails_the_tour(events: list[Event]) -> None:
    with pytest.raises(TourFailed):
        follow(iter(events))


def test_a_plot_is_told_by_its_size() -> None:
    png = base64.b64encode(b"x" * 1234).decode()

    assert describe(Event(type="result", png=png)) == ["result   a PNG of 1,234 bytes"]


def test_the_sample_project_is_sent_along_with_all_its_files() -> None:
    sent = io.BytesIO(base64.b64decode(sample_archive()))

    with tarfile.open(fileobj=sent) as archive:
        assert archive.getnames() == list(FILES)


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert render_table([("program", "pid"), ("web", "12345")]) == "program  pid\nweb      12345"


def test_progress_tells_the_seconds_since_the_start() -> None:
    out = io.StringIO()
    times = iter([100.0, 112.34])
    progress = Progress(out, clock=lambda: next(times))

    progress("web: started")

    assert out.getvalue() == "[  12.3 s] web: started\n"
