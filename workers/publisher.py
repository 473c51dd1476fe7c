"""Carries an execution's events from a runtime into its job's stream, each once, come what may.

Told to go on from where Redis is, always: after a broken connection, a restarted worker, or a
Redis that forgot its last second. Nothing is acknowledged to the runtime before it has had
`settle_s` to reach Redis' disk and is still there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import structlog

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import (
    ExecutionForgotten,
    RuntimeFault,
    RuntimeUnreachable,
)
from sandbox_runtime.protocol.events import Complete, Error, Numbered, RuntimeEvent
from sandbox_runtime.protocol.requests import CancelReason, ExecutionRequest
from workers.acknowledger import Acknowledger
from workers.contract.clock import timestamp
from workers.contract.errors import JobNotFound, StoreFull, StoreUnavailable
from workers.contract.events import JobEvent
from workers.contract.jobs import Status, StepRecord
from workers.contract.store import JobStore
from workers.contract.stream import EventStream, NumberedEvent, Outcome
from workers.held import HeldJob

STORE_PATIENCE_S = 3600.0
"""How long an event waits for Redis; meanwhile the program waits too, its pipe being full."""

RUNTIME_PATIENCE_S = 5.0
"""How long a runtime may be out of reach before its sandbox counts as lost."""

SANDBOX_LOST = "sandbox_lost"
"""The code of what is told then."""

LOST_HINT = "It may have been killed from outside. The next call on its name makes a new one."

SETTLE_ROUND_S = 0.5

PAUSE_LOOK_S = 0.5
"""How soon the thread of a paused sandbox's job sees that it is to let go."""

log = structlog.get_logger(__name__)

T = TypeVar("T")
Translate = Callable[[RuntimeEvent], JobEvent]


class ClaimLost(Exception):
    """The job is somebody else's now, or this worker stops: write nothing more, end nothing."""


class Place(NamedTuple):
    """Where an execution runs."""

    client: RuntimeClient
    boot_id: str | None
    awake: threading.Event
    """Not set while the sandbox is paused: its runtime is silent, and not lost."""

    @classmethod
    def of(cls, client: RuntimeClient, boot_id: str | None) -> Place:
        awake = threading.Event()
        awake.set()
        return cls(client, boot_id, awake)


class Settling(NamedTuple):
    """What Redis has been told, and whether it kept it is yet to be seen."""

    job_id: str
    held: HeldJob | None
    """None: an earlier worker told it. Where it is not kept, who resumes the job tells it; so it is
    where this one has been let go."""
    client: RuntimeClient
    execution: str
    n: int
    appended_at: float


class Publisher:
    """Safe to share between the threads of a worker."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        stream: EventStream,
        node_id: str,
        settle_s: float,
    ) -> None:
        self._jobs = jobs
        self._stream = stream
        self._node_id = node_id
        self._settle_s = settle_s
        self._settling: deque[Settling] = deque()
        self._acknowledger = Acknowledger()
        self._stopped = threading.Event()

    def publish(
        self,
        held: HeldJob,
        place: Place,
        execution: str,
        request: ExecutionRequest,
        *,
        translate: Translate,
        steps_at: Callable[[RuntimeEvent], Sequence[StepRecord] | None] = lambda _: None,
        resumed: bool,
    ) -> Complete | Error:
        """Runs an execution, or resumes it, and returns the runtime's terminal event.

        `translate` gives for each event of the runtime the one event of the job that stands for
        it; `steps_at` the steps to note with it. What cannot be run ends in an `Error` of ours.
        Raises `ClaimLost`.
        """
        unreachable_since: float | None = None
        fresh = not resumed
        while True:
            self._check(held)
            if not place.awake.wait(PAUSE_LOOK_S):
                unreachable_since = None
                continue
            after = (
                0
                if fresh
                else self.patiently(held, lambda: self._jobs.last_n(held.job.id, execution))
            )
            fresh = False
            asked_at = time.monotonic()
            opened_at: float | None = None
            try:
                with (
                    place.client.execution(
                        execution, request, boot_id=place.boot_id, after=after
                    ) as reader,
                    held.reading(place.client, execution, reader),
                ):
                    opened_at = time.monotonic()
                    # A cancel that came while nothing was connected; a silent program tells none.
                    held.pass_on_cancel()
                    for batch in reader:
                        unreachable_since = None
                        self._keep(held, place, execution, batch, translate, steps_at)
                        last = batch[-1].event
                        if isinstance(last, Complete | Error):
                            return last
                reason = "its stream ended early"
            except ExecutionForgotten as fault:
                with suppress(RuntimeFault):  # It may have ended, too.
                    place.client.cancel(execution, CancelReason.SUPERSEDED)
                return _error(fault, "output_lost")
            except RuntimeUnreachable as fault:
                reason = fault.message
            except RuntimeFault as fault:
                return _error(fault, fault.code)
            if held.let_go:
                raise ClaimLost
            now = time.monotonic()
            if opened_at is not None and now - opened_at > RUNTIME_PATIENCE_S:
                unreachable_since = None  # It was there all the time, and had nothing to tell.
            unreachable_since = unreachable_since or (now if opened_at else asked_at)
            if now - unreachable_since > RUNTIME_PATIENCE_S:
                log.warning("runtime out of reach", job_id=held.job.id, reason=reason)
                return Error(
                    timestamp=timestamp(),
                    code=SANDBOX_LOST,
                    error="The sandbox ended, or its runtime does not answer.",
                    hint=LOST_HINT,
                )
            time.sleep(0.05)

    def append(
        self,
        held: HeldJob,
        execution: str,
        events: Sequence[NumberedEvent],
        *,
        steps: Sequence[StepRecord] | None = None,
    ) -> None:
        """Adds events, waiting for Redis where it is away. Raises `ClaimLost`."""
        appended = self.patiently(
            held, lambda: self._stream.append(held.writer, execution, events, steps=steps)
        )
        if appended.outcome is Outcome.HOLE:
            log.warning("redis forgot events", job_id=held.job.id, last_n=appended.last_n)
            self.patiently(held, lambda: self._resume(held))
        if appended.outcome in (Outcome.MISSING, Outcome.COMPLETED):
            # Redis was emptied, or the job was ended elsewhere: nobody wants its output.
            held.cancel(CancelReason.SUPERSEDED)
        if appended.outcome is not Outcome.OK:
            raise ClaimLost

    def patiently(self, held: HeldJob, call: Callable[[], T]) -> T:
        """What the call returns, made again for as long as Redis is away. Raises `ClaimLost`."""
        deadline = time.monotonic() + STORE_PATIENCE_S
        pause_s = 0.05
        while True:
            try:
                return call()
            except (StoreUnavailable, StoreFull) as fault:
                if held.let_go or time.monotonic() > deadline:
                    raise ClaimLost from fault
                log.warning("waiting for redis", job_id=held.job.id, reason=fault.message)
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)

    def run_settling(self) -> None:
        """The body of the thread that acknowledges what has settled."""
        while not self._stopped.wait(SETTLE_ROUND_S):
            try:
                self._settle()
            except StoreUnavailable:
                pass  # What waits goes on waiting.
            except Exception:
                log.exception("settling failed")

    def settle_left_over(self, place: Place) -> None:
        """Has acknowledged, too, what an earlier worker published and had no time to."""
        try:
            there = place.client.executions()
        except RuntimeFault as fault:
            log.warning("left over is not known", reason=fault.message)
            return
        now = time.monotonic()
        for execution in there:
            job_id, _, _ = execution.id.partition(".")
            if execution.running and self._is_over(job_id):
                # It was ended while this node was away.
                with suppress(RuntimeFault):
                    place.client.cancel(execution.id, CancelReason.SUPERSEDED)
            elif not execution.running:
                self._settling.append(
                    Settling(job_id, None, place.client, execution.id, execution.last_n, now)
                )

    def _is_over(self, job_id: str) -> bool:
        try:
            return self._jobs.get(job_id).status is Status.COMPLETED
        except JobNotFound:
            return True
        except StoreUnavailable:
            return False

    def stop(self) -> None:
        self._stopped.set()
        self._acknowledger.stop()

    def _keep(
        self,
        held: HeldJob,
        place: Place,
        execution: str,
        batch: list[Numbered],
        translate: Translate,
        steps_at: Callable[[RuntimeEvent], Sequence[StepRecord] | None],
    ) -> None:
        self._check(held)
        events = [NumberedEvent(one.n, translate(one.event)) for one in batch]
        steps = None
        for numbered in batch:
            steps = steps_at(numbered.event) or steps
        self.append(held, execution, events, steps=steps)
        self._settling.append(
            Settling(held.job.id, held, place.client, execution, batch[-1].n, time.monotonic())
        )

    def _settle(self) -> None:
        due: dict[tuple[str, str], Settling] = {}
        limit = time.monotonic() - self._settle_s
        while self._settling and self._settling[0].appended_at <= limit:
            item = self._settling.popleft()
            due[item.job_id, item.execution] = item
        if not due:
            return
        acks: dict[RuntimeClient, dict[str, int]] = {}
        forgotten: list[tuple[Settling, HeldJob, int]] = []
        try:
            kept = self._jobs.last_ns(due)
        except StoreUnavailable:
            self._settling.extendleft(reversed(due.values()))
            raise
        for item, kept_n in zip(due.values(), kept, strict=True):
            if kept_n >= item.n:
                acks.setdefault(item.client, {})[item.execution] = item.n
            elif item.held is not None and not item.held.let_go:
                forgotten.append((item, item.held, kept_n))
        for client, numbers in acks.items():
            self._acknowledger.tell(client, numbers)
        try:
            while forgotten:
                item, held, kept_n = forgotten[-1]
                log.warning("redis forgot events", job_id=item.job_id, last_n=kept_n)
                self._resume(held)
                forgotten.pop()
        finally:
            # Redis went away between two of them: what was not looked at is looked at later.
            self._settling.extendleft(item for item, _, _ in reversed(forgotten))

    def _resume(self, held: HeldJob) -> None:
        """Has the job claimed anew at once, and taken up where Redis is: all of it, in order.

        So that a build's next step does not go on over the gap. Raises `StoreUnavailable`.
        """
        if not self._jobs.send_to_node(held.job, self._node_id):
            held.cancel(CancelReason.SUPERSEDED)  # Redis was emptied: nobody wants its output.
        held.release()

    def _check(self, held: HeldJob) -> None:
        if held.let_go:
            raise ClaimLost


def _error(fault: RuntimeFault, code: str) -> Error:
    return Error(timestamp=timestamp(), code=code, error=fault.message, hint=fault.hint)
