"""What can be asked about terminals.

    POST   /terminals           body StartTerminal → TerminalInfo
    GET    /terminals           → TerminalList
    DELETE /terminals/{id}      → 204, when it is gone with all that it started
    GET    /terminals/{id}      a WebSocket: the terminal itself

On the WebSocket a binary message is what is typed, or what is printed; what was printed lately
comes first. A text message is JSON: from the viewer a `ToTerminal`, to the viewer a `FromTerminal`.
It is closed with 1000 after `exit`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from sandbox_runtime.protocol.requests import Session

DEFAULT_COLUMNS, DEFAULT_ROWS = 80, 24

ID_PATTERN = r"^term-[0-9a-f]{16}$(?!\n)"

MAX_TERMINALS = 64
"""More than a runtime has, those that have ended included."""

TerminalId = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]

Length = Annotated[int, msgspec.Meta(ge=1, le=1000)]
"""Of a line, or of the screen."""


class _Message(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    pass


class StartTerminal(_Message, frozen=True):
    """Start a shell command, a program (`argv`), or where neither is given a shell, on a terminal.

    It has the session's variables, directory and user, and ends with it at the latest.
    """

    command: str | None = None
    argv: list[str] | None = None
    session: Session = Session()
    cwd: str | None = None
    env: dict[str, str | None] = {}
    cols: Length = DEFAULT_COLUMNS
    rows: Length = DEFAULT_ROWS


class Resize(_Message, frozen=True, tag="resize"):
    """The viewer's window has another size now."""

    cols: Length
    rows: Length


ToTerminal = Resize


class Ready(_Message, frozen=True, tag="ready"):
    """What was printed lately follows."""


class Exit(_Message, frozen=True, tag="exit"):
    """The program has ended."""

    code: int
    """128 and the signal's number where one ended it."""


class Refused(_Message, frozen=True, tag="error"):
    """What the viewer sent was not done; the terminal goes on."""

    code: str
    message: str


FromTerminal = Ready | Exit | Refused


class TerminalInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """A terminal; `exit_code` says that its program has ended."""

    id: TerminalId
    session: str
    command: str
    pid: int
    cols: int
    rows: int
    viewers: int
    start_time: str
    exit_code: int | None = None


class TerminalList(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """In the order of their starts."""

    terminals: Annotated[list[TerminalInfo], msgspec.Meta(max_length=MAX_TERMINALS)]
