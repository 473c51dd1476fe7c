"""Folds the events of a job into the one result that a client which waited gets."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from sandbox_runtime.protocol.events import (
    CellException,
    Complete,
    Conclusion,
    Display,
    Error,
    Result,
    Start,
    Stderr,
    Stdout,
    Truncated,
    conclusion_of,
)
from sandbox_runtime.protocol.requests import Encoding
from web.schemas import CodeResult, ExecResult, JobErrorView, Logs
from workers.contract.events import JobEvent


class Outcome(Protocol):
    """Takes events one by one; after the terminal one it has the result."""

    def add(self, event: JobEvent) -> None: ...

    def result(self) -> msgspec.Struct: ...


class ExecOutcome:
    """What became of a command."""

    def __init__(self, job_id: str, encoding: Encoding) -> None:
        self._job_id = job_id
        self._encoding = encoding
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._end = _End()

    def add(self, event: JobEvent) -> None:
        match event:
            case Stdout():
                self._stdout.append(event.data)
            case Stderr():
                self._stderr.append(event.data)
            case _:
                self._end.add(event)

    def result(self) -> ExecResult:
        end = self._end
        return ExecResult(
            job_id=self._job_id,
            stdout=self._joined(self._stdout),
            stderr=self._joined(self._stderr),
            exit_code=end.exit_code,
            success=end.conclusion is Conclusion.SUCCESS,
            duration_ms=end.duration_ms,
            truncated=end.truncated,
            conclusion=end.conclusion,
            session_restarted=True if end.session_restarted else UNSET,
            oom_killed=True if end.oom_killed else UNSET,
            error=end.error,
        )

    def _joined(self, parts: list[str]) -> str:
        if self._encoding is Encoding.BASE64:
            # Each part is padded for itself.
            return base64.b64encode(b"".join(map(base64.b64decode, parts))).decode()
        return "".join(parts)


class CodeOutcome:
    """What became of a cell."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._logs = Logs(stdout=[], stderr=[])
        self._results: list[Result | Display] = []
        self._shown_ids: set[str] = set()
        self._updates: dict[str, tuple[int, Display]] = {}
        """The last one of each id, and how many results there were before it."""
        self._exception: CellException | UnsetType = UNSET
        self._end = _End()

    def add(self, event: JobEvent) -> None:
        match event:
            case Stdout():
                self._logs.stdout.append(event.data)
            case Stderr():
                self._logs.stderr.append(event.data)
            case Result():
                self._results.append(event)
            case Display():
                self._show(event)
            case CellException():
                self._exception = event
            case _:
                self._end.add(event)

    def _show(self, told: Display) -> None:
        """An update stands where what it updates stood."""
        if told.update and told.display_id in self._shown_ids:
            self._updates[told.display_id] = (len(self._results), told)
        else:
            self._shown_ids.add(told.display_id)
            self._results.append(told)

    def _as_last_told(self, place: int, one: Result | Display) -> Result | Display:
        if isinstance(one, Display) and one.display_id in self._updates:
            before, told = self._updates[one.display_id]
            return told if place < before else one
        return one

    def result(self) -> CodeResult:
        end = self._end
        return CodeResult(
            job_id=self._job_id,
            logs=self._logs,
            results=[self._as_last_told(place, one) for place, one in enumerate(self._results)],
            exception=self._exception,
            error=end.error,
            execution_count=end.execution_count,
            truncated=end.truncated,
            conclusion=end.conclusion,
            duration_ms=end.duration_ms,
            oom_killed=True if end.oom_killed else UNSET,
        )


class _End:
    """How a job started and ended."""

    def __init__(self) -> None:
        self.truncated = False
        self.session_restarted = False
        self.oom_killed = False
        self.conclusion = Conclusion.ERROR
        self.exit_code: int | None = None
        self.execution_count: int | None = None
        self.duration_ms: int | None = None
        self.error: JobErrorView | UnsetType = UNSET
        self._started_at: str | None = None

    def add(self, event: JobEvent) -> None:
        match event:
            case Start():
                self._started_at = event.timestamp
                self.session_restarted = event.session_restarted
            case Truncated():
                self.truncated = True
            case Complete():
                self.oom_killed = event.oom_killed
                self.conclusion = event.conclusion
                self.exit_code = event.exit_code
                self.execution_count = event.execution_count
                self.duration_ms = event.duration_ms
            case Error():
                self.oom_killed = event.oom_killed
                self.conclusion = conclusion_of(event)
                self.error = JobErrorView(
                    code=event.code,
                    message=event.error,
                    hint=event.hint or UNSET,
                    exit_code=UNSET if event.exit_code is None else event.exit_code,
                )
                if self._started_at is not None:
                    self.duration_ms = _between_ms(self._started_at, event.timestamp)
            case _:
                pass  # A stream may tell more than a result holds.


def _between_ms(earlier: str, later: str) -> int:
    passed = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    return max(0, round(passed.total_seconds() * 1000))
