"""What requests about terminals may say and what their answers look like."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sandbox_runtime.protocol.requests import Session
from sandbox_runtime.protocol.terminals import (
    DEFAULT_COLUMNS,
    DEFAULT_ROWS,
    Length,
    StartTerminal,
    TerminalInfo,
)
from web.errors import InvalidField
from web.schemas import ExecEnv, Path, SessionName, Text
from workers.contract.sandboxes import DEFAULT_SESSION


class TerminalRequest(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """A shell, or a shell command, or (`argv`) a program, on a terminal."""

    command: Annotated[Text, Meta(min_length=1)] | UnsetType = UNSET
    argv: Annotated[list[Text], Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    session: SessionName = DEFAULT_SESSION
    """Whose variables, directory and user it has; it ends with it at the latest."""
    cwd: Path | None = None
    env: ExecEnv = {}
    cols: Length = DEFAULT_COLUMNS
    rows: Length = DEFAULT_ROWS

    def to_runtime(self, session: Session) -> StartTerminal:
        """Raises `InvalidField`."""
        if self.command is not UNSET and self.argv is not UNSET:
            raise InvalidField("command", "Give either `command` or `argv`, and not both.")
        if self.argv is not UNSET and not self.argv[0]:
            raise InvalidField("argv[0]", "The program's name is empty.")
        return StartTerminal(
            command=None if self.command is UNSET else self.command,
            argv=None if self.argv is UNSET else self.argv,
            session=session,
            cwd=self.cwd,
            env=self.env,
            cols=self.cols,
            rows=self.rows,
        )


class TerminalView(TerminalInfo, frozen=True, kw_only=True, omit_defaults=True):
    """A terminal; `exitCode` says that its program has ended."""

    url: str
    """For a WebSocket; whoever knows it may look, and type."""


class TerminalsPage(msgspec.Struct, frozen=True):
    """The terminals that run, and those that have ended lately; the oldest first."""

    terminals: list[TerminalView]
