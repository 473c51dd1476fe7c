"""The journal: what it keeps, for whom, and until when."""

from __future__ import annotations

import asyncio

import pytest

from sandbox_runtime.journal import BATCH_LIMIT_BYTES, Batch, Journal, timestamp
from sandbox_runtime.protocol.codec import LineDecoder
from sandbox_runtime.protocol.errors import ExecutionForgotten
from sandbox_runtime.protocol.events import Complete, Conclusion, Numbered, Start, Stdout

WHEN = "2026-11-22T12:00:00.000Z"

COMPLETE = Complete(timestamp=WHEN, conclusion=Conclusion.SUCCESS, duration_ms=1, exit_code=0)


def out(data: str = "x") -> Stdout:
    return Stdout(timestamp=WHEN, data=data)


async def read(journal: Journal, after: int = 0) -> list[Numbered]:
    decoder = LineDecoder()
    return [n async for batch in journal.read(after) for n in decoder.feed(batch.lines)]


def test_events_are_numbered_from_one_without_a_gap() -> None:
    journal = Journal()
    for event in (Start(timestamp=WHEN), out(), COMPLETE):
        journal.append(event)

    numbered = asyncio.run(read(journal))

    assert [(n.n, n.event) for n in numbered] == [
        (1, Start(timestamp=WHEN)),
        (2, out()),
        (3, COMPLETE),
    ]


def test_nothing_can_follow_a_terminal_event() -> None:
    journal = Journal()
    journal.append(COMPLETE)

    with pytest.raises(RuntimeError):
        journal.append(out())

    assert (journal.ended, journal.last_n) == (True, 1)


def test_a_reader_that_waits_is_given_each_event_as_it_comes() -> None:
    async def scenario() -> list[Numbered]:
        journal = Journal()
        reading = asyncio.create_task(read(journal))
        for event in (out("1"), out("2"), COMPLETE):
            await asyncio.sleep(0)
            journal.append(event)
        return await reading

    assert [n.event for n in asyncio.run(scenario())] == [out("1"), out("2"), COMPLETE]


def test_readers_start_where_they_like() -> None:
    async def scenario() -> list[list[int]]:
        journal = Journal()
        readings = [asyncio.create_task(read(journal, after)) for after in (0, 1, 2, 3, 9)]
        await asyncio.sleep(0)
        for event in (out(), out(), COMPLETE):
            journal.append(event)
        return [[n.n for n in await reading] for reading in readings]

    assert asyncio.run(scenario()) == [[1, 2, 3], [2, 3], [3], [], []]


def test_the_last_batch_says_so_and_no_other() -> None:
    async def scenario() -> list[bool]:
        journal = Journal()
        for _ in range(3):
            journal.append(out("x" * BATCH_LIMIT_BYTES))
        journal.append(COMPLETE)
        return [batch.last async for batch in journal.read(0)]

    assert asyncio.run(scenario()) == [False, False, False, True]


def test_a_silent_journal_gives_an_empty_batch_for_each_heartbeat() -> None:
    async def scenario() -> list[Batch]:
        reading = Journal().read(0, heartbeat_s=0.001)
        return [await anext(reading) for _ in range(3)]

    assert asyncio.run(scenario()) == [Batch(lines=b"", last=False)] * 3


def test_what_was_acknowledged_is_gone_and_cannot_be_asked_for() -> None:
    journal = Journal()
    for event in (out(), out(), COMPLETE):
        journal.append(event)

    journal.acknowledge(2)
    journal.acknowledge(1)

    assert journal.acknowledged_n == 2
    assert [n.n for n in asyncio.run(read(journal, after=2))] == [3]
    with pytest.raises(ExecutionForgotten):
        asyncio.run(read(journal, after=1))


def test_an_acknowledgement_of_what_was_never_told_counts_as_of_the_last() -> None:
    journal = Journal()
    journal.append(out())

    journal.acknowledge(100)

    assert (journal.acknowledged_n, journal.last_n) == (1, 1)


def test_a_full_journal_has_room_again_once_enough_was_acknowledged() -> None:
    async def scenario() -> None:
        journal = Journal(limit_bytes=1000)
        await journal.has_room()
        for _ in range(2):
            journal.append(out("x" * 600))
        waiting = asyncio.create_task(journal.has_room())
        await asyncio.sleep(0)
        assert not waiting.done()

        journal.acknowledge(1)

        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())


def test_a_timestamp_is_utc_in_milliseconds() -> None:
    assert timestamp()[10] + timestamp()[19] + timestamp()[23:] == "T.Z"
