"""A checkout's events come to exactly one end, whatever the runtime sends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator

import pytest

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.events import TERMINAL, Complete, Conclusion, Error, Numbered
from web.api.git import checkout_events

COMPLETE = codec.encode_line(
    Numbered(1, Complete(timestamp="", conclusion=Conclusion.SUCCESS, duration_ms=1))
)


class Sent:
    """An answer of which this much came."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def pieces(self) -> Iterator[bytes]:
        yield from self._pieces


@pytest.mark.parametrize(
    ("pieces", "end"),
    [
        ([COMPLETE, COMPLETE], Complete),
        ([COMPLETE[:9], COMPLETE[9:]], Complete),
        ([], Error),
        ([b"\n", b"\n"], Error),
        ([b"{}\n", COMPLETE], Error),
        ([b"<html>", COMPLETE], Error),
        ([b'{"n":1,"event":{"type":"complete"}}\n'], Error),
    ],
)
def test_events_end_once(pieces: list[bytes], end: type[Complete | Error]) -> None:
    events = [e for e in checkout_events(Sent(pieces), time.monotonic() + 60) if e is not None]

    assert [isinstance(event, TERMINAL) for event in events] == [True]
    assert isinstance(events[0], end)


def test_a_runtime_that_only_ever_says_that_it_lives_is_given_up() -> None:
    heartbeats = Sent(itertools.repeat(b"\n"))

    events = list(checkout_events(heartbeats, time.monotonic() - 1))

    assert events[:-1] == [None]
    assert isinstance(events[-1], Error)
