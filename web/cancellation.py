"""Ends jobs early: a queued one at once, a running one by telling its node."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from sandbox_runtime.protocol.events import Error
from workers.contract.jobs import Job, Status, StepStatus
from workers.contract.queue import CancelJob, ControlChannel
from workers.contract.store import JobStore
from workers.contract.stream import EventStream, NumberedEvent, Outcome, Writer

CANCELLED = "cancelled"

CLOSE = "close"
"""The execution that the terminal event of a job closed from outside is counted in."""

log = structlog.get_logger(__name__)


class Cancellation:
    """Safe to share between threads."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        stream: EventStream,
        control: ControlChannel,
        now: Callable[[], str],
    ) -> None:
        self._jobs = jobs
        self._stream = stream
        self._control = control
        self._now = now

    def cancel(self, job: Job) -> Status:
        """Where the job is now; asking again changes nothing. Raises `JobNotFound`."""
        # The record first: whoever claims the job from here on finds the request there.
        found = self._jobs.set_cancel(job.id, CANCELLED)
        if found.status is Status.QUEUED and self._close_queued(job):
            return Status.COMPLETED
        if found.status is not Status.COMPLETED:
            # It may have been claimed between the two looks.
            node = found.node or self._jobs.get(job.id).node
            if node is not None:
                self._control.send(node, CancelJob(job.id))
            return Status.RUNNING
        return Status.COMPLETED

    def _close_queued(self, job: Job) -> bool:
        """False where it is not queued any more."""
        error = Error(
            timestamp=self._now(), code=CANCELLED, error="The job was cancelled before it started."
        )
        steps = [msgspec.structs.replace(step, status=StepStatus.SKIPPED) for step in job.steps]
        appended = self._stream.append(
            Writer(job.id, job.line, job.sandbox_id, fence=None),
            CLOSE,
            [NumberedEvent(1, error)],
            steps=steps or None,
            expect=Status.QUEUED.value,
        )
        return appended.outcome in (Outcome.OK, Outcome.COMPLETED)
