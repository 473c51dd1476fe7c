"""Sends open jobs again whose nudge was lost, or whose worker has stopped renewing its lease."""

from __future__ import annotations

import time

import structlog

from workers.contract.jobs import Status
from workers.contract.queue import PLACEMENT_QUEUE, ControlChannel, JobQueue, node_queue
from workers.contract.store import JobStore, OpenJob

LOST_NUDGE_S = 10.0
"""A nudge that nobody has taken for so long, though the queue is empty, is gone."""

log = structlog.get_logger(__name__)


class Recovery:
    """What the leading worker does for the jobs of all nodes, round by round."""

    def __init__(self, *, jobs: JobStore, queue: JobQueue, channel: ControlChannel) -> None:
        self._jobs = jobs
        self._queue = queue
        self._channel = channel

    def send_lost(self) -> int:
        """One round; how many jobs were sent. Raises `StoreUnavailable`, `QueueUnavailable`."""
        now_ms = int(time.time() * 1000)
        due = [job for job in self._jobs.open_jobs() if _is_due(job, now_ms)]
        sent = []
        for job in due:
            if self._queue_is_empty(job):
                self._queue.nudge(job.id, job.kind, job.node)
                sent.append(job.id)
        if sent:
            self._jobs.note_nudge(sent)
            log.info("jobs sent again", count=len(sent))
        return len(sent)

    def resume_own(self, node_id: str) -> None:
        """At a worker's start: every job that the node had begun is sent to it again."""
        for job in self._jobs.open_jobs():
            if job.status is Status.RUNNING and job.node == node_id:
                self._queue.nudge(job.id, job.kind, node_id)
                log.info("job resumed", job_id=job.id)

    def _queue_is_empty(self, job: OpenJob) -> bool:
        queue = node_queue(job.node) if job.node else PLACEMENT_QUEUE
        return self._channel.queue_length(queue) == 0


def _is_due(job: OpenJob, now_ms: int) -> bool:
    if now_ms - job.nudged_ms < LOST_NUDGE_S * 1000:
        return False
    if job.status is Status.QUEUED:
        return job.is_head
    return job.lease_until_ms < now_ms
