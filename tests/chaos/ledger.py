"""What became of each job, and whether that may be: none lost, none run twice, each told whole."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.client import Received, stdout_of

LEDGER = "/workspace/ledger"
"""Of a sandbox: each job in it adds its line, once."""

KILLED = ("sandbox_lost", "sandbox_failed")
"""How jobs end whose sandbox was killed, or was killed while it was made."""


@dataclass
class Accepted:
    """A job that the platform said it would run."""

    id: str
    line: str
    """What it adds to its sandbox's ledger; empty: its sandbox goes with it (a build)."""
    prints: str
    """To the end, where it gets there."""
    received: list[Received] = field(default_factory=list)
    """By a reader that came back as often as it was cut off."""

    @property
    def ended(self) -> bool:
        return bool(self.received) and self.received[-1].event["type"] in ("complete", "error")

    @property
    def succeeded(self) -> bool:
        last = self.received[-1].event
        return bool(last["type"] == "complete" and last["conclusion"] == "success")


class Books:
    """All that was accepted, and the ledgers that were found. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted: dict[str, Accepted] = {}
        self._ledgers: dict[str, list[str]] = {}
        self._killed: set[str] = set()
        self.failures: list[str] = []

    @property
    def accepted(self) -> list[Accepted]:
        with self._lock:
            return list(self._accepted.values())

    @property
    def ended(self) -> int:
        return sum(job.ended for job in self.accepted)

    @property
    def killed(self) -> int:
        return len(self._killed)

    def accept(self, job: Accepted) -> None:
        with self._lock:
            if job.id in self._accepted:
                self.failures.append(f"two submissions were answered with the job {job.id}")
            self._accepted[job.id] = job

    def fail(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)

    def read_ledger(self, sandbox_id: str, sandboxes: Path, *, killed: bool) -> None:
        """Where it is killed: it stands still, so this is the last that it has written."""
        path = sandboxes / sandbox_id / "volume" / LEDGER.removeprefix("/")
        lines = path.read_text().splitlines() if path.exists() else []
        with self._lock:
            self._ledgers[sandbox_id] = lines
            if killed:
                self._killed.add(sandbox_id)

    def check(
        self, sandbox_of: Mapping[str, str], told_late: Mapping[str, list[Received]]
    ) -> Iterator[str]:
        """What must not be. `told_late`: the events of each job as they are kept."""
        yield from self.failures
        found = Counter(line for ledger in self._ledgers.values() for line in ledger)
        yield from (f"the line {line} is there {n} times" for line, n in found.items() if n > 1)
        known = {job.line for job in self.accepted}
        yield from (f"{line} was run, but never accepted" for line in found if line not in known)
        for job in self.accepted:
            for wrong in self._wrong_with(job, sandbox_of.get(job.id, ""), found):
                yield f"job {job.id}: {wrong}"
            if job.ended and _without_time(told_late[job.id]) != _without_time(job.received):
                yield f"job {job.id}: its reader was told other events than are kept"

    def _wrong_with(
        self, job: Accepted, sandbox_id: str, found: Mapping[str, int]
    ) -> Iterator[str]:
        if not job.ended:
            yield f"no end; the last event was {job.received[-1:]}"
            return
        ids = [event.id for event in job.received]
        if ids != [f"1-{n}" for n in range(1, len(ids) + 1)]:
            yield f"its events are numbered {ids}"
        if sum(event.event["type"] in ("complete", "error") for event in job.received) != 1:
            yield "it has more than one end"
        if job.succeeded:
            if stdout_of(job.received) != job.prints:
                yield f"it printed {stdout_of(job.received)!r}"
            if job.line and found.get(job.line, 0) != 1:
                yield "it succeeded, and its line is not in the ledger"
        elif job.received[-1].event.get("code") not in KILLED or sandbox_id not in self._killed:
            yield f"in a sandbox that nobody killed, it ended with {job.received[-1].event}"


def _without_time(received: Iterable[Received]) -> list[tuple[str, str]]:
    return [(event.id, event.event["type"]) for event in received]
