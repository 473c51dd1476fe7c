"""What the tour prints, and the repository that it builds."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from stack.api import Event
from stack.errors import TourFailed
from stack.ports import accepts
from stack.progress import Progress
from stack.sample_repository import FILES, sample_repository
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


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_sample_repository_can_be_cloned_as_long_as_it_is_served(tmp_path: Path) -> None:
    with sample_repository(tmp_path / "served", "127.0.0.1") as url:
        subprocess.run(
            ["git", "clone", "--quiet", url, str(tmp_path / "clone")],
            check=True,
            capture_output=True,
            timeout=30,
        )

    assert all((tmp_path / "clone" / name).is_file() for name in FILES)
    host, port = url.removeprefix("git://").removesuffix("/words").split(":")
    assert not accepts(host, int(port))
    assert not (tmp_path / "served").exists()


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert render_table([("program", "pid"), ("web", "12345")]) == "program  pid\nweb      12345"


def test_progress_tells_the_seconds_since_the_start() -> None:
    out = io.StringIO()
    times = iter([100.0, 112.34])
    progress = Progress(out, clock=lambda: next(times))

    progress("web: started")

    assert out.getvalue() == "[  12.3 s] web: started\n"
