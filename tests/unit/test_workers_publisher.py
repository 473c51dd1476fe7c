"""What a worker does with a job of which Redis has forgotten something."""

from __future__ import annotations

from typing import cast

import pytest

from sandbox_runtime.protocol.requests import CancelReason
from workers.contract.jobs import ExecSpec, Job, JobKind, new_id
from workers.contract.store import JobStore
from workers.contract.stream import EventStream
from workers.held import HeldJob
from workers.publisher import Publisher


class Jobs:
    """A store that knows a job, or knows nothing any more."""

    def __init__(self, *, knows: bool) -> None:
        self.knows = knows
        self.sent: list[str] = []

    def send_to_node(self, job: Job, node: str) -> bool:
        self.sent.append(f"{job.id} to {node}")
        return self.knows


@pytest.mark.parametrize(("knows", "cancelled"), [(True, None), (False, CancelReason.SUPERSEDED)])
def test_a_job_is_taken_up_again_or_stopped_where_redis_was_emptied(
    *, knows: bool, cancelled: CancelReason | None
) -> None:
    jobs = Jobs(knows=knows)
    publisher = Publisher(
        jobs=cast(JobStore, jobs), stream=cast(EventStream, None), node_id="n", settle_s=2.0
    )
    job = Job(id=new_id(), kind=JobKind.EXEC, owner="o", spec=ExecSpec(command="x"), created_at="")
    held = HeldJob(job)

    publisher._resume(held)

    assert jobs.sent == [f"{held.job.id} to n"]
    assert (held.cancelled, held.let_go) == (cancelled, True)
