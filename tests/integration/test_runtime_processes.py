"""Background processes as the web asks for them: over the runtime's socket, real programs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running_runtime import TOKEN, RunningRuntime, running_runtime, wait_until

Json = dict[str, Any]

SESSION = {"cwd": "/"}

TREE = "trap '' TERM; for i in 1 2 3 4 5; do sleep 300 & done; (setsid sleep 301 &); sleep 302"

SERVER = """
import http.server, sys, time
time.sleep(float(sys.argv[2]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204 if self.path == "/ready" else 503)
        self.end_headers()
http.server.ThreadingHTTPServer((sys.argv[3], int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime() as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def _nothing_runs_after_a_test(http: httpx.Client) -> Iterator[None]:
    yield
    for process in http.get("/processes").json()["processes"]:
        if process["status"] == "running":
            http.post(f"/processes/{process['id']}/signal", json={"signal": "KILL"})
            wait(http, process, **{"for": "exit"})
        http.delete(f"/processes/{process['id']}")


def start(http: httpx.Client, command: str, **options: Any) -> Json:
    answer = http.post("/processes", json={"command": command, "session": SESSION, **options})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def run(http: httpx.Client, command: str, **options: Any) -> Json:
    return wait(http, start(http, command, **options), **{"for": "exit"})


def wait(http: httpx.Client, process: Json, **wanted: Any) -> Json:
    answer = http.post(f"/processes/{process['id']}/wait", json=wanted)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def get(http: httpx.Client, process: Json) -> Json:
    return dict(http.get(f"/processes/{process['id']}").json())


def kill(http: httpx.Client, process: Json) -> Json:
    return dict(http.delete(f"/processes/{process['id']}").json())


def logs(http: httpx.Client, process: Json) -> Json:
    return dict(http.get(f"/processes/{process['id']}/logs").json())


def events(http: httpx.Client, process: Json, after: int = 0) -> list[Json]:
    """To the end."""
    url = f"/processes/{process['id']}/events?after={after}"
    with http.stream("GET", url) as answer:
        return [json.loads(line) for line in answer.iter_lines() if line]


def text(events: list[Json], kind: str = "stdout") -> str:
    return "".join(one["event"]["data"] for one in events if one["event"]["type"] == kind)


def _is_truncated(http: httpx.Client, process: Json) -> bool:
    return bool(logs(http, process)["truncated"])


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def programs_with(mark: str) -> list[int]:
    """The pids of programs, zombies not, that have `mark` in their command line."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                if mark in (directory / "cmdline").read_text(errors="replace"):
                    found.append(int(directory.name))
            except OSError:
                pass
    return [pid for pid in found if pid != os.getpid()]


def test_a_process_has_a_pid_that_lives_while_it_runs(http: httpx.Client) -> None:
    process = start(http, "sleep 60")

    assert process["status"] == "running"
    assert process["startTime"].endswith("Z")
    os.kill(process["pid"], 0)
    kill(http, process)
    with pytest.raises(ProcessLookupError):
        os.kill(process["pid"], 0)


def test_what_a_fast_process_prints_is_in_its_log_at_once(http: httpx.Client) -> None:
    process = start(http, "echo fast; echo slow >&2; echo more")

    wait(http, process, **{"for": "exit"})

    assert logs(http, process) == {
        "stdout": "fast\nmore\n",
        "stderr": "slow\n",
        "truncated": False,
    }


@pytest.mark.parametrize(
    ("command", "status", "exit_code"),
    [
        ("true", "completed", 0),
        ('sh -c "exit 4"', "failed", 4),
        ("kill -TERM $$", "killed", 143),
        ("kill -KILL $$", "killed", 137),
        ("no-such-program", "failed", 127),
    ],
)
def test_how_it_ended_is_told(
    http: httpx.Client, command: str, status: str, exit_code: int
) -> None:
    ended = run(http, command)

    assert (ended["status"], ended["exitCode"]) == (status, exit_code)
    assert ended["endTime"] >= ended["startTime"]


def test_a_program_that_is_not_there_is_told_as_an_error(http: httpx.Client) -> None:
    answer = http.post("/processes", json={"argv": ["/no/such/program"], "session": SESSION})

    process = answer.json()
    assert process["status"] == "error"
    assert "No such file" in process["error"]
    (only,) = events(http, process)
    assert only["event"]["type"] == "error"
    assert refusal(
        http.post(f"/processes/{process['id']}/wait", json={"for": "log", "pattern": "x"})
    ) == (409, "process_ended")


def test_arguments_are_given_as_they_are(http: httpx.Client) -> None:
    argv = ["printf", "%s|", "a b", '"$HOME"', "`id`;", "line\nend", "tab\t\\"]

    process = http.post("/processes", json={"argv": argv, "session": SESSION}).json()
    wait(http, process, **{"for": "exit"})

    assert logs(http, process)["stdout"] == "".join(f"{word}|" for word in argv[2:])


def test_it_has_the_sessions_variables_directory_and_its_own(
    http: httpx.Client, runtime: RunningRuntime
) -> None:
    runtime.as_user("mkdir -p a/b")
    session = {"name": "s", "cwd": str(runtime.workspace / "a"), "env": {"A": "1", "B": "2"}}

    process = start(
        http, 'pwd; echo "$A $B $C"', session=session, cwd="b", env={"B": "it's", "C": "x$y"}
    )
    wait(http, process, **{"for": "exit"})

    assert process["session"] == "s"
    assert logs(http, process)["stdout"] == f"{runtime.workspace}/a/b\n1 it's x$y\n"


def test_ending_the_session_ends_its_processes_and_no_others(http: httpx.Client) -> None:
    inside = start(http, TREE, session={"name": "mine", "cwd": "/"})
    outside = start(http, "sleep 60")

    http.delete("/sessions/mine")

    assert get(http, inside)["status"] == "killed"
    assert get(http, outside)["status"] == "running"


def test_a_killed_process_goes_with_all_that_it_started(http: httpx.Client) -> None:
    mark = "307.25"
    nested = f"sleep {mark}"
    for _ in range(4):
        nested = f"sh -c {json.dumps(nested + '; true')}"
    process = start(http, f"{nested} & setsid sleep {mark} & wait")
    wait_until(lambda: len(programs_with(f"sleep\0{mark}")) == 2)

    ended = kill(http, process)

    assert ended["status"] == "killed"
    assert programs_with(mark) == []


def test_what_a_process_leaves_behind_goes_with_it(http: httpx.Client) -> None:
    ended = run(http, "sleep 308.5 & echo left")

    assert ended["status"] == "completed"
    assert programs_with("308.5") == []


def test_who_does_not_hear_a_term_is_killed_after_a_grace_time(http: httpx.Client) -> None:
    process = start(http, "trap '' TERM; echo ready; while :; do sleep 1; done")
    wait(http, process, **{"for": "log", "pattern": "ready"})
    began = time.monotonic()

    ended = kill(http, process)

    assert (ended["status"], ended["exitCode"]) == ("killed", 137)
    assert time.monotonic() - began > 4


def test_a_signal_reaches_the_whole_tree_of_the_process(http: httpx.Client) -> None:
    process = start(
        http,
        "trap 'echo parent' USR1; bash -c 'trap \"echo child\" USR1; echo up; "
        "while :; do sleep 0.05; done' & while :; do sleep 0.05; done",
    )
    wait(http, process, **{"for": "log", "pattern": "up"})

    answer = http.post(f"/processes/{process['id']}/signal", json={"signal": "SIGCONT"})
    assert answer.json()["status"] == "running"
    http.post(f"/processes/{process['id']}/signal", json={"signal": int(signal.SIGUSR1)})

    wait_until(lambda: {"parent", "child"} <= set(logs(http, process)["stdout"].split()))


def test_thirty_processes_are_killed_by_one_call(http: httpx.Client) -> None:
    for _ in range(30):
        start(http, "sleep 300 & sleep 300")

    answer = http.delete("/processes")

    assert answer.json() == {"killed": 30}
    assert {one["status"] for one in http.get("/processes").json()["processes"]} == {"killed"}


def test_twenty_thousand_lines_arrive_as_they_were_printed(http: httpx.Client) -> None:
    expected = "".join(f"{n}\n" for n in range(1, 20_001))
    process = start(http, "seq 1 20000")

    streamed = events(http, process)

    assert text(streamed) == expected
    assert logs(http, process)["stdout"] == expected


def test_each_reader_has_all_events_and_exactly_one_end(http: httpx.Client) -> None:
    process = start(http, "for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.1; done; exit 3")
    seen: list[list[Json]] = []
    readers = [
        threading.Thread(target=lambda: seen.append(events(http, process))) for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    seen.append(events(http, process))  # After the exit.

    for told in seen:
        assert [one["n"] for one in told] == list(range(1, len(told) + 1))
        assert text(told) == "1\n2\n3\n"
        assert text(told, "stderr") == "e1\ne2\ne3\n"
        assert [one["event"]["type"] for one in told].count("complete") == 1
        assert told[-1]["event"]["exitCode"] == 3


def test_a_reader_goes_on_after_the_last_number_that_it_has(http: httpx.Client) -> None:
    process = start(http, "for i in 1 2 3 4; do echo $i; sleep 0.1; done")
    whole = events(http, process)

    for place, event in enumerate(whole):
        assert events(http, process, after=event["n"]) == whole[place + 1 :]


def test_of_a_log_that_is_too_long_the_oldest_goes_and_it_is_told(http: httpx.Client) -> None:
    count = 1_500_000
    process = start(http, f"seq 1 {count}")
    wait(http, process, **{"for": "exit"})

    told = logs(http, process)
    streamed = events(http, process)

    assert told["truncated"] is True
    assert told["stdout"].endswith(f"\n{count}\n")
    gap = streamed[0]
    assert gap["event"]["type"] == "truncated"
    assert streamed[1]["n"] == gap["n"] + 1
    assert text(streamed) == told["stdout"]
    printed = sum(len(str(n)) + 1 for n in range(1, count + 1))
    assert gap["event"]["droppedBytes"] == printed - len(told["stdout"])


def test_a_process_that_prints_without_end_does_not_take_the_runtimes_memory_or_time(
    http: httpx.Client, runtime: RunningRuntime
) -> None:
    for _ in range(4):
        start(http, "yes 0123456789012345678901234567890123456789")
    for process in http.get("/processes").json()["processes"]:
        wait_until(partial(_is_truncated, http, process), 30)

    assert http.get("/ping").status_code == 200
    assert runtime.rss_mb() < 120


def test_an_id_is_used_once(http: httpx.Client) -> None:
    process = start(http, "sleep 60", id="server")

    again = http.post("/processes", json={"command": "sleep 60", "id": "server"})

    assert process["id"] == "server"
    assert refusal(again) == (409, "process_exists")


def test_deleting_a_process_that_has_ended_frees_its_id(http: httpx.Client) -> None:
    run(http, "true", id="once")

    assert http.delete("/processes/once").json()["status"] == "completed"
    assert http.get("/processes/once").status_code == 404
    start(http, "true", id="once")


def test_the_same_key_starts_nothing_again(http: httpx.Client) -> None:
    first = start(http, "sleep 60", idempotencyKey="k1")

    second = start(http, "sleep 60", idempotencyKey="k1")
    other = http.post(
        "/processes", json={"command": "sleep 61", "idempotencyKey": "k1", "session": SESSION}
    )

    assert second["id"] == first["id"]
    assert refusal(other) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": ""},
        {"command": "  \n"},
        {},
        {"command": "a", "argv": ["a"]},
        {"argv": []},
        {"command": "a\0b"},
        {"command": "a", "env": {"A B": "1"}},
        {"command": "a", "id": "../x"},
        {"command": "a", "id": "x\n"},
        {"command": "a", "what": 1},
    ],
)
def test_what_cannot_be_started_is_refused(http: httpx.Client, wrong: Json) -> None:
    assert refusal(http.post("/processes", json=wrong)) == (422, "invalid_request")


def test_a_process_that_is_not_there_is_told_as_such(http: httpx.Client) -> None:
    missing = "/processes/none"

    answers = [
        http.get(missing),
        http.delete(missing),
        http.get(f"{missing}/logs"),
        http.get(f"{missing}/events"),
        http.post(f"{missing}/signal", json={"signal": "TERM"}),
        http.post(f"{missing}/wait", json={"for": "exit"}),
    ]

    assert {refusal(answer) for answer in answers} == {(404, "process_not_found")}


def test_signals_that_cannot_be_sent_are_refused(http: httpx.Client) -> None:
    running, ended = start(http, "sleep 60"), run(http, "true")

    for name in ("NOPE", 0, 4711):
        answer = http.post(f"/processes/{running['id']}/signal", json={"signal": name})
        assert refusal(answer) == (422, "invalid_request")
    answer = http.post(f"/processes/{ended['id']}/signal", json={"signal": "TERM"})
    assert refusal(answer) == (409, "process_not_running")


def test_records_of_ended_processes_are_bounded(http: httpx.Client) -> None:
    running = start(http, "sleep 60")
    last = [run(http, "true") for _ in range(70)][-1]

    ids = [process["id"] for process in http.get("/processes").json()["processes"]]

    assert len(ids) == 65
    assert ids[0] == running["id"]
    assert ids[-1] == last["id"]


def test_a_text_is_waited_for(http: httpx.Client) -> None:
    process = start(http, "sleep 0.2; echo 'Listening (on) 80'; sleep 60")

    waited = wait(http, process, **{"for": "log", "pattern": "(on)"})

    assert waited["match"] == {
        "stream": "stdout",
        "line": "Listening (on) 80",
        "text": "(on)",
        "groups": [],
        "namedGroups": {},
    }
    assert waited["status"] == "running"


def test_an_expression_gives_its_groups(http: httpx.Client) -> None:
    process = start(http, "echo 'ready at :8080' >&2; sleep 60")

    waited = wait(
        http, process, **{"for": "log", "pattern": r"at :(?<port>\d+)(x)?", "regex": True}
    )

    assert waited["match"]["stream"] == "stderr"
    assert waited["match"]["groups"] == ["8080", None]
    assert waited["match"]["namedGroups"] == {"port": "8080"}


def test_a_line_that_comes_in_pieces_is_matched_whole(http: httpx.Client) -> None:
    process = start(http, "printf 'port 30'; sleep 0.06; printf '00'; sleep 0.06; echo; sleep 60")

    waited = wait(http, process, **{"for": "log", "pattern": r"port (\d+)", "regex": True})

    assert waited["match"]["groups"] == ["3000"]


def test_a_prompt_without_a_line_end_is_found(http: httpx.Client) -> None:
    process = start(http, "printf 'password: '; sleep 60")

    assert wait(http, process, **{"for": "log", "pattern": "word: "})["match"]["text"] == "word: "


def test_what_was_printed_before_counts_also_when_the_process_has_ended(
    http: httpx.Client,
) -> None:
    process = run(http, "echo first; printf last")

    for pattern in ("first", "last"):
        waited = wait(http, process, **{"for": "log", "pattern": pattern})
        assert waited["match"]["line"] == pattern
        assert waited["exitCode"] == 0


def test_a_pattern_that_never_comes_times_out_naming_both(http: httpx.Client) -> None:
    process = start(http, "echo other; sleep 60")

    answer = http.post(
        f"/processes/{process['id']}/wait",
        json={"for": "log", "pattern": "never", "timeoutMs": 300},
    )

    assert refusal(answer) == (408, "process_wait_timed_out")
    assert process["id"] in answer.json()["message"]
    assert "'never'" in answer.json()["message"]
    assert get(http, process)["status"] == "running"


def test_a_process_that_ends_first_is_told_with_its_exit_code_and_last_logs(
    http: httpx.Client,
) -> None:
    process = start(http, "echo going; sleep 0.2; echo 'no such table' >&2; exit 3")

    for wanted in ({"for": "log", "pattern": "never"}, {"for": "port", "port": 39_999}):
        answer = http.post(f"/processes/{process['id']}/wait", json=wanted)
        assert refusal(answer) == (409, "process_ended")
        for part in (process["id"], "exit code 3", "going", "no such table"):
            assert part in answer.json()["message"]


def test_an_expression_made_to_take_for_ever_takes_no_time(http: httpx.Client) -> None:
    process = start(http, "head -c 60000 /dev/zero | tr '\\0' a; echo '!'; echo done; sleep 60")
    wait(http, process, **{"for": "log", "pattern": "done"})

    answer = http.post(
        f"/processes/{process['id']}/wait",
        json={"for": "log", "pattern": "^(a+)+$", "regex": True, "timeoutMs": 500},
    )

    assert refusal(answer) == (408, "process_wait_timed_out")


def test_an_expression_that_takes_long_holds_up_neither_its_own_time_nor_other_calls(
    http: httpx.Client,
) -> None:
    lines = "for i in 1 2 3 4 5 6 7 8; do head -c 60000 /dev/zero | tr '\\0' a; echo; done"
    process = start(http, f"{lines}; echo done; sleep 60")
    wait(http, process, **{"for": "log", "pattern": "done"})
    wanted = {"for": "log", "pattern": "(a?){900}b$", "regex": True, "timeoutMs": 1000}
    answers: list[httpx.Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(http.post(f"/processes/{process['id']}/wait", json=wanted))
    )
    answered = 0

    waiting.start()
    while waiting.is_alive():
        answered += http.get("/ping").status_code == 200
        waiting.join(0.02)

    assert refusal(answers[0]) == (408, "process_wait_timed_out")
    assert answered > 3


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "(?=a)", "((a{1000}){1000})", "x" * 1001])
def test_what_is_no_expression_is_refused(http: httpx.Client, pattern: str) -> None:
    process = start(http, "sleep 60")

    answer = http.post(
        f"/processes/{process['id']}/wait", json={"for": "log", "pattern": pattern, "regex": True}
    )

    assert refusal(answer) == (422, "invalid_request")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_waited_for(http: httpx.Client, runtime: RunningRuntime, host: str) -> None:
    argv = "import socket, sys, time; time.sleep(0.3); family = socket.AF_INET6 if ':' in "
    argv += "sys.argv[1] else socket.AF_INET; s = socket.create_server((sys.argv[1], 39801), "
    argv += "family=family); time.sleep(60)"
    process = http.post(
        "/processes", json={"argv": ["python3", "-c", argv, host], "session": SESSION}
    ).json()

    waited = wait(http, process, **{"for": "port", "port": 39801})

    assert waited["status"] == "running"


def test_a_server_is_waited_for_until_it_answers_as_it_should(http: httpx.Client) -> None:
    argv = ["python3", "-c", SERVER, "39802", "0.2", "127.0.0.1"]
    process = http.post("/processes", json={"argv": argv, "session": SESSION}).json()

    wait(http, process, **{"for": "port", "port": 39802, "path": "/ready"})
    wait(http, process, **{"for": "port", "port": 39802, "path": "/", "status": 503})
    wait(
        http,
        process,
        **{"for": "port", "port": 39802, "path": "/", "status": {"min": 500, "max": 599}},
    )
    answer = http.post(
        f"/processes/{process['id']}/wait",
        json={"for": "port", "port": 39802, "path": "/", "timeoutMs": 300},
    )

    assert refusal(answer) == (408, "process_wait_timed_out")


def test_what_listens_and_never_answers_is_not_waited_for_beyond_the_time(
    http: httpx.Client,
) -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 39803)); time.sleep(60)"
    process = http.post(
        "/processes", json={"argv": ["python3", "-c", code], "session": SESSION}
    ).json()
    wait(http, process, **{"for": "port", "port": 39803})

    answer = http.post(
        f"/processes/{process['id']}/wait",
        json={"for": "port", "port": 39803, "path": "/", "timeoutMs": 400},
    )

    assert refusal(answer) == (408, "process_wait_timed_out")


def test_no_zombie_stays(http: httpx.Client, runtime: RunningRuntime) -> None:
    for _ in range(5):
        run(http, "true")

    children = Path(f"/proc/{runtime.pid}/task/{runtime.pid}/children").read_text().split()
    states = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children
    ]
    assert "Z" not in states


def test_processes_end_with_the_runtime() -> None:
    mark = "309.75"
    with running_runtime() as runtime:
        transport = httpx.HTTPTransport(uds=str(runtime.socket))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(transport=transport, base_url="http://r", headers=headers) as http:
            start(http, f"trap '' TERM; sleep {mark} & setsid sleep {mark}")
            wait_until(lambda: len(programs_with(f"sleep\0{mark}")) == 2)

    assert programs_with(mark) == []
