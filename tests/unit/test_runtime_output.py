"""How a program's bytes become events."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_runtime.journal import Journal
from sandbox_runtime.output import COALESCE_S, MAX_EVENT_BYTES, Output
from sandbox_runtime.protocol.codec import LineDecoder
from sandbox_runtime.protocol.events import (
    Complete,
    Conclusion,
    RuntimeEvent,
    Stderr,
    Stdout,
    Stream,
    Truncated,
)
from sandbox_runtime.protocol.requests import Encoding

OUT, ERR = Stream.STDOUT, Stream.STDERR

COMPLETE = Complete(timestamp="", conclusion=Conclusion.SUCCESS, duration_ms=0)


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(
    write: Callable[[Output, Clock], None],
    *,
    limit_bytes: int = 10**9,
    encoding: Encoding = Encoding.UTF8,
) -> list[RuntimeEvent]:
    """The events of an output that is written to, then closed."""

    async def scenario() -> list[RuntimeEvent]:
        journal, clock = Journal(), Clock()
        output = Output(journal, limit_bytes=limit_bytes, encoding=encoding, clock=clock)
        write(output, clock)
        output.close()
        journal.append(COMPLETE)
        decoder = LineDecoder()
        return [n.event async for batch in journal.read(0) for n in decoder.feed(batch.lines)][:-1]

    return asyncio.run(scenario())


def data(events: list[RuntimeEvent]) -> list[tuple[str, str]]:
    return [
        ("out" if isinstance(event, Stdout) else "err", event.data)
        for event in events
        if isinstance(event, Stdout | Stderr)
    ]


def test_the_first_bytes_are_told_at_once_and_the_next_are_coalesced() -> None:
    def write(output: Output, clock: Clock) -> None:
        for text in (b"a", b"b", b"c"):
            output.write(OUT, text)
        clock.now += COALESCE_S
        output.write(OUT, b"d")

    assert data(told(write)) == [("out", "a"), ("out", "bcd")]


def test_what_was_held_back_is_told_soon_without_another_write() -> None:
    async def scenario() -> bytes:
        journal = Journal()
        output = Output(journal, limit_bytes=100, encoding=Encoding.UTF8)
        output.write(OUT, b"a")
        output.write(OUT, b"b")
        async with asyncio.timeout(1):
            return (await anext(journal.read(1))).lines

    assert b'"data":"b"' in asyncio.run(scenario())


def test_the_order_of_the_two_streams_is_kept() -> None:
    def write(output: Output, clock: Clock) -> None:
        for stream, text in ((OUT, b"1"), (ERR, b"2"), (ERR, b"3"), (OUT, b"4")):
            output.write(stream, text)

    assert data(told(write)) == [("out", "1"), ("err", "23"), ("out", "4")]


def test_no_event_is_larger_than_it_may_be() -> None:
    events = told(lambda output, clock: output.write(OUT, b"x" * (3 * MAX_EVENT_BYTES + 1)))

    assert [len(text) for _, text in data(events)] == [MAX_EVENT_BYTES] * 3 + [1]


@given(st.text(), st.integers(1, 7))
def test_a_character_that_is_cut_between_two_writes_arrives_whole(text: str, size: int) -> None:
    text = text.encode(errors="replace").decode()
    encoded = text.encode()

    def write(output: Output, clock: Clock) -> None:
        for start in range(0, len(encoded), size):
            output.write(OUT, encoded[start : start + size])
            clock.now += 1

    assert "".join(piece for _, piece in data(told(write))) == text


def test_what_is_not_utf_8_is_replaced_and_the_rest_stays() -> None:
    events = told(lambda output, clock: output.write(OUT, b"\xff\xfeA\0\xe2\x82"))

    assert "".join(piece for _, piece in data(events)) == "��A\0�"


@given(st.binary(), st.integers(1, 7))
def test_base64_gives_back_the_same_bytes(raw: bytes, size: int) -> None:
    def write(output: Output, clock: Clock) -> None:
        for start in range(0, len(raw), size):
            output.write(OUT, raw[start : start + size])
            clock.now += 1

    events = told(write, encoding=Encoding.BASE64)

    assert b"".join(base64.b64decode(piece) for _, piece in data(events)) == raw


@pytest.mark.parametrize("limit_bytes", [0, 1, 5, 6, 100])
def test_the_first_bytes_are_kept_and_the_rest_is_counted_once(limit_bytes: int) -> None:
    def write(output: Output, clock: Clock) -> None:
        output.write(OUT, b"12345")
        output.write(ERR, b"6789")
        output.write(OUT, b"0")

    events = told(write, limit_bytes=limit_bytes)

    assert "".join(piece for _, piece in data(events)) == "1234567890"[:limit_bytes]
    dropped = [event.dropped_bytes for event in events if isinstance(event, Truncated)]
    assert dropped == ([] if limit_bytes == 100 else [10 - limit_bytes])
    assert not dropped or isinstance(events[-1], Truncated)


def test_a_character_that_the_cap_cuts_in_two_is_dropped_whole() -> None:
    events = told(lambda output, clock: output.write(OUT, "a€".encode()), limit_bytes=2)

    assert data(events) == [("out", "a")]
    assert [e.dropped_bytes for e in events if isinstance(e, Truncated)] == [3]
