"""What can be asked about background processes.

    POST   /processes                  body StartProcess → ProcessInfo
    GET    /processes                  → ProcessList
    DELETE /processes                  → KilledProcesses, when all are gone
    GET    /processes/{id}             → ProcessInfo
    DELETE /processes/{id}             → ProcessInfo, when it is gone; of one that has ended the
                                       record goes, too
    POST   /processes/{id}/signal      body SignalProcess → ProcessInfo
    POST   /processes/{id}/wait        body WaitFor → Waited; ends when the caller leaves
    GET    /processes/{id}/logs        → ProcessLogs: what it has printed so far
    GET    /processes/{id}/events?after=N
                                       → 200, application/x-ndjson: its events from N+1 to the end,
                                       and an empty line every HEARTBEAT_S; 204 where N was
                                       the last

Events are `stdout`, `stderr`, and at the end one `complete` or `error`. Of a log that is too long
the oldest goes first: in place of what is gone one `truncated` with the last number that is.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from sandbox_runtime.protocol.requests import Session

MAX_WAIT_MS = 1_800_000

DEFAULT_WAIT_MS = 30_000

MAX_PATTERN_CHARS = 1000

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)"

PATH_PATTERN = r"^/[\x21-\x7e]*$(?!\n)"

ProcessId = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
HttpStatus = Annotated[int, msgspec.Meta(ge=100, le=599)]
WaitMs = Annotated[int, msgspec.Meta(ge=1, le=MAX_WAIT_MS)]


class ProcessStatus(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    """It exited with 0."""
    FAILED = "failed"
    """It exited with something else."""
    KILLED = "killed"
    """A signal ended it, or somebody who asked for its end."""
    ERROR = "error"
    """It could not be started."""


class _Request(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    pass


class StartProcess(_Request, frozen=True):
    """Start a shell command, or (`argv`) a program directly; its stdin is empty.

    It has the session's variables, directory and user, and ends with it at the latest.
    """

    command: str | None = None
    argv: list[str] | None = None
    id: ProcessId | None = None
    """None: one is made."""
    session: Session = Session()
    cwd: str | None = None
    env: dict[str, str | None] = {}
    idempotency_key: str | None = None
    """What was started with the same key, and is still known, is not started again."""


class SignalProcess(_Request, frozen=True):
    """A signal for the process and all that it started, as `HUP`, `SIGHUP` or a number."""

    signal: str | int


class StatusRange(_Request, frozen=True):
    min: HttpStatus
    max: HttpStatus


class WaitForExit(_Request, frozen=True, tag="exit", tag_field="for"):
    """Until it has ended."""

    timeout_ms: WaitMs = DEFAULT_WAIT_MS


class WaitForPort(_Request, frozen=True, tag="port", tag_field="for"):
    """Until something listens on a port; with `path`, until it answers there as it should."""

    port: Port
    path: Annotated[str, msgspec.Meta(pattern=PATH_PATTERN, max_length=4096)] | None = None
    status: HttpStatus | StatusRange = StatusRange(min=200, max=399)
    timeout_ms: WaitMs = DEFAULT_WAIT_MS


class WaitForLog(_Request, frozen=True, tag="log", tag_field="for"):
    """Until it prints a line, on stdout or stderr, that a text or an expression is found in.

    What it has printed before counts, as far as it is kept.
    """

    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATTERN_CHARS)]
    regex: bool = False
    """RE2's expressions: as of other engines, without backreferences and lookaround."""
    timeout_ms: WaitMs = DEFAULT_WAIT_MS


WaitFor = WaitForExit | WaitForPort | WaitForLog


class _Answer(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class ProcessInfo(_Answer, frozen=True, omit_defaults=True):
    id: str
    command: str
    """Of an argument list: as a shell would be told it."""
    session: str
    status: ProcessStatus
    start_time: str
    pid: int | None = None
    """In the sandbox; None where it could not be started."""
    end_time: str | None = None
    exit_code: int | None = None
    """128 and the signal's number where one ended it; None while it runs, or never did."""
    error: str | None = None
    """Why it could not be started."""


class ProcessList(_Answer, frozen=True):
    """In the order of their starts."""

    processes: list[ProcessInfo]


class KilledProcesses(_Answer, frozen=True):
    killed: int
    """How many ran, and do not any more."""


class ProcessLogs(_Answer, frozen=True):
    stdout: str
    stderr: str
    truncated: bool
    """It has printed more: the oldest is gone."""


class LogMatch(_Answer, frozen=True):
    stream: str
    line: str
    """Without its end."""
    text: str
    """What the pattern is found at."""
    groups: list[str | None] = []
    named_groups: dict[str, str | None] = {}


class Waited(ProcessInfo, frozen=True, omit_defaults=True):
    """The process as it is when the waiting is over."""

    match: LogMatch | None = None
