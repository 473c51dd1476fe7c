"""The form of server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sandbox_runtime.protocol.events import Stdout
from web import sse
from workers.contract.events import EventId, PublishedEvent, encode_event

NOW = "2026-01-01T00:00:00.000Z"


def published(text: str, seq: int = 1) -> PublishedEvent:
    return PublishedEvent(
        EventId(1, seq), "stdout", encode_event("j", Stdout(timestamp=NOW, data=text))
    )


def test_an_event_is_its_id_and_one_line_of_data() -> None:
    lines = sse.frame(published("hi\n", 7)).split(b"\n")

    assert lines[0] == b"id: 1-7"
    assert json.loads(lines[1].removeprefix(b"data: "))["data"] == "hi\n"
    assert lines[2:] == [b"", b""]


@pytest.mark.parametrize(
    "text",
    [
        '\n\ndata: {"type":"complete"}\n\n',
        "event: done\nid: 9-9\nretry: 1\n",
        "a\r\nb\rc",
        "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e",
        "\x00",
        "\u0442\u0085\u20ac",
    ],
)
def test_output_cannot_end_its_line_whatever_a_client_splits_at(text: str) -> None:
    frame = sse.frame(published(text)).decode()

    lines = frame.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["id", "data", ""]
    assert json.loads(lines[1].removeprefix("data: "))["data"] == text


def test_a_stream_opens_with_a_comment_and_the_time_to_come_back_after() -> None:
    frames = sse.frames(iter([]), heartbeat_s=15)

    assert list(frames) == [b": ok\nretry: 2000\n\n"]


def test_a_heartbeat_is_written_only_when_the_stream_was_silent_for_long() -> None:
    clock = iter([0.0, 1.0, 14.0, 14.5, 20.0, 29.0])

    def events() -> Iterator[PublishedEvent | None]:
        yield None  # at 1: too early
        yield None  # at 14: due
        yield published("x")  # written at 20; the clock is read once more for the heartbeat before
        yield None  # at 29: too early after that

    frames = list(sse.frames(events(), heartbeat_s=15, monotonic=lambda: next(clock)))

    assert frames == [sse.OPENING, sse.HEARTBEAT, sse.frame(published("x"))]
