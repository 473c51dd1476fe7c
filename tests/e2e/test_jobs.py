"""Jobs through the whole platform: HTTP, queue, container and back."""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client import Client, Received, check_stream, stdout_of, wait_for

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def box(api: Client) -> str:
    api.sandbox("jobs")
    return "jobs"


def exec_stream(api: Client, box: str, command: str, **options: object) -> list[Received]:
    return api.stream(f"/v1/sandboxes/{box}/exec", {"command": command, **options})


def sleepers(api: Client, box: str) -> list[str]:
    """Pids of the sleeps of 424x seconds; found without a shell, which would wait its turn."""
    answer = api.http.post(
        f"/v1/sandboxes/{box}/exec", json={"argv": ["pgrep", "-f", "^sleep 424[23]$"]}
    )
    return list(answer.json()["stdout"].split())


def test_a_command_answers_with_its_output_and_exit_code(api: Client, box: str) -> None:
    result = api.exec(box, "echo out; echo err >&2; (exit 3)")

    assert (result["stdout"], result["stderr"], result["exitCode"]) == ("out\n", "err\n", 3)
    assert (result["success"], result["conclusion"]) == (False, "failure")


def test_a_session_keeps_directory_variables_and_functions(api: Client, box: str) -> None:
    api.exec(box, "cd /usr; marker=here; greet() { echo hi $1; }")

    result = api.exec(box, "pwd; echo $marker; greet you")

    assert result["stdout"] == "/usr\nhere\nhi you\n"


def test_the_first_bytes_arrive_before_the_command_ends(api: Client, box: str) -> None:
    received = exec_stream(api, box, "printf a; sleep 1; printf b")

    check_stream(received)
    outputs = [item for item in received if item.event["type"] == "stdout"]
    assert [item.event["data"] for item in outputs] == ["a", "b"]
    assert outputs[1].at - outputs[0].at > 0.5


def test_a_reader_that_joins_late_sees_what_the_first_one_saw(api: Client, box: str) -> None:
    job_id = api.start_exec(box, "for i in $(seq 50); do echo $i; sleep 0.01; done")

    first = api.follow_to_the_end(job_id)
    late = api.follow_to_the_end(job_id)

    check_stream(first)
    assert [(item.id, item.event) for item in first] == [(item.id, item.event) for item in late]


def test_a_reader_that_came_to_the_end_is_told_to_stop(api: Client, box: str) -> None:
    job_id = api.start_exec(box, "true")
    last = api.follow_to_the_end(job_id)[-1].id

    answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last})

    assert answer.status_code == 204


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("seq 1 200000", "".join(f"{n}\n" for n in range(1, 200_001))),
        ("head -c 10000000 /dev/zero | tr '\\0' x", "x" * 10_000_000),
        (r"printf '\xff\xfeA'", "��A"),
        (r"printf 'a\0b'", "a\0b"),
        (r"printf '\xc3'; sleep 0.2; printf '\xa9'", "é"),
        (
            r"""printf '\n\ndata: {"type":"complete"}\n\nevent: done\nid: 9-9\n\n'""",
            '\n\ndata: {"type":"complete"}\n\nevent: done\nid: 9-9\n\n',
        ),
        (r"printf 'a\r\nb\r\xe2\x80\xa8c'", "a\r\nb\r\u2028c"),
    ],
    ids=["lines", "one-line", "not-utf8", "nul", "cut-character", "looks-like-sse", "line-ends"],
)
def test_output_arrives_as_what_it_is(api: Client, box: str, command: str, expected: str) -> None:
    received = exec_stream(api, box, command)

    check_stream(received)
    got = stdout_of(received)
    assert len(got) == len(expected)
    assert got == expected


def test_a_hundred_megabytes_arrive_whole_with_the_cap_raised(api: Client, box: str) -> None:
    size = 100 * MIB

    received = exec_stream(
        api, box, f"yes 0123456789abcde | head -c {size}", outputLimitBytes=size + 1
    )

    check_stream(received)
    got = stdout_of(received)
    assert len(got) == size
    expected = hashlib.sha256(b"0123456789abcde\n" * (size // 16)).hexdigest()
    assert hashlib.sha256(got.encode()).hexdigest() == expected


def test_output_over_the_cap_is_counted_and_said(api: Client, box: str) -> None:
    received = exec_stream(api, box, "seq 1 100000", outputLimitBytes=1000)

    check_stream(received)
    whole = "".join(f"{n}\n" for n in range(1, 100_001))
    assert stdout_of(received) == whole[:1000]
    truncated = [item.event for item in received if item.event["type"] == "truncated"]
    assert [event["droppedBytes"] for event in truncated] == [len(whole) - 1000]
    assert received[-1].event["exitCode"] == 0


def test_base64_gives_the_bytes_themselves(api: Client, box: str) -> None:
    result = api.exec(box, r"printf '\xff\x00\xfe'", encoding="base64")

    assert base64.b64decode(result["stdout"]) == b"\xff\x00\xfe"


def test_a_deadline_ends_the_command_and_keeps_the_session(api: Client, box: str) -> None:
    api.exec(box, "kept=yes")

    cut = api.exec(box, "echo before; sleep 60", timeoutMs=500)
    after = api.exec(box, "echo $kept")

    assert (cut["conclusion"], cut["exitCode"], cut["stdout"]) == ("timed_out", None, "before\n")
    assert cut["error"]["code"] == "timed_out"
    assert after["stdout"] == "yes\n"


def test_a_cancelled_command_is_gone_with_all_that_it_started(api: Client, box: str) -> None:
    job_id = api.start_exec(box, "setsid sleep 4242 & sleep 4243")
    wait_for(lambda: len(sleepers(api, box)) == 2, "both sleeps run")

    answer = api.http.post(f"/v1/jobs/{job_id}/cancel")
    received = api.follow_to_the_end(job_id)

    assert answer.status_code == 202
    assert (received[-1].event["type"], received[-1].event["code"]) == ("error", "cancelled")
    assert api.job(job_id)["conclusion"] == "cancelled"
    assert sleepers(api, box) == []


def test_jobs_of_one_session_run_in_order_while_another_answers(api: Client, box: str) -> None:
    api.http.post(f"/v1/sandboxes/{box}/sessions", json={"name": "other"})
    job_ids = [api.start_exec(box, f"echo {n} >> /workspace/order; sleep 0.02") for n in range(100)]

    beside = api.exec(box, "echo beside", session="other")
    last_meanwhile = api.job(job_ids[-1])["status"]
    for job_id in job_ids:
        api.follow_to_the_end(job_id)

    assert beside["stdout"] == "beside\n"
    assert last_meanwhile == "queued"
    order = api.exec(box, "cat /workspace/order; rm /workspace/order")["stdout"]
    assert order == "".join(f"{n}\n" for n in range(100))


def test_two_hundred_jobs_in_twenty_sandboxes_all_end_once(api: Client) -> None:
    boxes = [f"crowd-{n}" for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(api.sandbox, boxes))

    def one(n: int) -> list[Received]:
        return exec_stream(api, boxes[n % 20], f"for i in 1 2 3; do echo {n}-$i; done")

    with ThreadPoolExecutor(200) as pool:
        streams = list(pool.map(one, range(200)))

    for n, received in enumerate(streams):
        check_stream(received)
        assert received[-1].event["type"] == "complete"
        assert stdout_of(received) == f"{n}-1\n{n}-2\n{n}-3\n"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(api.remove, boxes))


def test_forty_sleeping_jobs_hold_up_neither_cancel_nor_delete_nor_a_new_job(
    api: Client, box: str
) -> None:
    api.sandbox("sleepy")
    body = {"argv": ["sleep", "600"]}
    job_ids = [api.submit("/v1/sandboxes/sleepy/exec", body) for _ in range(40)]
    wait_for(lambda: all(api.job(job_id)["status"] == "running" for job_id in job_ids), "all run")

    elsewhere = api.exec(box, "echo here")
    api.http.post(f"/v1/jobs/{job_ids[0]}/cancel")
    cancelled = api.follow_to_the_end(job_ids[0])
    api.remove("sleepy")
    ends = [api.follow_to_the_end(job_id) for job_id in job_ids[1:]]

    assert elsewhere["stdout"] == "here\n"
    assert cancelled[-1].event["code"] == "cancelled"
    for received in ends:
        check_stream(received)
        assert received[-1].event["code"] == "sandbox_removed"


def test_a_deleted_session_takes_its_jobs_with_it(api: Client, box: str) -> None:
    api.http.post(f"/v1/sandboxes/{box}/sessions", json={"name": "doomed"})
    running = api.start_exec(box, "sleep 4244", session="doomed")
    waiting = api.start_exec(box, "echo never", session="doomed")
    wait_for(lambda: api.job(running)["status"] == "running", "the first one runs")

    answer = api.http.delete(f"/v1/sandboxes/{box}/sessions/doomed")

    assert answer.status_code == 204
    for job_id in (running, waiting):
        received = api.follow_to_the_end(job_id)
        check_stream(received)
        assert received[-1].event["code"] == "session_deleted"


def test_the_same_idempotency_key_gives_the_same_job(api: Client, box: str) -> None:
    path, body = f"/v1/sandboxes/{box}/exec", {"command": "echo once >> /workspace/ledger"}
    headers = {"Idempotency-Key": "ledger-1"}

    answers = [api.http.post(path, json=body, headers=headers).json() for _ in range(3)]

    assert len({answer["jobId"] for answer in answers}) == 1
    assert api.exec(box, "cat /workspace/ledger")["stdout"] == "once\n"
