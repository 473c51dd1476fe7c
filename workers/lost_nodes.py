"""Ends the jobs of nodes that are lost, or has them run again: the leader's work.

A node is lost when its heartbeat has been missing for a while in which Redis could be reached:
where it cannot be, no node could tell that it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import structlog

from sandbox_runtime.protocol.events import Error
from workers.contract.clock import timestamp
from workers.contract.errors import JobNotFound, SandboxNotFound, StoreUnavailable
from workers.contract.jobs import BuildSpec, Job, JobError, Status
from workers.contract.sandboxes import SandboxState
from workers.contract.store import THERE, JobStore, NodeStore, SandboxStore
from workers.contract.stream import EventStream, NumberedEvent, Writer

NODE_LOST = "node_lost"
LOST_HINT = "Send it again; if the node stays away, with another sandbox."

CLOSE = "close"
"""The execution that the terminal event of a job closed from outside is counted in."""

log = structlog.get_logger(__name__)


class LostNodes:
    """One thread's: not to be shared."""

    def __init__(
        self,
        *,
        nodes: NodeStore,
        jobs: JobStore,
        records: SandboxStore,
        stream: EventStream,
        missing_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`missing_s`: how long after its heartbeat has expired a node is lost."""
        self._missing_s = missing_s
        self._nodes = nodes
        self._jobs = jobs
        self._records = records
        self._stream = stream
        self._monotonic = monotonic
        self._missing_since: dict[str, float] = {}

    def forget(self) -> None:
        """Another worker leads, and counts."""
        self._missing_since.clear()

    def look(self) -> None:
        """One round. Raises `StoreUnavailable`."""
        try:
            missing = self._nodes.missing()
        except StoreUnavailable:
            self._missing_since.clear()
            raise
        now = self._monotonic()
        self._missing_since = {node: self._missing_since.get(node, now) for node in missing}
        for node, since in self._missing_since.items():
            if now - since >= self._missing_s:
                self._end_jobs(node)
        for node in self._nodes.to_be_removed():
            self._remove(node)

    def _remove(self, node: str) -> None:
        self._end_jobs(node)
        error = JobError(code=NODE_LOST, message=f"The node {node} was removed.", hint=LOST_HINT)
        for sandbox_id in self._nodes.sandboxes_of(node):
            try:
                sandbox = self._records.get(sandbox_id)
            except SandboxNotFound:
                continue
            since = (*THERE, SandboxState.REMOVING)
            self._records.move(sandbox, to=SandboxState.FAILED, since=since, error=error)
        self._nodes.forget(node)
        log.warning("node removed", removed_node=node)

    def _end_jobs(self, node: str) -> None:
        """Of a lost node, those that were sent to it later, too. Raises `StoreUnavailable`."""
        ended = again = 0
        for job in self._open_jobs(node):
            if self._is_retried(job, node):
                again += 1
            else:
                self._end(job, node)
                ended += 1
            if isinstance(job.spec, BuildSpec):
                self._give_up_build_sandbox(job)
        if ended or again:
            log.warning("node lost", lost_node=node, jobs_ended=ended, jobs_again=again)

    def _open_jobs(self, node: str) -> Iterator[Job]:
        of_sandboxes = (
            job_id
            for sandbox_id in self._nodes.sandboxes_of(node)
            for job_id in self._records.open_jobs(sandbox_id)
        )
        sent = (job.id for job in self._jobs.sent_jobs() if job.node == node)
        for job_id in dict.fromkeys((*of_sandboxes, *sent)):
            try:
                job = self._jobs.get(job_id)
            except JobNotFound:
                continue
            # A build that runs elsewhere by now had a sandbox here.
            if job.status is not Status.COMPLETED and job.node in (None, node):
                yield job

    def _is_retried(self, job: Job, node: str) -> bool:
        """Only a build can run elsewhere: other jobs are about a sandbox that is there."""
        if not isinstance(job.spec, BuildSpec) or job.spec.retries == 0:
            return False
        return self._jobs.retry(job, node, most_attempts=1 + job.spec.retries)

    def _end(self, job: Job, node: str) -> None:
        error = Error(
            timestamp=timestamp(),
            code=NODE_LOST,
            error=f"The node {node} does not answer.",
            hint=LOST_HINT,
        )
        sandbox_id = job.build_sandbox if isinstance(job.spec, BuildSpec) else job.sandbox_id
        writer = Writer(job.id, job.line, sandbox_id, None)
        self._stream.append(writer, CLOSE, [NumberedEvent(1, error)])

    def _give_up_build_sandbox(self, job: Job) -> None:
        """The node removes it when it comes back."""
        try:
            sandbox = self._records.get(job.build_sandbox)
        except SandboxNotFound:
            return
        self._records.move(sandbox, to=SandboxState.REMOVING, since=THERE, reason=NODE_LOST)
