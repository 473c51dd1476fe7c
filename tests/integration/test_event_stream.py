"""The event stream against a real Redis: written once, read whole, followed without a gap."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import count

import pytest
import redis

from sandbox_runtime.protocol.events import Complete, Conclusion, Error, Start, Stdout
from tests.client import wait_for
from tests.redis_server import RedisServer
from workers.contract.connection import RedisClient, connect
from workers.contract.errors import EventsExpired, JobNotFound
from workers.contract.events import BEFORE_ALL, EventId
from workers.contract.jobs import ExecSpec, Job, JobKind, Status, line_of, new_id
from workers.contract.sandboxes import Sandbox, SandboxSpec, SandboxState
from workers.contract.settings import StoreSettings
from workers.contract.store import JobStore, SandboxStore
from workers.contract.stream import (
    PAGE_EVENTS,
    EventStream,
    Hub,
    NumberedEvent,
    Outcome,
    Writer,
    channel_of,
    follow,
)

NOW = "2026-01-01T00:00:00.000Z"
START = NumberedEvent(1, Start(timestamp=NOW, command="true"))


class Bench:
    """A Redis with one running sandbox, and jobs to write events of."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.jobs = JobStore(client, retention_s=600)
        self.sandboxes = SandboxStore(client, retention_s=600)
        self.stream = EventStream(client, retention_s=600, now=lambda: NOW)
        self.sandbox = Sandbox(
            id=new_id(), name="box", owner="ann", spec=SandboxSpec(), created_at=NOW
        )
        self.sandboxes.find_or_create(self.sandbox)
        self.sandboxes.claim_for_node(self.sandbox.id, "node-1")
        self.sandboxes.move(
            self.sandbox, to=SandboxState.RUNNING, since=[SandboxState.CREATING], boot_id="boot"
        )

    def submitted(self, session: str = "default") -> Job:
        spec = ExecSpec(command="true", session=session)
        job = Job(
            id=new_id(),
            kind=JobKind.EXEC,
            owner="ann",
            spec=spec,
            created_at=NOW,
            sandbox_id=self.sandbox.id,
            sandbox="box",
            line=line_of(self.sandbox.id, spec),
        )
        self.jobs.submit(job)
        return job

    def claimed(self, session: str = "default") -> Writer:
        job = self.submitted(session)
        return self.claim(job)

    def claim(self, job: Job) -> Writer:
        claim = self.jobs.claim(job.id, node="node-1", now=NOW, lease_ms=30_000)
        assert claim is not None
        return Writer(job.id, job.line, job.sandbox_id, claim.job.fence)


@pytest.fixture
def bench(redis_server: RedisServer) -> Iterator[Bench]:
    redis_server.empty()
    client = connect(StoreSettings(redis_server.url, 600), max_connections=20)
    yield Bench(client)
    client.connection_pool.disconnect()
    client.close()


@pytest.fixture
def hub(bench: Bench) -> Iterator[Hub]:
    hub = Hub(bench.client)
    hub.start()
    yield hub
    hub.stop()


def sent(bench: Bench) -> list[str]:
    """Ids of the jobs whose nudges lie in the node's queue, oldest first."""
    messages = [json.loads(raw) for raw in bench.client.lrange("node.node-1", 0, -1)]
    return [message["headers"]["id"] for message in reversed(messages)]


def out(n: int, text: str = "x") -> NumberedEvent:
    return NumberedEvent(n, Stdout(timestamp=NOW, data=text))


def end(n: int) -> NumberedEvent:
    complete = Complete(timestamp=NOW, conclusion=Conclusion.SUCCESS, duration_ms=1, exit_code=0)
    return NumberedEvent(n, complete)


def test_an_event_that_is_appended_twice_is_in_the_stream_once(bench: Bench) -> None:
    writer = bench.claimed()

    bench.stream.append(writer, "e", [START, out(2)])
    bench.stream.append(writer, "e", [out(2), out(3)])

    ids = [event.id for event in bench.stream.read(writer.job_id)]
    assert ids == [EventId(1, 1), EventId(1, 2), EventId(1, 3)]


def test_an_end_whose_answer_was_lost_can_be_told_again_by_who_told_it(bench: Bench) -> None:
    writer = bench.claimed()
    bench.stream.append(writer, "e", [START, end(2)])

    again = bench.stream.append(writer, "e", [START, end(2)])
    other = bench.stream.append(writer._replace(fence=7), "e", [START, end(2)])
    another_end = bench.stream.append(writer, "f", [end(1)])

    assert again == (Outcome.OK, 2)
    assert (other.outcome, another_end.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
    assert len(bench.stream.read(writer.job_id)) == 2


def test_a_job_that_has_ended_is_not_sent_again(bench: Bench) -> None:
    writer = bench.claimed()
    [sent_before] = bench.jobs.sent_jobs()
    bench.stream.append(writer, "e", [START, end(2)])
    bench.client.delete("node.node-1")

    bench.jobs.send(sent_before)

    assert sent(bench) == []
    assert bench.jobs.sent_jobs() == []


def test_events_that_would_leave_a_hole_are_refused_with_the_last_number_kept(
    bench: Bench,
) -> None:
    writer = bench.claimed()
    bench.stream.append(writer, "e", [START])

    appended = bench.stream.append(writer, "e", [out(3)])

    assert appended.outcome is Outcome.HOLE
    assert appended.last_n == 1
    assert len(bench.stream.read(writer.job_id)) == 1


def test_a_terminal_event_completes_the_record_and_nothing_follows_it(bench: Bench) -> None:
    writer = bench.claimed()

    bench.stream.append(writer, "e", [START, end(2)])
    after = bench.stream.append(writer, "e", [out(3)])

    job = bench.jobs.get(writer.job_id)
    assert (job.status, job.conclusion, job.exit_code) == (
        Status.COMPLETED,
        Conclusion.SUCCESS,
        0,
    )
    assert after.outcome is Outcome.COMPLETED
    assert bench.stream.read(writer.job_id)[-1].type == "complete"


def test_a_writer_whose_claim_was_taken_over_is_refused(bench: Bench) -> None:
    job = bench.submitted()
    old = bench.claim(job)
    new = bench.claim(job)

    refused = bench.stream.append(old, "e", [START])
    accepted = bench.stream.append(new, "e", [START])

    assert refused.outcome is Outcome.FENCED
    assert accepted.outcome is Outcome.OK


def test_closing_from_outside_wins_over_the_writer_that_holds_the_job(bench: Bench) -> None:
    writer = bench.claimed()
    error = NumberedEvent(1, Error(timestamp=NOW, code="sandbox_removed", error="gone"))

    bench.stream.append(writer._replace(fence=None), "close", [error])
    late = bench.stream.append(writer, "e", [START, end(2)])

    assert late.outcome is Outcome.COMPLETED
    assert [event.type for event in bench.stream.read(writer.job_id)] == ["error"]
    assert bench.jobs.get(writer.job_id).conclusion is Conclusion.CANCELLED


def test_the_end_of_a_job_lets_the_next_of_its_line_go(bench: Bench) -> None:
    first, second = bench.submitted(), bench.submitted()
    assert bench.jobs.claim(second.id, node="node-1", now=NOW, lease_ms=1) is None
    writer = bench.claim(first)

    before = sent(bench)
    bench.stream.append(writer, "e", [START, end(2)])

    assert sent(bench)[len(before) :] == [second.id]
    assert bench.jobs.claim(second.id, node="node-1", now=NOW, lease_ms=1) is not None


def test_a_job_that_is_submitted_twice_over_a_lost_answer_is_accepted_once(bench: Bench) -> None:
    job = bench.submitted()
    writer = bench.claim(job)

    bench.jobs.submit(job)
    bench.stream.append(writer, "e", [START, end(2)])
    again = bench.jobs.submit(job)

    assert again.job_id == job.id
    assert bench.jobs.get(job.id).status is Status.COMPLETED
    assert bench.client.llen(f"cf:line:{job.line}") == 0


def test_a_job_cancelled_in_the_middle_of_its_line_does_not_move_the_line(bench: Bench) -> None:
    head, middle, last = (bench.submitted() for _ in range(3))
    bench.claim(head)
    error = NumberedEvent(1, Error(timestamp=NOW, code="cancelled", error="cancelled"))

    closed = bench.stream.append(
        Writer(middle.id, middle.line, middle.sandbox_id, None), "close", [error], expect="queued"
    )

    assert closed.outcome is Outcome.OK
    assert sent(bench) == [head.id]
    assert bench.jobs.claim(last.id, node="node-1", now=NOW, lease_ms=1) is None


def test_a_follower_sees_every_event_once_whether_it_came_early_or_late(
    bench: Bench, hub: Hub
) -> None:
    writer = bench.claimed()
    early = follow(
        bench.stream,
        hub.subscribe(channel_of(writer.job_id)),
        writer.job_id,
        heartbeat_s=5,
    )
    seen_early: list[EventId] = []
    reading = threading.Thread(
        target=lambda: seen_early.extend(event.id for event in early if event)
    )
    reading.start()

    bench.stream.append(writer, "e", [START])
    for n in range(2, 3 * PAGE_EVENTS):
        bench.stream.append(writer, "e", [out(n)])
    bench.stream.append(writer, "e", [end(3 * PAGE_EVENTS)])
    reading.join(timeout=30)

    subscription = hub.subscribe(channel_of(writer.job_id))
    late = follow(bench.stream, subscription, writer.job_id, heartbeat_s=5)
    seen_late = [event.id for event in late if event]
    assert seen_early == seen_late == [EventId(1, seq + 1) for seq in range(3 * PAGE_EVENTS)]


def test_killed_pub_sub_connections_cost_a_follower_nothing(bench: Bench, hub: Hub) -> None:
    writer = bench.claimed()
    follower = follow(
        bench.stream, hub.subscribe(channel_of(writer.job_id)), writer.job_id, heartbeat_s=5
    )
    seen: list[EventId] = []
    reading = threading.Thread(target=lambda: seen.extend(event.id for event in follower if event))
    reading.start()

    bench.stream.append(writer, "e", [START])
    for n in range(2, 400):
        if n % 40 == 0:
            bench.client.client_kill_filter(_type="pubsub")
        bench.stream.append(writer, "e", [out(n)])
    bench.stream.append(writer, "e", [end(400)])
    reading.join(timeout=60)

    assert not reading.is_alive()
    assert seen == [EventId(1, seq) for seq in range(1, 401)]


def test_a_reader_that_comes_back_goes_on_behind_the_last_event_it_saw(
    bench: Bench, hub: Hub
) -> None:
    writer = bench.claimed()
    bench.stream.append(writer, "e", [START, out(2), out(3), end(4)])

    subscription = hub.subscribe(channel_of(writer.job_id))
    rest = follow(bench.stream, subscription, writer.job_id, after=EventId(1, 2), heartbeat_s=5)

    assert [event.id.seq for event in rest if event] == [3, 4]


@pytest.mark.parametrize("others", [0, 1], ids=["the last reader", "one of many"])
def test_redis_sends_nothing_of_a_job_that_nobody_reads_any_more(
    bench: Bench, hub: Hub, others: int
) -> None:
    for n in range(others):
        assert hub.subscribe(f"other-{n}").confirmed.wait(5)
    subscription = hub.subscribe("left")
    assert subscription.confirmed.wait(5)

    hub.unsubscribe(subscription)

    wait_for(lambda: bench.client.pubsub_numsub("left") == [(b"left", 0)], "it is told")


def test_a_channel_that_is_left_and_taken_up_again_is_heard(bench: Bench, hub: Hub) -> None:
    first = hub.subscribe("again")
    assert first.confirmed.wait(5)

    hub.unsubscribe(first)
    second = hub.subscribe("again")
    assert second.confirmed.wait(5)
    bench.client.publish("again", "heard")

    wait_for(lambda: b"heard" in (second.take(0.1) or []), "it is heard")


def test_a_follower_that_lags_is_bounded_and_still_sees_everything(bench: Bench, hub: Hub) -> None:
    writer = bench.claimed()
    subscription = hub.subscribe(channel_of(writer.job_id))
    follower = follow(bench.stream, subscription, writer.job_id, heartbeat_s=5)
    bench.stream.append(writer, "e", [START])
    first = next(follower)

    for n in range(2, 60):
        bench.stream.append(writer, "e", [out(n, "y" * 60_000)])
    bench.stream.append(writer, "e", [end(60)])

    assert first is not None
    assert subscription._waiting_bytes <= 1024 * 1024
    assert [event.id.seq for event in follower if event] == list(range(2, 61))


def test_following_a_job_whose_events_have_expired_says_so(bench: Bench, hub: Hub) -> None:
    writer = bench.claimed()
    bench.stream.append(writer, "e", [START, end(2)])
    bench.client.delete(f"cf:job:{writer.job_id}:events")

    subscription = hub.subscribe(channel_of(writer.job_id))

    with pytest.raises(EventsExpired):
        next(follow(bench.stream, subscription, writer.job_id, heartbeat_s=5))


def test_a_follower_who_saw_more_than_redis_kept_is_told_the_end_at_once(
    bench: Bench, hub: Hub
) -> None:
    writer = bench.claimed()
    subscription = hub.subscribe(channel_of(writer.job_id))
    ahead = follow(
        bench.stream, subscription, writer.job_id, after=EventId(1, 90), heartbeat_s=0.05
    )
    assert next(ahead) is None

    bench.stream.append(writer, "e", [START, out(2)])
    bench.stream.append(writer, "e", [end(3)])

    [told] = [event for event in ahead if event]
    assert (told.id, told.type) == (EventId(1, 3), "complete")


def test_a_follower_who_comes_back_ahead_of_an_ended_stream_is_told_the_end(
    bench: Bench, hub: Hub
) -> None:
    writer = bench.claimed()
    bench.stream.append(writer, "e", [START, end(2)])

    subscription = hub.subscribe(channel_of(writer.job_id))
    ahead = follow(bench.stream, subscription, writer.job_id, after=EventId(1, 90), heartbeat_s=5)

    assert [event.id for event in ahead if event] == [EventId(1, 2)]


def test_following_an_unknown_job_says_so_when_its_record_is_looked_for(bench: Bench) -> None:
    with pytest.raises(JobNotFound):
        bench.stream.is_over(new_id())


def test_ids_grow_by_one_whoever_writes(bench: Bench) -> None:
    writer = bench.claimed()
    counter = count(1)

    for execution in ("plan", "step-1", "step-2"):
        first = Start(timestamp=NOW, command=execution)
        bench.stream.append(writer, execution, [NumberedEvent(1, first), out(2)])

    seqs = [event.id.seq for event in bench.stream.read(writer.job_id, BEFORE_ALL)]
    assert seqs == [next(counter) for _ in range(6)]


def test_redis_itself_refuses_what_is_not_newer(bench: Bench) -> None:
    writer = bench.claimed()
    bench.stream.append(writer, "e", [START, out(2)])

    with pytest.raises(redis.exceptions.ResponseError):
        bench.client.xadd(f"cf:job:{writer.job_id}:events", {"t": "x", "e": "{}"}, id="1-1")
