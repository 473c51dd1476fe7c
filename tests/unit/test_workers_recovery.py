"""Which jobs the leader sends again."""

from __future__ import annotations

import pytest

from workers.contract.jobs import JobKind, Status, new_id
from workers.contract.store import SentJob
from workers.recovery import is_due

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def job(status: Status, *, sent_ago_ms: int, leased_for_ms: int = 0) -> SentJob:
    return SentJob(
        id=new_id(),
        kind=JobKind.EXEC,
        status=status,
        node="node-1",
        sent_ms=NOW_MS - sent_ago_ms,
        lease_until_ms=NOW_MS + leased_for_ms,
    )


@pytest.mark.parametrize(
    ("sent_ago_ms", "due"), [(500, False), (11_000, True), (-HOUR_MS, True)], ids=str
)
def test_a_queued_job_is_sent_again_where_its_nudge_is_old_or_of_the_future(
    sent_ago_ms: int, due: bool
) -> None:
    assert is_due(job(Status.QUEUED, sent_ago_ms=sent_ago_ms), NOW_MS) is due


@pytest.mark.parametrize(
    ("leased_for_ms", "due"), [(20_000, False), (-1, True), (HOUR_MS, True)], ids=str
)
def test_a_running_job_is_sent_again_where_its_lease_has_lapsed_or_is_longer_than_any(
    leased_for_ms: int, due: bool
) -> None:
    running = job(Status.RUNNING, sent_ago_ms=60_000, leased_for_ms=leased_for_ms)

    assert is_due(running, NOW_MS) is due
