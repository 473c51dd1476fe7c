"""Things are killed while jobs run; nothing is lost, nothing is told twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from sandbox_runtime.protocol.client import RuntimeClient
from tests.client import Client, Received, check_stream, stdout_of, wait_for
from tests.platform import Platform
from workers.contract.errors import NodeTaken
from workers.node import take_node_lock
from workers.sandbox_directory import SandboxDirectory

COUNT = "for i in $(seq 120); do echo $i; sleep 0.05; done"
COUNTED = "".join(f"{n}\n" for n in range(1, 121))
TOLD_ENOUGH = 20
"""Events after which something is killed."""


TWO_STEPS = [
    {"name": "first", "commands": ["echo one", "until [ -e go ]; do sleep 0.01; done", "echo two"]},
    {"name": "second", "commands": [COUNT]},
]


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox("recovery")
    yield "recovery"
    api.remove("recovery")


class Reader(threading.Thread):
    """Follows a job to its end, coming back with `Last-Event-ID` whenever it is cut off."""

    def __init__(self, api: Client, job_id: str) -> None:
        super().__init__(name=f"reader of {job_id}")
        self._api = api
        self._job_id = job_id
        self.received: list[Received] = []
        self.start()

    def run(self) -> None:
        self._api.follow_to_the_end(self._job_id, received=self.received, deadline_s=90)

    def whole(self) -> list[Received]:
        self.join(timeout=100)
        assert not self.is_alive()
        check_stream(self.received)
        return self.received


def counting(api: Client, box: str, **options: object) -> tuple[str, Reader]:
    """A job that counts, and its reader, once some of it was told."""
    job_id = api.start_exec(box, COUNT, **options)
    reader = Reader(api, job_id)
    wait_for(lambda: len(reader.received) > TOLD_ENOUGH, "the job counts")
    return job_id, reader


def runtime_of(platform: Platform, sandbox_id: str) -> RuntimeClient:
    directory = SandboxDirectory(platform.state_dir / "sandboxes", sandbox_id)
    return RuntimeClient(directory.socket, (directory.run / "token").read_text())


def let_go_on(platform: Platform, build_id: str) -> None:
    """The first of the two steps."""
    volume = SandboxDirectory(platform.state_dir / "sandboxes", build_id).volume
    (volume / "workspace/source/go").touch()


def take_until(events: Iterator[Received], stdout: str) -> list[Received]:
    """What came up to the first output of this text."""
    seen: list[Received] = []
    while not (seen and stdout in seen[-1].event.get("data", "")):
        seen.append(next(events))
    return seen


def snapshot(client: redis.Redis, keys: list[str]) -> dict[str, bytes]:
    """All of one moment, as Redis saves it: no event comes between."""
    with client.pipeline() as moment:
        for key in keys:
            moment.dump(key)
        return dict(zip(keys, moment.execute(), strict=True))


def put_back(client: redis.Redis, values: dict[str, bytes]) -> None:
    """At one moment, too."""
    with client.pipeline() as moment:
        for key, value in values.items():
            moment.restore(key, 0, value, replace=True)
        moment.execute()


def assert_counted(reader: Reader) -> None:
    received = reader.whole()
    assert stdout_of(received) == COUNTED
    assert received[-1].event["type"] == "complete"
    assert received[-1].event["exitCode"] == 0


def test_a_killed_worker_costs_a_reader_nothing(platform: Platform, api: Client, box: str) -> None:
    job_id, reader = counting(api, box)

    platform.kill("worker")
    platform.start("worker")

    assert_counted(reader)
    assert api.job(job_id)["attempt"] == 1


def test_a_worker_that_is_asked_to_stop_hands_its_jobs_over(
    platform: Platform, api: Client, box: str
) -> None:
    _, reader = counting(api, box)

    platform.stop("worker")
    platform.start("worker")

    assert_counted(reader)


def test_a_killed_web_process_costs_a_reader_that_comes_back_nothing(
    platform: Platform, api: Client, box: str
) -> None:
    _, reader = counting(api, box)

    platform.kill("web")
    platform.start("web")

    assert_counted(reader)


def test_killed_pub_sub_connections_cost_a_reader_nothing(
    platform: Platform, api: Client, box: str
) -> None:
    _, reader = counting(api, box)

    with redis.Redis.from_url(platform.redis_url) as client:
        while reader.is_alive():
            client.client_kill_filter(_type="pubsub")
            reader.join(timeout=1)

    assert_counted(reader)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_redis_that_comes_back_with_its_data_costs_a_reader_nothing(
    platform: Platform, api: Client, box: str, how: str
) -> None:
    _, reader = counting(api, box)

    if how == "kill":
        platform.kill("redis")
    else:
        platform.stop("redis")
    platform.start("redis")

    assert_counted(reader)


def test_a_build_goes_on_where_its_killed_worker_left_it(
    platform: Platform, api: Client, archive: str
) -> None:
    body = {
        "archive": archive,
        "steps": [
            {"name": "count", "commands": [COUNT]},
            {"name": "after", "commands": ["cat greeting.txt"]},
        ],
    }
    job_id = api.submit("/v1/builds", body)
    reader = Reader(api, job_id)
    wait_for(lambda: len(reader.received) > TOLD_ENOUGH, "the build counts")

    platform.kill("worker")
    platform.start("worker")

    received = reader.whole()
    assert stdout_of(received) == COUNTED + "hello\n"
    steps = [(step["name"], step["conclusion"]) for step in api.job(job_id)["steps"]]
    assert steps == [("checkout", "success"), ("count", "success"), ("after", "success")]


def test_what_redis_forgot_of_a_finished_step_is_told_again_at_once_and_in_order(
    platform: Platform, api: Client, archive: str
) -> None:
    job_id = api.submit("/v1/builds", {"archive": archive, "steps": TWO_STEPS})
    keys = [f"cf:job:{job_id}", f"cf:job:{job_id}:events"]
    reader = Reader(api, job_id)
    with redis.Redis.from_url(platform.redis_url) as client:
        wait_for(lambda: "one\n" in stdout_of(reader.received), "the first step runs")
        before = snapshot(client, keys)
        let_go_on(platform, job_id)
        wait_for(lambda: "1\n" in stdout_of(reader.received), "the second step runs")
        put_back(client, before)

    # Long before the job's lease lapses.
    wait_for(lambda: not reader.is_alive(), "the build ends", deadline_s=20)

    assert stdout_of(reader.whole()) == "one\ntwo\n" + COUNTED
    late = api.follow_to_the_end(job_id)
    assert [one.event["type"] for one in late] == [one.event["type"] for one in reader.received]
    assert stdout_of(late) == stdout_of(reader.received)


@pytest.mark.parametrize("comes_back", [False, True], ids=["who stays", "who comes back"])
def test_of_what_redis_forgot_and_nobody_keeps_every_reader_is_told_that_it_is_lost(
    platform: Platform, api: Client, archive: str, *, comes_back: bool
) -> None:
    job_id = api.submit("/v1/builds", {"archive": archive, "steps": TWO_STEPS})
    keys = [f"cf:job:{job_id}", f"cf:job:{job_id}:events"]
    with redis.Redis.from_url(platform.redis_url) as client, api.following(job_id) as events:
        seen = take_until(events, "one\n")
        before = snapshot(client, keys)
        let_go_on(platform, job_id)
        with closing(runtime_of(platform, job_id)) as runtime:
            second = f"{job_id}.1.step-2"
            wait_for(
                lambda: [one.id for one in runtime.executions()] == [second],
                "the first step's output is acknowledged",
            )
        put_back(client, before)
        if not comes_back:
            seen += events

    if comes_back:
        seen = api.follow_to_the_end(job_id, received=seen, deadline_s=20)

    assert [one.event.get("code") for one in seen if one.event["type"] == "error"] == [
        "output_lost"
    ]
    late = api.follow_to_the_end(job_id)
    assert (late[-1].id, late[-1].event) == (seen[-1].id, seen[-1].event)


def test_a_removal_that_its_node_was_never_told_of_is_carried_out(
    platform: Platform, api: Client
) -> None:
    made = api.sandbox("unheard")
    with redis.Redis.from_url(platform.redis_url) as client:
        client.hset(f"cf:sandbox:{made['id']}", "state", "removing")

    wait_for(lambda: api.http.get("/v1/sandboxes/unheard").status_code == 404, "it is gone")

    assert not (platform.state_dir / "sandboxes" / made["id"]).exists()


def test_a_sandbox_that_redis_was_not_told_of_as_made_becomes_running(
    platform: Platform, api: Client
) -> None:
    made = api.sandbox("untold")
    with redis.Redis.from_url(platform.redis_url) as client:
        client.hset(f"cf:sandbox:{made['id']}", "state", "creating")

    found = api.sandbox("untold")

    assert (found["id"], found["state"]) == (made["id"], "running")
    api.remove("untold")


def test_a_record_of_a_sandbox_that_its_node_does_not_have_ends_as_lost(
    platform: Platform, api: Client
) -> None:
    made = api.sandbox("ghost")
    with redis.Redis.from_url(platform.redis_url) as client:
        key = f"cf:sandbox:{made['id']}"
        before = snapshot(client, [key, f"{key}:events"])
        api.remove("ghost")
        put_back(client, before)
        client.sadd("cf:node:node-1:sandboxes", made["id"])

        wait_for(lambda: client.hget(key, "state") == b"failed", "it is missed")

        assert b"sandbox_lost" in client.hget(key, "error")


def test_a_job_accepted_while_no_worker_runs_is_run_later(
    platform: Platform, api: Client, box: str
) -> None:
    platform.kill("worker")
    job_id = api.start_exec(box, "echo late")

    platform.start("worker")

    received = api.follow_to_the_end(job_id)
    check_stream(received)
    assert stdout_of(received) == "late\n"


def test_a_silent_job_that_was_cancelled_while_no_worker_ran_is_ended_by_the_next(
    platform: Platform, api: Client, box: str
) -> None:
    job_id = api.submit(f"/v1/sandboxes/{box}/exec", {"argv": ["sleep", "600"]})
    wait_for(lambda: api.job(job_id)["status"] == "running", "it runs")
    platform.kill("worker")
    api.http.post(f"/v1/jobs/{job_id}/cancel")

    platform.start("worker")

    received = api.follow_to_the_end(job_id)
    check_stream(received)
    assert received[-1].event["code"] == "cancelled"


def test_what_a_killed_worker_owed_a_runtime_is_acknowledged_by_the_next(
    platform: Platform, api: Client, box: str
) -> None:
    with closing(runtime_of(platform, api.sandbox(box)["id"])) as runtime:
        api.exec(box, "echo told")
        assert runtime.executions()

        platform.kill("worker")
        platform.start("worker")

        wait_for(lambda: not runtime.executions(), "nothing is kept any more")


def test_a_second_worker_is_refused_a_node_that_is_served(platform: Platform) -> None:
    with pytest.raises(NodeTaken):
        take_node_lock(platform.state_dir, patience_s=0)


def test_a_job_whose_nudge_was_lost_is_sent_again(
    platform: Platform, api: Client, box: str
) -> None:
    platform.kill("worker")
    job_id = api.start_exec(box, "echo found")
    with redis.Redis.from_url(platform.redis_url) as client:
        assert client.delete("node.node-1") == 1

    platform.start("worker")

    received = api.follow_to_the_end(job_id, deadline_s=60)
    assert stdout_of(received) == "found\n"


def test_redis_away_is_said_at_once_and_no_traceback_reaches_a_client(
    platform: Platform, api: Client, box: str
) -> None:
    platform.stop("redis")
    try:
        answer = api.http.post(f"/v1/sandboxes/{box}/exec", json={"command": "true"}, timeout=5)
    finally:
        platform.start("redis")

    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    error = answer.json()["error"]
    assert (error["code"], bool(error["hint"])) == ("store_unavailable", True)
    assert "Traceback" not in answer.text
    wait_for(lambda: api.http.get("/readyz").status_code == 200, "ready again")


@pytest.mark.parametrize(
    "message",
    [
        b'{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", '
        b'"headers": {"lang": "py", "task": "coldframe.exec", "id": "x"}, "properties": '
        b'{"correlation_id": "x", "delivery_mode": 2, "delivery_tag": "x", "body_encoding": '
        b'"base64", "delivery_info": {"exchange": "", "routing_key": "placement"}}}',
        b"not a message",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"body": "W10=", "content-type": "application/x-python-serialize", "headers": {}, '
        b'"content-encoding": "binary", "properties": {"delivery_tag": "y", "delivery_info": {}}}',
    ],
    ids=["empty-body", "no-json", "list", "object", "no-utf8", "deep", "pickle"],
)
def test_a_poisoned_message_costs_nobody_a_worker(
    platform: Platform, api: Client, box: str, message: bytes
) -> None:
    before = platform.pid("worker")

    with redis.Redis.from_url(platform.redis_url) as client:
        client.lpush("placement", message)
        wait_for(lambda: client.llen("placement") == 0, "the message was taken")

    assert api.exec(box, "echo alive")["stdout"] == "alive\n"
    assert platform.pid("worker") == before
