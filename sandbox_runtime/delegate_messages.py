"""What the runtime and its delegates tell each other, and how it is framed.

A delegate is a program of ours that acts as the sandbox's user. It is given orders and answers
with reports, over one socket of its own: each message is JSON after its length, four bytes, big
end first. The first order is always `Identity`. What a delegate reports is hostile input to the
runtime, as all that the user can get at: it is decoded by type and bounded in size.
"""

from __future__ import annotations

import struct

import msgspec

from sandbox_runtime.protocol.events import CellException, Display, Progress, Result, Stream
from sandbox_runtime.protocol.files import (
    FileChange,
    FileFind,
    FileListing,
    FileReplace,
    FileSearch,
    FileWatch,
)
from sandbox_runtime.protocol.git import GitCommand

MAX_REPORT_BYTES = 16 * 1024 * 1024
"""One report: a cell's result, of which delegates leave out what is larger than a picture is."""

LENGTH = struct.Struct(">I")


class Message(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """An order or a report. `timestamp` of an event in a report is empty: the runtime sets it."""


class Identity(Message, frozen=True, tag="identity"):
    """Whom the delegate becomes, before it does anything else, and with which environment."""

    uid: int
    gid: int
    env: dict[str, str]


class Fault(Message, frozen=True, tag="fault"):
    """The delegate ended by an error of its own."""

    message: str


class Connect(Message, frozen=True, tag="connect"):
    """Find the kernel of this connection file; answered by `Ready`."""

    connection_file: str
    bounded: bool = True
    """The kernel waits where what it publishes is not read."""


class Execute(Message, frozen=True, tag="execute"):
    """Run a cell; the next one is sent after `CellEnded`."""

    code: str
    allow_input: bool = False
    silent: bool = False
    """It is not counted, and shows nothing."""
    ansi: bool = False
    """A traceback keeps its colours."""
    variables: dict[str, str | None] = {}
    """Of the environment, from now on; None unsets."""
    cell_variables: dict[str, str | None] = {}
    """As that, until the cell's end."""


class Answer(Message, frozen=True, tag="answer"):
    """The line that the cell waits for."""

    value: str


class Enter(Message, frozen=True, tag="enter"):
    """Be the kernel of this language in this directory; answered by `Ready` or an exception."""

    language: str
    cwd: str


class Rehearse(Message, frozen=True, tag="rehearse"):
    """Do once what is slow the first time; answered by `Ready`."""


class Interrupt(Message, frozen=True, tag="interrupt"):
    """Stop the cell that runs. For a kernel that signals cannot stop."""


class KernelEnded(Message, frozen=True, tag="kernel_ended"):
    """The kernel is gone: report what it still said, then end."""


KernelOrder = Connect | Execute | Answer | Interrupt | KernelEnded


class Ready(Message, frozen=True, tag="ready"):
    """The kernel answers."""


class CellStarted(Message, frozen=True, tag="cell_started"):
    """The kernel runs the cell from now on, so that an interrupt meets it."""


class Printed(Message, frozen=True, tag="printed"):
    """A piece of what the cell wrote."""

    stream: Stream
    data: str


class Shown(Message, frozen=True, tag="shown"):
    """What the cell showed, by MIME type: the value of its last expression where `is_main`."""

    data: dict[str, msgspec.Raw]
    is_main: bool
    display_id: str | None = None
    update: bool = False


class InputRequested(Message, frozen=True, tag="input_requested"):
    """The cell waits for a line, which `Answer` brings it."""

    prompt: str
    password: bool


class CellEnded(Message, frozen=True, tag="cell_ended"):
    """The kernel waits for the next cell."""

    failed: bool
    execution_count: int | None
    quits: bool
    """The cell asked for the kernel's end, as `exit()` does."""


CellReport = CellStarted | Printed | Result | Display | CellException | InputRequested | CellEnded
KernelReport = CellReport | Ready | Fault
NodeReport = Ready | CellStarted | Printed | Shown | CellException | InputRequested | CellEnded


class Clone(Message, frozen=True, tag="clone"):
    """Clone `url` into `target`; answered by `CloneBegan` and then `Done` or `Refused`."""

    url: str
    target: str
    ref: str | None
    depth: int | None
    submodules: bool
    protocols: str
    """Those that git may use for `url`; submodules are fetched from remotes alone."""


class CloneBegan(Message, frozen=True, tag="clone_began"):
    """From now on the target may hold what has to be removed where the clone fails."""

    target_existed: bool


class Command(Message, frozen=True, tag="command"):
    """Have git do it; answered by `Done` or `Refused`."""

    workspace: str
    command: GitCommand
    """Its path is absolute, its credentials are left out."""


class Done(Message, frozen=True, tag="done"):
    answer: msgspec.Raw
    """Of a clone a `GitHead`, of a command what `ANSWERS` has for it."""


class Refused(Message, frozen=True, tag="refused"):
    """`code` is that of a `GitFault`, a `FileFault`, or another runtime fault's."""

    code: str
    message: str
    words: str
    """Git's own."""


class FileMessage(Message, frozen=True):
    """What is to be done at a path, or below it."""

    path: str
    """Absolute; each byte of it is one character."""


class Find(FileMessage, frozen=True, tag="find"):
    """Answered by `Done` with `FileFindings`, or `Refused`."""

    order: FileFind


class Search(FileMessage, frozen=True, tag="search"):
    """Answered by `Done` with `FileMatches`, or `Refused`."""

    order: FileSearch


class Replace(FileMessage, frozen=True, tag="replace"):
    """Answered by `Done` with `FileReplacements`, or `Refused`."""

    order: FileReplace


class ListTree(FileMessage, frozen=True, tag="list_tree"):
    """Answered by `Done` with `FileList`, or `Refused`."""

    after: str
    """A path below it, in bytes as that, which was the last of the page before; else empty."""
    order: FileListing


class WatchFiles(FileMessage, frozen=True, tag="watch_files"):
    """Answered by `WatchBegan`, then `Changed` again and again, at the end by `Refused`."""

    order: FileWatch


class Merge(FileMessage, frozen=True, tag="merge"):
    """Put what is in `staging`, a directory in it, in its place. Answered by `Done` with `Nothing`,
    or `Refused`.
    """

    staging: str


class Version(FileMessage, frozen=True, tag="version"):
    """Answered by `Done` with `FileVersion`, or `Refused`."""

    order: FileWatch


class WatchBegan(Message, frozen=True, tag="watch_began"):
    """What changes from now on is told."""


class Changed(Message, frozen=True, tag="changed"):
    """What has changed; None: it is not known what."""

    changes: list[FileChange] | None


class Nothing(msgspec.Struct, frozen=True):
    """The answer of what has none."""


FileOrder = Find | Search | Replace | ListTree | WatchFiles | Version | Merge
FileReport = Done | Refused | WatchBegan | Changed | Fault

GitOrder = Clone | Command
GitReport = CloneBegan | Progress | Done | Refused | Fault


def framed(message: msgspec.Struct) -> bytes:
    body = msgspec.json.encode(message)
    return LENGTH.pack(len(body)) + body
