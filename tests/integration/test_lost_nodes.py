"""What the leader does about nodes that are gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox_runtime.protocol.events import Start
from tests.redis_server import RedisServer
from workers.contract.connection import RedisClient, connect
from workers.contract.errors import NodeTaken, StoreUnavailable
from workers.contract.jobs import (
    BuildSpec,
    BuildStep,
    ExecSpec,
    Job,
    JobKind,
    Status,
    StepRecord,
    line_of,
    new_id,
)
from workers.contract.sandboxes import NodeRecord, Sandbox, SandboxSpec, SandboxState
from workers.contract.settings import StoreSettings
from workers.contract.store import Claim, JobStore, NodeStore, SandboxStore
from workers.contract.stream import EventStream, NumberedEvent, Outcome, Writer
from workers.lost_nodes import NODE_LOST, LostNodes

NOW = "2026-01-01T00:00:00.000Z"
LEASE_MS = 30_000
MISSING_S = 15.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Two nodes that do what the test says, and a leader whose clock is the test's."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.jobs = JobStore(client, retention_s=600)
        self.records = SandboxStore(client, retention_s=600)
        self.nodes = NodeStore(client)
        self.stream = EventStream(client, retention_s=600, now=lambda: NOW)
        self.clock = Clock()
        self.lost = LostNodes(
            nodes=self.nodes,
            jobs=self.jobs,
            records=self.records,
            stream=self.stream,
            missing_s=MISSING_S,
            monotonic=self.clock,
        )
        for node in ("node-1", "node-2"):
            self.beat(node)
        self.box = Sandbox(id=new_id(), name="box", owner="ann", spec=SandboxSpec(), created_at=NOW)
        self.records.find_or_create(self.box)
        self.records.claim_for_node(self.box.id, "node-2")
        self.records.move(
            self.box, to=SandboxState.RUNNING, since=[SandboxState.CREATING], boot_id="boot"
        )

    def beat(self, node: str, holder: str = "") -> bool:
        record = NodeRecord(id=node, driver="docker", ready=True, job_limit=8)
        return self.nodes.beat(record, 60, holder=holder or node)

    def end_node(self, node: str = "node-2") -> None:
        self.nodes.leave(node)

    def wait(self, seconds: float) -> None:
        self.lost.look()
        self.clock.now += seconds
        self.lost.look()

    def exec(self, session: str = "default") -> Job:
        spec = ExecSpec(command="true", session=session)
        job = Job(
            id=new_id(),
            kind=JobKind.EXEC,
            owner="ann",
            spec=spec,
            created_at=NOW,
            sandbox_id=self.box.id,
            sandbox="box",
            line=line_of(self.box.id, spec),
        )
        self.jobs.submit(job)
        return job

    def build(self, retries: int = 0) -> Job:
        spec = BuildSpec(
            steps=[BuildStep(name="s", commands=["true"])],
            repo_url="https://a.b/c",
            retries=retries,
        )
        steps = [StepRecord(name=name) for name in ("checkout", "s")]
        job = Job(
            id=new_id(), kind=JobKind.BUILD, owner="ann", spec=spec, created_at=NOW, steps=steps
        )
        self.jobs.submit(job)
        return job

    def claim(self, job: Job, node: str = "node-2") -> Claim:
        claim = self.jobs.claim(job.id, node=node, now=NOW, lease_ms=LEASE_MS)
        assert claim is not None
        return claim

    def has_sandbox(self, claim: Claim) -> None:
        """Makes a build's own, as its node does."""
        own = Sandbox(
            id=claim.job.build_sandbox,
            name=f"build-{claim.job.build_sandbox}",
            owner="ann",
            spec=SandboxSpec(),
            created_at=NOW,
        )
        self.records.find_or_create(own, may_be_ready=False)
        self.records.claim_for_node(own.id, "node-2")
        self.jobs.set_sandbox(claim.job.id, own.id)

    def tell(self, claim: Claim, n: int = 1) -> Outcome:
        job = claim.job
        writer = Writer(job.id, job.line, job.sandbox_id, job.fence)
        start = Start(timestamp=NOW, command="x", attempt=job.attempt)
        return self.stream.append(writer, "run", [NumberedEvent(n, start)]).outcome

    def kinds(self, job: Job) -> list[tuple[str, str]]:
        return [(str(event.id), event.type) for event in self.stream.read(job.id)]


@pytest.fixture
def bench(redis_server: RedisServer) -> Iterator[Bench]:
    redis_server.empty()
    client = connect(StoreSettings(redis_server.url, 600), max_connections=4)
    yield Bench(client)
    client.connection_pool.disconnect()
    client.close()


def test_the_jobs_of_a_lost_node_end_with_node_lost(bench: Bench) -> None:
    running, queued, build = bench.exec(), bench.exec(), bench.build()
    bench.tell(bench.claim(running))
    bench.claim(build)
    bench.end_node()
    bench.wait(MISSING_S + 1)

    for job in (running, queued, build):
        record = bench.jobs.get(job.id)
        assert (record.status, record.error and record.error.code) == (Status.COMPLETED, NODE_LOST)
        assert [kind for _, kind in bench.kinds(job)][-1:] == ["error"]
    assert bench.records.get(bench.box.id).state is SandboxState.RUNNING


def test_what_is_sent_to_a_lost_node_ends_too(bench: Bench) -> None:
    bench.end_node()
    bench.wait(MISSING_S + 1)
    late = bench.exec()
    bench.lost.look()

    error = bench.jobs.get(late.id).error
    assert error is not None
    assert error.code == NODE_LOST


def test_a_node_is_not_lost_before_its_time(bench: Bench) -> None:
    job = bench.exec()
    bench.end_node()
    bench.wait(MISSING_S - 1)
    bench.beat("node-2")
    bench.wait(2)
    bench.end_node()
    bench.wait(MISSING_S - 1)

    assert bench.jobs.get(job.id).status is Status.QUEUED


def test_time_in_which_redis_is_away_does_not_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.exec()
    bench.end_node()
    bench.lost.look()
    bench.clock.now += MISSING_S + 1
    with monkeypatch.context() as away:

        def refuse() -> set[str]:
            raise StoreUnavailable("away")

        away.setattr(bench.nodes, "missing", refuse)
        with pytest.raises(StoreUnavailable):
            bench.lost.look()
    bench.lost.look()

    assert bench.jobs.get(job.id).status is Status.QUEUED


def test_a_build_that_may_be_retried_runs_again_elsewhere_from_its_beginning(bench: Bench) -> None:
    build = bench.build(retries=1)
    first = bench.claim(build)
    bench.has_sandbox(first)
    bench.tell(first)
    bench.end_node()
    bench.wait(MISSING_S + 1)
    queued = bench.jobs.get(build.id)
    second = bench.claim(build, node="node-1")
    told = bench.tell(second)
    bench.lost.look()
    of_the_first = bench.tell(first, n=2)
    lease = bench.jobs.renew(first.job, LEASE_MS)

    assert (queued.status, queued.attempt, queued.node) == (Status.QUEUED, 2, None)
    assert (told, of_the_first) == (Outcome.OK, Outcome.FENCED)
    assert bench.kinds(build) == [("1-1", "start"), ("2-1", "start")]
    assert bench.records.get(build.id).state is SandboxState.REMOVING
    assert first.job.build_sandbox == build.id
    assert second.job.build_sandbox not in (build.id, bench.box.id)
    assert (lease.held, lease.is_over) == (False, True)


def test_a_build_is_not_retried_more_often_than_it_may_be(bench: Bench) -> None:
    build = bench.build(retries=1)
    bench.claim(build)
    bench.end_node()
    bench.wait(MISSING_S + 1)
    bench.claim(build, node="node-1")
    bench.end_node("node-1")
    bench.wait(MISSING_S + 1)

    record = bench.jobs.get(build.id)
    assert (record.status, record.attempt) == (Status.COMPLETED, 2)


def test_a_cancelled_build_is_not_retried(bench: Bench) -> None:
    build = bench.build(retries=5)
    bench.claim(build)
    bench.jobs.set_cancel(build.id, "cancelled")
    bench.end_node()
    bench.wait(MISSING_S + 1)

    assert bench.jobs.get(build.id).status is Status.COMPLETED


def test_a_node_that_was_ended_elsewhere_learns_it_from_its_lease(bench: Bench) -> None:
    job = bench.exec()
    claim = bench.claim(job)
    bench.end_node()
    bench.wait(MISSING_S + 1)

    assert bench.jobs.renew(claim.job, LEASE_MS).is_over
    assert bench.tell(claim) is Outcome.COMPLETED


def test_a_removed_node_is_forgotten_with_all_that_it_had(bench: Bench) -> None:
    job = bench.exec()
    bench.end_node()
    bench.nodes.set_removed("node-2")
    bench.lost.look()

    assert bench.jobs.get(job.id).status is Status.COMPLETED
    assert bench.records.get(bench.box.id).state is SandboxState.FAILED
    assert not bench.nodes.exists("node-2")
    assert bench.nodes.sandboxes_of("node-2") == set()
    assert bench.client.keys("*node-2*") == []


def test_two_workers_cannot_be_one_node(bench: Bench) -> None:
    with pytest.raises(NodeTaken):
        bench.beat("node-1", holder="another")
    restarted = bench.beat("node-1")
    bench.nodes.leave("node-1")
    bench.beat("node-1", holder="another")

    assert restarted is False
    with pytest.raises(NodeTaken):
        bench.beat("node-1")


def test_a_drained_node_is_told_so_with_its_heartbeat(bench: Bench) -> None:
    bench.nodes.set_drained("node-1", True)
    told = bench.beat("node-1")
    bench.nodes.set_drained("node-1", False)

    assert (told, bench.beat("node-1")) == (True, False)
