"""Jobs as a client of the HTTP API sees them; a fake node tells their events."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.fake_relay import FakeRelay
from tests.integration.web_client import (
    AT_ONCE,
    STREAM,
    Web,
    code_of,
    field_of,
    json_of,
    received,
    wait_for,
    web_on,
)
from tests.integration.web_node import NODE, NOW, FakeNode
from tests.redis_server import RedisServer
from workers.contract.jobs import BuildSpec, CodeSpec, ExecSpec, Job, JobKind, new_id
from workers.contract.queue import CancelJob
from workers.contract.stream import events_key

EXEC = "/v1/sandboxes/box/exec"
CODE = "/v1/sandboxes/box/code"
BUILD = {"repoUrl": "https://example.org/a.git", "steps": [{"name": "test", "commands": ["make"]}]}


@pytest.fixture
def node(redis_server: RedisServer) -> Iterator[FakeNode]:
    redis_server.empty()
    with FakeNode(redis_server) as node:
        yield node


@pytest.fixture
def web(redis_server: RedisServer, node: FakeNode) -> Iterator[Web]:
    with FakeRelay() as relay, web_on(redis_server, relay_socket=relay.socket) as web:
        web.sandbox()
        yield web


def test_a_command_is_waited_for_and_answered_with_its_result(web: Web) -> None:
    result = web.exec("say hi")

    assert (result["stdout"], result["exitCode"], result["conclusion"]) == ("hi\n", 0, "success")
    assert web.job(result["jobId"])["status"] == "completed"


def test_a_command_that_fails_is_an_answer_and_no_error(web: Web) -> None:
    result = web.exec("fail")

    assert (result["exitCode"], result["success"], result["stderr"]) == (3, False, "no\n")


def test_a_job_that_was_lost_is_answered_with_what_it_printed_and_why(web: Web) -> None:
    result = web.exec("lose")

    assert (result["stdout"], result["exitCode"], result["conclusion"]) == ("half", None, "error")
    assert result["error"]["code"] == "sandbox_lost"
    assert result["durationMs"] == 1500


def test_bytes_come_back_as_one_piece_of_base64(web: Web) -> None:
    result = web.exec("bytes", encoding="base64")

    assert base64.b64decode(result["stdout"]) == b"\xff\x00A"


def test_a_stream_tells_every_event_with_its_id_and_ends_with_one_terminal_event(web: Web) -> None:
    answer = web.send("POST", EXEC, {"command": "count 50"}, STREAM)

    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache, no-transform"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.text.startswith(": ok\nretry: 2000\n\n")
    events = received(answer.text)
    assert [event.id for event in events] == [f"1-{seq}" for seq in range(1, 53)]
    assert [event.event["type"] for event in events] == ["start", *["stdout"] * 50, "complete"]
    assert {event.event["jobId"] for event in events} == {answer.headers["Location"][-26:]}


def test_a_job_that_is_left_to_run_is_found_at_its_location(web: Web) -> None:
    answer = web.send("POST", EXEC, {"command": "say hi"}, AT_ONCE)

    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    job_id = json_of(answer)["id"]
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    assert json_of(answer)["status"] == "queued"
    assert web.events(job_id)[-1].event["type"] == "complete"


def test_a_waiting_request_that_is_held_too_long_is_told_where_to_look(
    redis_server: RedisServer, node: FakeNode
) -> None:
    with web_on(redis_server, wait_limit_s=0.3) as web:
        web.sandbox()

        answer = web.send("POST", EXEC, {"command": "hold"})

        assert answer.status_code == 202
        node.let_go.set()
        events = web.events(json_of(answer)["id"])
        assert events[-1].event["type"] == "complete"


def test_readers_that_join_late_see_what_the_first_one_saw(web: Web, node: FakeNode) -> None:
    job_id = web.start("hold")
    with ThreadPoolExecutor(3) as pool:
        early = [pool.submit(web.events, job_id) for _ in range(2)]
        web.wait_for_status(job_id, "running")
        node.let_go.set()
        seen = [reader.result() for reader in early]

    late = web.events(job_id)

    assert [event.event["type"] for event in late] == ["start", "stdout", "complete"]
    assert seen == [late, late]


@pytest.mark.parametrize("at", range(1, 12))
def test_a_reader_that_comes_back_gets_the_rest_and_nothing_twice(web: Web, at: int) -> None:
    job_id = web.start("count 10")
    whole = web.events(job_id)

    by_header = web.events(job_id, after=f"1-{at}")
    by_query = web.send("GET", f"/v1/jobs/{job_id}/events?lastEventId=1-{at}")

    assert by_header == whole[at:]
    assert received(by_query.text) == whole[at:]


def test_a_reader_that_has_the_terminal_event_is_told_to_stay_away(web: Web) -> None:
    job_id = web.start("say hi")
    last = web.events(job_id)[-1].id

    answer = web.send("GET", f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last})

    assert (answer.status_code, answer.data) == (204, b"")


@pytest.mark.parametrize("event_id", ["x", "1", "-1-1", "2-1", "9" * 40, "1-1; x", "é", "0x1-1"])
def test_an_event_id_that_is_none_of_the_job_s_is_refused(web: Web, event_id: str) -> None:
    job_id = web.start("say hi")
    web.events(job_id)

    answer = web.send("GET", f"/v1/jobs/{job_id}/events", query_string={"lastEventId": event_id})

    assert (answer.status_code, code_of(answer)) == (400, "invalid_event_id")


def test_who_saw_more_than_redis_kept_of_a_job_is_told_its_end(web: Web) -> None:
    job_id = web.start("say hi")
    end = web.events(job_id)[-1]

    told = web.events(job_id, after="1-99")

    assert told == [end]


def test_events_that_are_no_longer_kept_are_gone(web: Web, node: FakeNode) -> None:
    result = web.exec("say hi")
    node.stream._client.delete(events_key(result["jobId"]))

    answer = web.send("GET", f"/v1/jobs/{result['jobId']}/events")

    assert (answer.status_code, code_of(answer)) == (410, "events_expired")


def test_a_silent_stream_is_kept_alive_by_comments(web: Web, node: FakeNode) -> None:
    answer = web.send("POST", EXEC, {"command": "hold"}, STREAM, buffered=False)
    chunks = answer.iter_encoded()

    beats = sum(chunk == b": hb\n\n" for chunk in itertools.islice(chunks, 6))
    node.let_go.set()

    assert beats >= 2
    assert received(b"".join(chunks).decode())[-1].event["type"] == "complete"


def test_a_reader_that_leaves_ends_nothing(web: Web, node: FakeNode) -> None:
    answer = web.send("POST", EXEC, {"command": "hold"}, STREAM, buffered=False)
    next(iter(answer.response))

    answer.close()

    job_id = answer.headers["Location"][-26:]
    node.let_go.set()
    assert web.events(job_id)[-1].event["conclusion"] == "success"


def test_a_job_that_asked_for_it_ends_with_its_reader(web: Web) -> None:
    body = {"command": "hold", "cancelOnDisconnect": True}
    answer = web.send("POST", EXEC, body, STREAM, buffered=False)
    next(iter(answer.response))

    answer.close()

    job_id = answer.headers["Location"][-26:]
    assert web.events(job_id)[-1].event["code"] == "cancelled"


def test_a_job_that_asked_for_it_and_ended_by_itself_is_not_cancelled(web: Web) -> None:
    body = {"command": "say hi", "cancelOnDisconnect": True}

    answer = web.send("POST", EXEC, body, STREAM)

    assert received(answer.text)[-1].event["conclusion"] == "success"
    job = web.job(answer.headers["Location"][-26:])
    assert job["conclusion"] == "success"


def test_a_queued_job_is_cancelled_at_once_from_any_place_in_its_line(
    web: Web, node: FakeNode
) -> None:
    first, second, third = web.start("hold"), web.start("say two"), web.start("say three")
    web.wait_for_status(first, "running")

    answer = web.send("POST", f"/v1/jobs/{second}/cancel")

    assert (answer.status_code, json_of(answer)) == (202, {"id": second, "status": "completed"})
    events = web.events(second)
    assert [(e.event["type"], e.event["code"]) for e in events] == [("error", "cancelled")]
    assert web.job(second)["conclusion"] == "cancelled"
    node.let_go.set()
    assert web.events(third)[1].event["data"] == "three\n"


def test_a_running_job_ends_when_its_node_hears_of_the_cancel(web: Web, node: FakeNode) -> None:
    job_id = web.start("hold")
    web.wait_for_status(job_id, "running")

    answers = [web.send("POST", f"/v1/jobs/{job_id}/cancel") for _ in range(3)]

    assert {answer.status_code for answer in answers} == {202}
    assert web.events(job_id)[-1].event["code"] == "cancelled"
    wait_for(lambda: CancelJob(job_id) in node.told, "the node is told")


def test_cancelling_a_job_that_has_ended_changes_nothing(web: Web) -> None:
    job_id = web.exec("say hi")["jobId"]

    answer = web.send("POST", f"/v1/jobs/{job_id}/cancel")

    assert (answer.status_code, json_of(answer)["status"]) == (202, "completed")
    assert web.job(job_id)["conclusion"] == "success"


def test_the_next_in_line_is_sent_when_the_head_is_cancelled_before_it_ran(
    redis_server: RedisServer,
) -> None:
    redis_server.empty()
    with web_on(redis_server) as web:
        with FakeNode(redis_server):
            web.sandbox()
        head, next_one = web.start("say head"), web.start("say next")

        web.send("POST", f"/v1/jobs/{head}/cancel")

        with FakeNode(redis_server):
            assert web.events(next_one)[1].event["data"] == "next\n"


@pytest.mark.parametrize("headers", [{}, STREAM, AT_ONCE])
def test_a_key_that_is_sent_again_gives_the_first_job_in_any_way(
    web: Web, headers: dict[str, str]
) -> None:
    key = {"Idempotency-Key": "once"}
    first = json_of(web.send("POST", EXEC, {"command": "say hi"}, key))

    again = web.send("POST", EXEC, {"command": "say hi"}, key | headers)

    if headers == STREAM:
        assert received(again.text)[-1].event["jobId"] == first["jobId"]
    elif headers == AT_ONCE:
        assert (json_of(again)["id"], json_of(again)["status"]) == (first["jobId"], "completed")
    else:
        assert json_of(again) == first
    assert len(json_of(web.send("GET", "/v1/jobs"))["jobs"]) == 1


def test_fifty_requests_with_one_key_at_once_make_one_job(web: Web) -> None:
    def send(_: int) -> str:
        key = {"Idempotency-Key": "many"}
        return str(json_of(web.send("POST", EXEC, {"command": "say hi"}, key))["jobId"])

    with ThreadPoolExecutor(16) as pool:
        job_ids = set(pool.map(send, range(50)))

    assert len(job_ids) == 1


def test_a_key_that_was_used_for_another_request_is_a_conflict(web: Web) -> None:
    key = {"Idempotency-Key": "once"}
    web.send("POST", EXEC, {"command": "say hi"}, key)

    answer = web.send("POST", EXEC, {"command": "say bye"}, key)

    assert (answer.status_code, code_of(answer)) == (409, "idempotency_conflict")


@pytest.mark.parametrize("key", ["", "x" * 201, "é", "a\tb"])
def test_a_key_that_cannot_be_kept_is_refused(web: Web, key: str) -> None:
    answer = web.send("POST", EXEC, {"command": "say hi"}, {"Idempotency-Key": key})

    assert (answer.status_code, field_of(answer)) == (422, "Idempotency-Key")


def test_a_key_whose_job_is_no_longer_kept_is_gone(web: Web, node: FakeNode) -> None:
    key = {"Idempotency-Key": "old"}
    job_id = json_of(web.send("POST", EXEC, {"command": "say hi"}, key))["jobId"]
    node.stream._client.delete(events_key(job_id), f"cf:job:{job_id}")

    answers = [web.send("POST", EXEC, {"command": "say hi"}, key | way) for way in ({}, AT_ONCE)]

    assert [(a.status_code, code_of(a)) for a in answers] == [(410, "events_expired")] * 2


def test_a_job_is_shown_with_what_was_asked_and_what_became_of_it(web: Web) -> None:
    job_id = web.exec("fail", cwd="/tmp", timeoutMs=5000)["jobId"]

    job = web.job(job_id)

    assert job["spec"] == {"kind": "exec", "command": "fail", "cwd": "/tmp", "timeoutMs": 5000}
    assert (job["kind"], job["status"], job["conclusion"]) == ("exec", "completed", "failure")
    assert (job["exitCode"], job["sandbox"], job["session"]) == (3, "box", "default")
    assert (job["node"], job["attempt"], job["startedAt"]) == (NODE, 1, NOW)


def test_another_owner_s_job_is_as_if_it_were_not_there(web: Web, node: FakeNode) -> None:
    other = Job(
        id=new_id(), kind=JobKind.BUILD, owner="eve", spec=BuildSpec(steps=[]), created_at=NOW
    )
    node.jobs.submit(other)

    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        answers = [
            web.send(method, f"/v1/jobs/{job_id}{path}", headers={"X-Request-Id": "r"})
            for job_id in (other.id, "a" * 26, "nonsense", "x" * 3000)
        ]
        bodies = {answer.text.replace(other.id, "a" * 26) for answer in answers[:2]}

        assert {answer.status_code for answer in answers} == {404}
        assert {code_of(answer) for answer in answers} == {"job_not_found"}
        assert len(bodies) == 1
    assert json_of(web.send("GET", "/v1/jobs"))["jobs"] == []


def test_the_list_of_jobs_has_every_job_once_newest_first(web: Web) -> None:
    job_ids = [web.start(f"say {n}") for n in range(23)]

    pages, cursor = [], ""
    while True:
        page = json_of(web.send("GET", f"/v1/jobs?limit=5{cursor}"))
        pages.append([job["id"] for job in page["jobs"]])
        if "nextCursor" not in page:
            break
        cursor = f"&cursor={page['nextCursor']}"

    listed = [job_id for page in pages for job_id in page]
    assert sorted(listed) == sorted(job_ids)
    assert set(listed[:5]) >= set(job_ids[-3:])


def test_jobs_of_one_millisecond_are_not_lost_between_two_pages(web: Web, node: FakeNode) -> None:
    job_ids = [web.start("say x") for _ in range(7)]
    for job_id in job_ids:
        node.stream._client.zadd("cf:jobs:default", {job_id: 1_700_000_000_000})

    listed, cursor = [], ""
    for _ in range(7):
        page = json_of(web.send("GET", f"/v1/jobs?limit=1{cursor}"))
        listed += [job["id"] for job in page["jobs"]]
        cursor = f"&cursor={page.get('nextCursor', '')}"

    assert sorted(listed) == sorted(job_ids)


def test_the_list_of_jobs_can_be_narrowed(web: Web) -> None:
    web.sandbox("other")
    web.exec("say x")
    web.exec("say y", box="other")
    web.send("POST", CODE, {"code": "picture"})

    def count(query: str) -> int:
        return len(json_of(web.send("GET", f"/v1/jobs?{query}"))["jobs"])

    assert [count(q) for q in ("", "kind=code", "sandbox=other", "kind=build")] == [3, 1, 1, 0]
    assert [count(q) for q in ("status=completed", "status=queued")] == [3, 0]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=1-2", "cursor"),
        ("status=done", "status"),
        ("kind=shell", "kind"),
        ("colour=red", "colour"),
    ],
)
def test_a_wrong_word_in_the_query_is_named(web: Web, query: str, field: str) -> None:
    answer = web.send("GET", f"/v1/jobs?{query}")

    assert (answer.status_code, field_of(answer)) == (422, field)


def test_a_cell_is_answered_with_its_logs_and_results(web: Web, node: FakeNode) -> None:
    answer = json_of(web.send("POST", CODE, {"code": "picture"}))

    assert answer["logs"] == {"stdout": ["drawn\n"], "stderr": []}
    assert (answer["results"][0]["png"], answer["results"][0]["text"]) == ("iVBORw0=", "<fig>")
    assert (answer["executionCount"], answer["conclusion"]) == (4, "success")
    spec = node.jobs.get(answer["jobId"]).spec
    assert isinstance(spec, CodeSpec)
    assert (spec.context, spec.language) == ("default-python", "python")


def test_a_cell_that_raises_is_answered_with_its_exception(web: Web) -> None:
    answer = json_of(web.send("POST", CODE, {"code": "raise", "language": "py"}))

    assert answer["exception"]["name"] == "ValueError"
    assert answer["conclusion"] == "failure"


def test_a_cell_runs_in_the_context_that_it_names(web: Web, node: FakeNode) -> None:
    path = "/v1/sandboxes/box/contexts"
    context = json_of(web.send("POST", path, {"language": "python3"}))

    answer = json_of(web.send("POST", CODE, {"code": "picture", "context": context["id"]}))

    spec = node.jobs.get(answer["jobId"]).spec
    assert isinstance(spec, CodeSpec)
    assert spec.context == context["id"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"code": "x", "language": "cobol"}, 422, "language_unsupported"),
        ({"code": "x", "context": "nope"}, 404, "context_not_found"),
        ({"code": "x" * (1024 * 1024 + 1)}, 422, "invalid_field"),
    ],
)
def test_a_cell_that_cannot_be_run_says_why(
    web: Web, body: dict[str, str], status: int, code: str
) -> None:
    answer = web.send("POST", CODE, body)

    assert (answer.status_code, code_of(answer)) == (status, code)


def test_a_session_that_is_not_there_is_not_made_up(web: Web) -> None:
    answer = web.send("POST", EXEC, {"command": "say hi", "session": "nope"})

    assert (answer.status_code, code_of(answer)) == (404, "session_not_found")


def test_a_program_without_a_shell_waits_for_no_session(web: Web, node: FakeNode) -> None:
    held = web.start("hold")
    web.wait_for_status(held, "running")

    answer = json_of(web.send("POST", EXEC, {"argv": ["say", "beside"]}))

    assert answer["stdout"] == "beside\n"
    node.let_go.set()


def test_a_build_is_answered_with_its_steps(web: Web) -> None:
    answer = web.send("POST", "/v1/builds", BUILD)

    job = json_of(answer)
    assert (answer.status_code, job["kind"], job["conclusion"]) == (200, "build", "success")
    assert [(s["name"], s["status"]) for s in job["steps"]] == [
        ("checkout", "completed"),
        ("test", "completed"),
    ]
    assert json_of(web.send("GET", f"/v1/builds/{job['id']}")) == job
    assert [b["id"] for b in json_of(web.send("GET", "/v1/builds"))["jobs"]] == [job["id"]]


def test_a_build_is_streamed_step_by_step(web: Web) -> None:
    answer = web.send("POST", "/v1/builds", BUILD, STREAM)

    types = [event.event["type"] for event in received(answer.text)]
    assert types == ["start", "step", "step", "complete"]


def test_a_job_of_another_kind_is_no_build(web: Web) -> None:
    job_id = web.exec("say hi")["jobId"]

    answer = web.send("GET", f"/v1/builds/{job_id}")

    assert (answer.status_code, code_of(answer)) == (404, "job_not_found")


def test_an_archive_arrives_whole_in_base64_and_as_a_file(web: Web, node: FakeNode) -> None:
    content = bytes(range(256)) * 1000
    steps = BUILD["steps"]
    encoded = base64.b64encode(content).decode()

    in_json = web.send("POST", "/v1/builds", {"archive": encoded, "steps": steps}, AT_ONCE)
    as_file = web.send(
        "POST",
        "/v1/builds",
        headers=AT_ONCE,
        data={
            "build": (io.BytesIO(json.dumps({"steps": steps}).encode()), "build.json"),
            "archive": (io.BytesIO(content), "source.tar"),
        },
    )
    plain_part = web.send(
        "POST",
        "/v1/builds",
        headers=AT_ONCE,
        data={
            "build": json.dumps({"steps": steps}),
            "archive": (io.BytesIO(content), "source.tar"),
        },
    )

    for answer in (in_json, as_file, plain_part):
        assert answer.status_code == 202, answer.text
        assert node.jobs.archive(json_of(answer)["id"]) == content


def test_an_archive_that_is_sent_twice_is_kept_once(web: Web, node: FakeNode) -> None:
    body = {"archive": "AAAA", "steps": BUILD["steps"]}
    for _ in range(3):
        web.send("POST", "/v1/builds", body, {"Idempotency-Key": "a"})

    assert len(node.jobs._client.keys("cf:job:*:archive")) == 1


def test_an_archive_over_the_limit_is_too_large(redis_server: RedisServer, node: FakeNode) -> None:
    with web_on(redis_server, max_archive_bytes=3000, max_body_bytes=2000) as web:
        base = {"steps": BUILD["steps"]}
        sizes = {size: base64.b64encode(bytes(size)).decode() for size in (3000, 3001, 9000)}

        answers = [
            web.send("POST", "/v1/builds", {**base, "archive": archive}, AT_ONCE).status_code
            for archive in sizes.values()
        ]

        assert answers == [202, 413, 413]


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({}, "build"),
        ({"build": "{}"}, "steps"),
        ({"build": json.dumps({"steps": BUILD["steps"]})}, "repoUrl"),
    ],
)
def test_a_form_without_what_a_build_needs_is_named(
    web: Web, parts: dict[str, str], field: str
) -> None:
    answer = web.send("POST", "/v1/builds", data=parts, content_type="multipart/form-data")

    assert (answer.status_code, field_of(answer)) == (422, field)


def test_a_form_with_a_part_that_nobody_asked_for_is_refused(web: Web) -> None:
    parts = {"build": json.dumps(BUILD), "extra": (io.BytesIO(b"x"), "x")}

    answer = web.send("POST", "/v1/builds", data=parts)

    assert (answer.status_code, field_of(answer)) == (422, "extra")


def test_a_builds_record_does_not_tell_what_its_repository_is_opened_with(web: Web) -> None:
    build = {**BUILD, "repoUrl": "https://me:secret@example.org/a.git"}

    job = json_of(web.send("POST", "/v1/builds", build, AT_ONCE))
    told = web.send("GET", f"/v1/builds/{job['id']}")

    assert job["spec"]["repoUrl"] == "https://***@example.org/a.git"
    assert b"secret" not in told.get_data()


def test_a_build_needs_a_node_that_is_ready(redis_server: RedisServer) -> None:
    redis_server.empty()
    with web_on(redis_server) as web:
        answer = web.send("POST", "/v1/builds", BUILD)

        assert (answer.status_code, code_of(answer)) == (503, "no_node")
        assert json_of(web.send("GET", "/v1/jobs"))["jobs"] == []


def test_more_readers_than_a_process_may_hold_are_sent_away(
    redis_server: RedisServer, node: FakeNode
) -> None:
    with web_on(redis_server, max_readers=1) as web:
        web.sandbox()
        held = web.send("POST", EXEC, {"command": "hold"}, STREAM, buffered=False)

        refused = web.send("POST", EXEC, {"command": "say hi"})
        at_once = web.send("POST", EXEC, {"command": "say hi"}, AT_ONCE)
        held.close()
        after = web.send("GET", f"/v1/jobs/{json_of(at_once)['id']}")

        assert (refused.status_code, code_of(refused)) == (503, "too_many_readers")
        assert refused.headers["Retry-After"]
        assert (at_once.status_code, after.status_code) == (202, 200)
        node.let_go.set()
        assert web.events(json_of(at_once)["id"])[-1].event["type"] == "complete"


def test_the_place_of_a_reader_is_free_again_however_it_ended(
    redis_server: RedisServer, node: FakeNode
) -> None:
    with web_on(redis_server, max_readers=1) as web:
        web.sandbox()
        job_id = web.exec("say hi")["jobId"]
        for _ in range(3):
            web.exec("lose")
            web.events(job_id)
            assert web.send("HEAD", f"/v1/jobs/{job_id}/events").status_code == 200
            assert web.send("POST", EXEC, {"command": "x", "session": "nope"}).status_code == 404
            key = {"Idempotency-Key": "k"}
            web.send("POST", EXEC, {"command": "say hi"}, key)
            assert web.send("POST", EXEC, {"command": "say ho"}, key).status_code == 409


def test_the_spec_of_a_command_is_what_was_asked(web: Web, node: FakeNode) -> None:
    job_id = web.start("say hi", env={"A": None}, stdin="in", outputLimitBytes=5)

    assert node.jobs.get(job_id).spec == ExecSpec(
        command="say hi", env={"A": None}, stdin="in", output_limit_bytes=5
    )
