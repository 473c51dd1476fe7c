"""Writes server-sent events: the only place that knows their form."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import structlog

from sandbox_runtime.protocol.errors import RuntimeUnreachable
from workers.contract.events import PublishedEvent

CONTENT_TYPE = "text/event-stream"

HEADERS = {
    "Content-Type": CONTENT_TYPE,
    "Cache-Control": "no-cache, no-transform",
    # nginx holds back what it proxies unless it is told not to.
    "X-Accel-Buffering": "no",
}

RETRY_MS = 2000

OPENING = f": ok\nretry: {RETRY_MS}\n\n".encode()
"""Sent at once: proxies pass the headers on, and the client knows that it is heard."""

HEARTBEAT = b": hb\n\n"

# Line ends to some programs, though not to SSE: a client that splits lines at them would read the
# rest of a line of output as a field. In UTF-8 these bytes occur as nothing else.
_LINE_ENDS = (
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
    ("\u0085".encode(), rb"\u0085"),
)


T = TypeVar("T")

log = structlog.get_logger(__name__)


def frame(event: PublishedEvent) -> bytes:
    """One event. Its JSON has no line end of its own; in strings they are escaped."""
    return b"id: %b\n%b" % (str(event.id).encode(), frame_without_id(event.json))


def numbered_frame(number: int, json: bytes) -> bytes:
    """One event of a process's log."""
    return b"id: %d\n%b" % (number, frame_without_id(json))


def frame_without_id(json: bytes) -> bytes:
    """An event of a stream that nobody can come back to."""
    for raw, escaped in _LINE_ENDS:
        if raw in json:
            json = json.replace(raw, escaped)
    return b"data: %b\n\n" % json


def relayed(
    pieces: Iterable[bytes],
    feed: Callable[[bytes], Sequence[T]],
    frame_of: Callable[[T], bytes],
    *,
    is_last: Callable[[T], bool],
    left: Callable[[], bool],
    request_id: str,
) -> Iterator[bytes]:
    """The body of a stream whose events a sandbox's runtime tells, as `feed` takes its lines.

    It ends with the last event, and without it where the reader has left, or the client must come
    back for it.
    """
    yield OPENING
    try:
        for piece in pieces:
            batch = feed(piece)
            for event in batch:
                yield frame_of(event)
                if is_last(event):
                    return
            if not batch:
                if left():
                    return
                yield HEARTBEAT
    except RuntimeUnreachable as fault:
        log.warning("relayed stream cut short", request_id=request_id, reason=fault.message)


def frames(
    events: Iterator[PublishedEvent | None],
    *,
    heartbeat_s: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """The body of a stream. For a None among the events a heartbeat, where one is due."""
    yield OPENING
    written = monotonic()
    for event in events:
        if event is not None:
            yield frame(event)
        elif monotonic() - written >= heartbeat_s * 0.9:
            yield HEARTBEAT
        else:
            continue
        written = monotonic()
