"""The events of a job, as clients read them.

A job's events are the runtime's own, each with the job's id, and `step` of a build besides. A
build's executions (checkout and steps) start and end inside the one job, so their `start` and
`complete` become `step` events; the job has one `start` and one terminal event of its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from sandbox_runtime.protocol.events import (
    CellException,
    Complete,
    Conclusion,
    Display,
    Error,
    InputRequest,
    Progress,
    Result,
    Start,
    Stderr,
    Stdout,
    Truncated,
)
from workers.contract.jobs import StepStatus


class Step(
    msgspec.Struct,
    frozen=True,
    rename="camel",
    tag="step",
    tag_field="type",
    omit_defaults=True,
    kw_only=True,
):
    """A step of a build started or ended."""

    timestamp: str
    name: str
    status: StepStatus
    conclusion: Conclusion | None = None
    exit_code: int | None = None
    duration_ms: int | None = None
    commit: str | None = None
    """Of the step `checkout`: the commit that is checked out."""


JobEvent = (
    Start
    | Stdout
    | Stderr
    | Result
    | Display
    | CellException
    | InputRequest
    | Progress
    | Step
    | Truncated
    | Complete
    | Error
)

TERMINAL_TYPES = frozenset({"complete", "error", "removed", "failed"})
"""Of a job, and of a sandbox (`sandbox_events.py`)."""

_EVENT_ID = re.compile(r"(\d{1,9})-(\d{1,15})")

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[JobEvent] = msgspec.json.Decoder(JobEvent)


class EventId(NamedTuple):
    """`<attempt>-<seq>`: the id in the Redis stream and in SSE. `seq` starts at 1 per attempt."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """None where the text is not an event's id."""
        match = _EVENT_ID.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None


BEFORE_ALL = EventId(0, 0)


class PublishedEvent(NamedTuple):
    """An event as it lies in its stream: numbered, typed, its JSON ready for the wire."""

    id: EventId
    type: str
    json: bytes

    @property
    def is_terminal(self) -> bool:
        return self.type in TERMINAL_TYPES


def encode_event(job_id: str, event: JobEvent) -> bytes:
    """The event's JSON, `jobId` added behind its own fields."""
    body = _encoder.encode(event)
    # Spliced, not decoded again: output passes here at tens of MB/s. Ids are base32 (`new_id`).
    return body[:-1] + b',"jobId":"' + job_id.encode() + b'"}'


def decode_event(json: bytes) -> JobEvent:
    return _decoder.decode(json)


def type_of(event: JobEvent) -> str:
    return str(event.__struct_config__.tag)
