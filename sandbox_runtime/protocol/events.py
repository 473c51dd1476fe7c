"""The events that an execution tells, each once, numbered from 1 by the runtime.

The number `n` is the runtime's own offset; it has nothing to do with the `seq` that readers see.
The last event of every execution is `Complete` or `Error`, and there is exactly one of them.
On the wire an event is one line of JSON: `{"n": 3, "event": {"type": "stdout", …}}`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec import UNSET, UnsetType

from sandbox_runtime.protocol.charts import Chart


class Conclusion(StrEnum):
    """How a job ended. `success` is exit 0, `failure` any other exit of the user's program."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class Stream(StrEnum):
    """The two output streams of a program."""

    STDOUT = "stdout"
    STDERR = "stderr"


class _Event(
    msgspec.Struct, frozen=True, rename="camel", tag_field="type", omit_defaults=True, kw_only=True
):
    timestamp: str
    """When it happened: RFC 3339, UTC, milliseconds."""


class Start(_Event, frozen=True, tag="start"):
    """The program was started. `command` for exec and steps, `language` for code."""

    command: str | None = None
    language: str | None = None
    attempt: int | None = None
    """Filled in by the worker: 1, and one more each time that the job is run again."""
    session_restarted: bool = False
    """The session's or context's former shell or kernel had ended; its state is gone."""


class Stdout(_Event, frozen=True, tag="stdout"):
    """Output, in order. Text, or base64 where the request's `encoding` said so."""

    data: str
    step: str | None = None


class Stderr(_Event, frozen=True, tag="stderr"):
    """As `Stdout`, of the other stream."""

    data: str
    step: str | None = None


class _Shown(_Event, frozen=True):
    """The same thing in every MIME type that the kernel gave.

    Values stay the JSON that they came as: nobody on their way has to hold them as objects, of
    which a few bytes can make many.
    """

    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    latex: str | None = None
    javascript: str | None = None
    svg: str | None = None
    png: str | None = None
    """Base64."""
    jpeg: str | None = None
    """Base64."""
    pdf: str | None = None
    """Base64."""
    json: msgspec.Raw | UnsetType = UNSET
    data: msgspec.Raw | UnsetType = UNSET
    """Of a table: its columns and rows, as a Table Schema with data (frictionlessdata.io)."""
    chart: Chart | None = None
    """Of a figure: what is drawn in it."""


class Result(_Shown, frozen=True, tag="result"):
    """What a cell showed."""

    is_main: bool = False
    """True for the value of the cell's last expression, false for what was displayed."""


class Display(_Shown, frozen=True, tag="display", kw_only=True):
    """What a cell showed in a place that can be told of again, as a progress bar is."""

    display_id: str
    update: bool = False
    """It takes the place of what was shown with this id before."""


class CellException(_Event, frozen=True, tag="exception"):
    """A cell raised; the run then ends with `complete`, conclusion `failure`."""

    name: str
    value: str
    traceback: str
    """Plain text, unless the request said `ansi_traceback`."""


class InputRequest(_Event, frozen=True, tag="input_request"):
    """A cell waits for a line of input, as `input()` does."""

    input: int
    """Which of the execution's, from 1."""
    prompt: str = ""
    password: bool = False
    """It is not to be shown as it is typed."""


class Progress(_Event, frozen=True, tag="progress"):
    """How far a checkout is. `percent` is None where git does not say."""

    phase: str
    percent: int | None = None
    message: str = ""
    step: str | None = None


class Truncated(_Event, frozen=True, tag="truncated"):
    """The output cap was reached: what came after `stream`'s last event is not kept.

    Told once for each execution, just before its end, `dropped_bytes` counting both streams.
    """

    stream: str
    dropped_bytes: int
    step: str | None = None


class Complete(_Event, frozen=True, tag="complete"):
    """The program ran to its end, whatever its exit code."""

    conclusion: Conclusion
    duration_ms: int
    exit_code: int | None = None
    execution_count: int | None = None
    commit: str | None = None
    """A checkout's: the commit that is checked out."""
    branch: str | None = None
    """A checkout's: the branch; None where HEAD is detached."""
    target_dir: str | None = None
    """A checkout's: where it is."""
    oom_killed: bool = False
    """While it ran, the sandbox's memory ran out, and a program of its user was killed for it."""


class Error(_Event, frozen=True, tag="error"):
    """It could not be run, or was cut off. `code` is stable, `error` is for a person."""

    code: str
    error: str
    hint: str = ""
    exit_code: int | None = None
    """The shell's, where the code is `session_exited`."""
    oom_killed: bool = False
    """As of `Complete`."""


RuntimeEvent = (
    Start
    | Stdout
    | Stderr
    | Result
    | Display
    | CellException
    | InputRequest
    | Progress
    | Truncated
    | Complete
    | Error
)
TERMINAL = (Complete, Error)


class Numbered(msgspec.Struct, frozen=True):
    """An event with its number in its execution, from 1 without a gap."""

    n: int
    event: RuntimeEvent


def conclusion_of(event: Complete | Error) -> Conclusion:
    """The conclusion that a terminal event stands for."""
    if isinstance(event, Complete):
        return event.conclusion
    if event.code in ("cancelled", "sandbox_removed"):
        return Conclusion.CANCELLED
    if event.code == "timed_out":
        return Conclusion.TIMED_OUT
    return Conclusion.ERROR
