"""Sends open jobs again whose nudge was lost, or whose worker has stopped renewing its lease."""

from __future__ import annotations

import structlog

from workers.contract.jobs import Status
from workers.contract.store import JobStore, SentJob

LOST_NUDGE_S = 10.0
"""A nudge that nobody has taken for so long, though the queue is empty, is gone."""

LONGEST_LEASE_S = 120.0
"""A lease that ends later than that was given by a clock that was wrong."""

log = structlog.get_logger(__name__)


def send_lost(jobs: JobStore) -> int:
    """One round, for the jobs of all nodes; how many were sent. Raises `StoreUnavailable`."""
    now_ms = jobs.now_ms()
    lost = [job for job in jobs.sent_jobs() if is_due(job, now_ms) and jobs.is_queue_empty(job)]
    for job in lost:
        jobs.send(job)
    if lost:
        log.info("jobs sent again", count=len(lost))
    return len(lost)


def resume_own(jobs: JobStore, node_id: str) -> None:
    """At a worker's start: every job that its node had begun is sent to it again."""
    for job in jobs.sent_jobs():
        if job.status is Status.RUNNING and job.node == node_id:
            jobs.send(job)
            log.info("job resumed", job_id=job.id)


def is_due(job: SentJob, now_ms: int) -> bool:
    """Whether to send it again. What is to come counts as over: the clock was set back."""
    if 0 <= now_ms - job.sent_ms < LOST_NUDGE_S * 1000:
        return False
    if job.status is Status.QUEUED:
        return True
    return not 0 <= job.lease_until_ms - now_ms <= LONGEST_LEASE_S * 1000
