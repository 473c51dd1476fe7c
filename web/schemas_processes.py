"""What requests about background processes may say. Their answers are the runtime's."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sandbox_runtime.protocol.processes import (
    DEFAULT_WAIT_MS,
    MAX_PATTERN_CHARS,
    PATH_PATTERN,
    HttpStatus,
    Port,
    ProcessId,
    StartProcess,
    StatusRange,
    WaitFor,
    WaitForExit,
    WaitForLog,
    WaitForPort,
    WaitMs,
)
from sandbox_runtime.protocol.requests import Session
from web.errors import InvalidField
from web.schemas import ExecEnv, Path, SessionName, Text
from workers.contract.sandboxes import DEFAULT_SESSION


class _Request(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    pass


class ProcessRequest(_Request, frozen=True):
    """A shell command, or (`argv`) a program, to run in the background; it has no stdin."""

    command: Annotated[Text, Meta(min_length=1)] | UnsetType = UNSET
    argv: Annotated[list[Text], Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    id: ProcessId | UnsetType = UNSET
    """Left out: one is made."""
    session: SessionName = DEFAULT_SESSION
    """Whose variables, directory and user it has; it ends with it at the latest."""
    cwd: Path | None = None
    env: ExecEnv = {}

    def to_runtime(self, session: Session, idempotency_key: str | None) -> StartProcess:
        """Raises `InvalidField`."""
        command = None if self.command is UNSET else self.command
        argv = None if self.argv is UNSET else self.argv
        if (command is None) == (argv is None):
            raise InvalidField("command", "Give either `command` or `argv`, and not both.")
        if command is not None and not command.strip():
            raise InvalidField("command", "The command is empty.")
        if argv is not None and not argv[0]:
            raise InvalidField("argv[0]", "The program's name is empty.")
        return StartProcess(
            command=command,
            argv=argv,
            id=None if self.id is UNSET else self.id,
            session=session,
            cwd=self.cwd,
            env=self.env,
            idempotency_key=idempotency_key,
        )


class SignalRequest(_Request, frozen=True):
    """A signal for the process and all that it started: `HUP`, `SIGHUP`, or a number."""

    signal: Annotated[str, Meta(min_length=1, max_length=20)] | int


class LogsQuery(_Request, frozen=True):
    """Where to go on reading a stream; the header `Last-Event-ID` says it first."""

    last_event_id: str | None = None


class WaitRequest(_Request, frozen=True):
    """What to wait for: `exit`; `port`, with `path` for an answer over HTTP; `log`, a line."""

    for_: Literal["exit", "port", "log"] = msgspec.field(name="for")
    port: Port | UnsetType = UNSET
    path: Annotated[str, Meta(pattern=PATH_PATTERN, max_length=4096)] | UnsetType = UNSET
    status: HttpStatus | StatusRange | UnsetType = UNSET
    """Left out: 200 to 399."""
    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_CHARS)] | UnsetType = UNSET
    regex: bool | UnsetType = UNSET
    """The pattern is an expression, as RE2 takes it."""
    timeout_ms: WaitMs = DEFAULT_WAIT_MS

    def to_runtime(self) -> WaitFor:
        """Raises `InvalidField`."""
        for field in {"port", "path", "status", "pattern", "regex"} - _FIELDS[self.for_]:
            if getattr(self, field) is not UNSET:
                raise InvalidField(field, f"This says nothing where `for` is `{self.for_}`.")
        if self.for_ == "exit":
            return WaitForExit(timeout_ms=self.timeout_ms)
        if self.for_ == "log":
            if self.pattern is UNSET:
                raise InvalidField("pattern", "Say what to look for.")
            return WaitForLog(
                pattern=self.pattern, regex=self.regex is True, timeout_ms=self.timeout_ms
            )
        if self.port is UNSET:
            raise InvalidField("port", "Say which port.")
        return WaitForPort(
            port=self.port,
            path=self._path(),
            status=StatusRange(min=200, max=399) if self.status is UNSET else self.status,
            timeout_ms=self.timeout_ms,
        )

    def _path(self) -> str | None:
        """An answer's status can only be had over HTTP."""
        if self.path is not UNSET:
            return self.path
        return None if self.status is UNSET else "/"


_FIELDS = {"exit": set[str](), "port": {"port", "path", "status"}, "log": {"pattern", "regex"}}
