"""How jobs come to be sent: owners in turn, no more at once than there are places."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from sandbox_runtime.protocol.events import Complete, Conclusion, Error
from tests.redis_server import RedisServer
from workers.contract.connection import RedisClient, connect
from workers.contract.counts import CountStore
from workers.contract.jobs import BuildSpec, BuildStep, ExecSpec, Job, JobKind, line_of, new_id
from workers.contract.owners import Limits
from workers.contract.sandboxes import NodeRecord, Sandbox, SandboxSpec, SandboxState
from workers.contract.settings import StoreSettings
from workers.contract.store import JobStore, NodeStore, SandboxStore
from workers.contract.stream import EventStream, NumberedEvent, Writer

NOW = "2026-01-01T00:00:00.000Z"
NODE = "node-1"
END = NumberedEvent(
    1, Complete(timestamp=NOW, conclusion=Conclusion.SUCCESS, duration_ms=1, exit_code=0)
)
CANCELLED = NumberedEvent(1, Error(timestamp=NOW, code="cancelled", error="It was cancelled."))


class Bench:
    """Nodes that take nothing by themselves: what is sent is looked at, and ended by hand."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.jobs = JobStore(client, retention_s=600)
        self.sandboxes = SandboxStore(client, retention_s=600)
        self.nodes = NodeStore(client)
        self.stream = EventStream(client, retention_s=600, now=lambda: NOW)
        self._boxes: dict[tuple[str, str], Sandbox] = {}

    def places(self, count: int, node: str = NODE) -> None:
        record = NodeRecord(id=node, driver="docker", ready=True, job_limit=count)
        self.nodes.beat(record, 60, holder=node)

    def submit(
        self,
        owner: str,
        *,
        node: str = NODE,
        session: str | None = None,
        at_once: int | None = None,
    ) -> str:
        """A command in a session's line, or (None) a program in none."""
        box = self._box(owner, node)
        spec = (
            ExecSpec(argv=["true"])
            if session is None
            else ExecSpec(command="true", session=session)
        )
        job = Job(
            id=new_id(),
            kind=JobKind.EXEC,
            owner=owner,
            spec=spec,
            created_at=NOW,
            sandbox_id=box.id,
            sandbox=box.name,
            line=line_of(box.id, spec),
        )
        self.jobs.submit(job, limits=Limits(jobs_at_once=at_once))
        return job.id

    def build(self, owner: str) -> str:
        spec = BuildSpec(steps=[BuildStep(name="s", commands=["true"])], repo_url="https://a.b/c")
        job = Job(id=new_id(), kind=JobKind.BUILD, owner=owner, spec=spec, created_at=NOW)
        self.jobs.submit(job)
        return job.id

    def sent(self, queue: str = f"node.{NODE}") -> list[str]:
        """Ids of the jobs that have a place, in the order in which they were sent."""
        nudges = [json.loads(raw)["headers"]["id"] for raw in self.client.lrange(queue, 0, -1)]
        held = self.client.hkeys(f"cf:places:{queue}")
        return [job_id for job_id in reversed(nudges) if job_id.encode() in held]

    def end(self, job_id: str, node: str = NODE) -> None:
        claim = self.jobs.claim(job_id, node=node, now=NOW, lease_ms=30_000)
        assert claim is not None
        job = claim.job
        self.stream.append(Writer(job.id, job.line, job.sandbox_id, job.fence), "run", [END])

    def cancel(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        self.stream.append(Writer(job.id, job.line, job.sandbox_id, None), "web", [CANCELLED])

    def _box(self, owner: str, node: str) -> Sandbox:
        if (owner, node) not in self._boxes:
            box = Sandbox(id=new_id(), name=node, owner=owner, spec=SandboxSpec(), created_at=NOW)
            self.sandboxes.find_or_create(box)
            self.sandboxes.claim_for_node(box.id, node)
            self.sandboxes.move(
                box, to=SandboxState.RUNNING, since=[SandboxState.CREATING], boot_id="boot"
            )
            self._boxes[owner, node] = box
        return self._boxes[owner, node]


@pytest.fixture
def bench(redis_server: RedisServer) -> Iterator[Bench]:
    redis_server.empty()
    client = connect(StoreSettings(redis_server.url, 600), max_connections=4)
    yield Bench(client)
    client.connection_pool.disconnect()
    client.close()


def test_jobs_beyond_the_places_wait_and_are_sent_as_places_get_free(bench: Bench) -> None:
    bench.places(2)
    jobs = [bench.submit("ann") for _ in range(4)]
    at_first = bench.sent()
    bench.end(jobs[1])
    after_one = bench.sent()
    bench.end(jobs[0])
    bench.end(jobs[2])

    assert at_first == jobs[:2]
    assert after_one == [jobs[0], jobs[2]]
    assert bench.sent() == [jobs[3]]


def test_owners_take_turns_however_much_one_of_them_heaped_up(bench: Bench) -> None:
    bench.places(1)
    heap = [bench.submit("ann") for _ in range(50)]
    others = [bench.submit("bob"), bench.submit("cid"), bench.submit("bob")]

    order = []
    for _ in range(6):
        (job_id,) = bench.sent()
        order.append(job_id)
        bench.end(job_id)

    assert order == [heap[0], heap[1], others[0], others[1], heap[2], others[2]]


def test_one_owner_leaves_a_quarter_of_the_places_to_the_others(bench: Bench) -> None:
    bench.places(8)
    heap = [bench.submit("ann") for _ in range(20)]
    other = bench.submit("bob")

    assert bench.sent() == [*heap[:6], other]


def test_an_owner_runs_no_more_at_once_than_its_key_may_on_all_nodes_together(
    bench: Bench,
) -> None:
    bench.places(8)
    bench.places(8, node="node-2")
    here = [bench.submit("ann", at_once=3) for _ in range(2)]
    there = [bench.submit("ann", node="node-2", at_once=3) for _ in range(3)]
    at_first = bench.sent("node.node-2")
    bench.end(here[0])

    assert bench.sent() == here[1:]
    assert at_first == there[:1]
    assert bench.sent("node.node-2") == there[:2]


def test_a_line_gives_its_place_to_the_other_owner_between_two_of_its_jobs(bench: Bench) -> None:
    bench.places(1)
    line = [bench.submit("ann", session="a") for _ in range(3)]
    other = bench.submit("bob", session="b")
    bench.end(line[0])

    assert bench.sent() == [other]
    bench.end(other)
    assert bench.sent() == [line[1]]


def test_a_job_that_is_cancelled_while_it_waits_is_never_sent(bench: Bench) -> None:
    bench.places(1)
    jobs = [bench.submit("ann") for _ in range(3)]
    only = bench.submit("bob")
    bench.cancel(jobs[1])
    bench.cancel(only)
    bench.end(jobs[0])

    assert bench.sent() == [jobs[2]]


def test_a_cancelled_job_that_was_sent_gives_its_place_away(bench: Bench) -> None:
    bench.places(1)
    first, second = bench.submit("ann"), bench.submit("ann")
    bench.cancel(first)

    assert bench.sent() == [second]


def test_what_waits_is_sent_when_a_node_has_more_places(bench: Bench) -> None:
    bench.places(1)
    jobs = [bench.submit("ann") for _ in range(3)]
    bench.places(3)
    bench.jobs.release()

    assert bench.sent() == jobs


def test_builds_wait_for_the_places_of_all_nodes_together(bench: Bench) -> None:
    bench.places(1)
    bench.places(1, node="node-2")
    bench.nodes.count_places()
    builds = [bench.build("ann") for _ in range(3)]

    assert bench.sent("placement") == builds[:2]


def test_a_place_of_a_job_that_redis_forgot_is_given_away(bench: Bench) -> None:
    bench.places(1)
    first, second = bench.submit("ann"), bench.submit("ann")
    bench.client.delete(f"cf:job:{first}")

    bench.jobs.sent_jobs()

    assert bench.sent() == [second]


def test_what_happened_is_counted(bench: Bench) -> None:
    bench.places(8)
    jobs = [bench.submit("ann") for _ in range(3)]
    bench.end(jobs[0])
    bench.cancel(jobs[1])

    counts = CountStore(bench.client).all()

    assert counts.jobs == {("exec", "success"): 1, ("exec", "cancelled"): 1}
    assert counts.events == 2
    assert sum(counts.waits["exec"].buckets.values()) == 1


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_in_whatever_order_every_job_is_sent_once_and_nothing_is_left(
    bench: Bench, seed: int
) -> None:
    chance = random.Random(seed)
    places = {"node-1": chance.randint(1, 6), "node-2": chance.randint(1, 6)}
    at_once = {"ann": chance.randint(1, 4), "bob": None, "cid": chance.randint(1, 9)}
    for node, count in places.items():
        bench.places(count, node)
    open_jobs: dict[str, tuple[str, str]] = {}
    ever_sent: set[str] = set()
    cancelled: set[str] = set()

    def look() -> list[tuple[str, str]]:
        """The jobs that have places, after a check that they may."""
        running = []
        for node, most in places.items():
            sent = bench.sent(f"node.{node}")
            assert len(sent) <= most
            running += [(job_id, node) for job_id in sent]
        owners = Counter(open_jobs[job_id][0] for job_id, _ in running)
        for owner, limit in at_once.items():
            assert limit is None or owners[owner] <= limit
        ever_sent.update(job_id for job_id, _ in running)
        return running

    for _ in range(150):
        running = look()
        match chance.choice(["submit", "submit", "end", "cancel"]):
            case "submit":
                owner, node = chance.choice(list(at_once)), chance.choice(list(places))
                session = chance.choice([None, "a", "b"])
                job_id = bench.submit(owner, node=node, session=session, at_once=at_once[owner])
                open_jobs[job_id] = (owner, node)
            case "end" if running:
                job_id, node = chance.choice(running)
                bench.end(job_id, node)
                del open_jobs[job_id]
            case "cancel" if open_jobs:
                job_id = chance.choice(list(open_jobs))
                bench.cancel(job_id)
                cancelled.add(job_id)
                del open_jobs[job_id]
    every = set(open_jobs)
    while open_jobs:
        running = look()
        assert running, f"{len(open_jobs)} jobs are open, and none is sent"
        bench.end(*running[0])
        del open_jobs[running[0][0]]

    assert every - cancelled <= ever_sent
    left = bench.client.keys("cf:places:*") + bench.client.keys("cf:waiting*")
    assert left + bench.client.keys("cf:places-taken") + bench.client.keys("cf:open-jobs:*") == []
