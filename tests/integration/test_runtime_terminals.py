"""Terminals as viewers use them: WebSockets on the runtime's socket, real shells on real PTYs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

from tests.running_runtime import TOKEN, RunningRuntime, running_runtime, wait_until

Json = dict[str, Any]

DEADLINE_S = 20.0

PLAIN = {"PS1": "$ "}

_PASTING = re.compile(rb"\x1b\[\?2004[hl]\r?")
"""What bash says of pastes around each command."""


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with running_runtime() as runtime:
        yield runtime


class Viewer:
    """Looks at one terminal, and types."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.shown = b""
        self.told: list[Json] = []

    def type(self, text: str) -> None:
        self.connection.send(text.encode())

    def tell(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def read(self) -> None:
        message = self.connection.recv(timeout=DEADLINE_S)
        if isinstance(message, bytes):
            self.shown += message
        else:
            self.told.append(json.loads(message))

    def until(self, text: str) -> None:
        """Something else than the echo of what was typed, where that looks otherwise."""
        while text.encode() not in _PASTING.sub(b"", self.shown):
            self.read()

    def until_told(self, kind: str) -> Json:
        while not (self.told and self.told[-1]["type"] == kind):
            self.read()
        return self.told[-1]


@contextmanager
def looking(runtime: RunningRuntime, terminal: str, token: str = TOKEN) -> Iterator[Viewer]:
    with unix_connect(
        str(runtime.socket),
        f"ws://runtime/terminals/{terminal}",
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
        max_size=None,
    ) as connection:
        yield Viewer(connection)


def start(http: httpx.Client, **wanted: Any) -> str:
    env = {**PLAIN, **wanted.pop("env", {})}
    answer = http.post("/terminals", json={"env": env, "session": {"cwd": "/"}, **wanted})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def info(http: httpx.Client, terminal: str) -> Json:
    terminals = http.get("/terminals").json()["terminals"]
    return next(dict(one) for one in terminals if one["id"] == terminal)


def test_what_is_typed_is_echoed_and_what_it_does_is_shown(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    with looking(runtime, start(http)) as viewer:
        viewer.type("echo $((20 + 22)) '\u00fc\u20ac\U0001f600'\n")
        viewer.until("\r\n42 \u00fc\u20ac\U0001f600\r\n")

    assert viewer.told == [{"type": "ready"}]


def test_it_is_a_terminal_of_its_own_with_job_control(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    with looking(runtime, start(http)) as viewer:
        viewer.type("test -t 0 && echo $TERM && echo x >/dev/tty && ps -o tty= -p $$\n")
        viewer.until("\r\nxterm-256color\r\nx\r\npts/")
        viewer.type("sh -c 'echo run''ning; exec sleep 300'\n".replace("''", '""'))
        viewer.until("running\r\n")
        viewer.type("\x03")
        viewer.type("echo code=$?\n")
        viewer.until("\r\ncode=130\r\n")


def test_its_size_is_as_asked_and_programs_are_told_when_it_changes(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    waiting = "trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.05; done"
    terminal = start(http, cols=101, rows=31, command=waiting)
    with looking(runtime, terminal) as viewer:
        viewer.until("31 101\r\n")
        viewer.tell(type="resize", cols=132, rows=43)
        viewer.until("43 132\r\n")

    shown = info(http, terminal)
    assert (shown["cols"], shown["rows"]) == (132, 43)


def test_who_comes_back_sees_what_was_printed(runtime: RunningRuntime, http: httpx.Client) -> None:
    terminal = start(http)
    with looking(runtime, terminal) as first:
        first.type("echo be''fore; read line; echo whi''le\n")
        first.until("before\r\n")
        first.type("\n")

    with looking(runtime, terminal) as second:
        second.until("while\r\n")

    assert second.shown.index(b"before\r\n") < second.shown.index(b"while\r\n")
    assert second.told == [{"type": "ready"}]


def test_all_viewers_see_the_same_and_each_may_type(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    terminal = start(http)
    with looking(runtime, terminal) as first, looking(runtime, terminal) as second:
        first.type("echo fir''st\n")
        second.until("\r\nfirst\r\n")
        second.type("echo sec''ond\n")
        first.until("\r\nsecond\r\n")
        second.until("\r\nsecond\r\n")
        assert info(http, terminal)["viewers"] == 2

    assert first.shown == second.shown
    wait_until(lambda: info(http, terminal)["viewers"] == 0)


def test_it_has_its_session_s_variables_and_directory_and_ends_with_it(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    session = {"name": "desk", "cwd": "/usr", "env": {"FROM": "session", "BOTH": "session"}}
    terminal = start(http, session=session, env={"BOTH": "terminal"})
    other = start(http)

    with looking(runtime, terminal) as viewer:
        viewer.type('echo "$PWD $FROM $BOTH"\n')
        viewer.until("/usr session terminal\r\n")
        assert http.delete("/sessions/desk").status_code == 204
        assert viewer.until_told("exit") == {"type": "exit", "code": 137}

    assert "exitCode" not in info(http, other)


def test_where_it_starts_can_be_said(runtime: RunningRuntime, http: httpx.Client) -> None:
    with looking(runtime, start(http, command="pwd; tty", cwd="/etc")) as viewer:
        viewer.until_told("exit")

    assert re.fullmatch(rb"/etc\r\n/dev/pts/\d+\r\n", viewer.shown)


def test_its_end_is_told_with_all_that_was_printed(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    terminal = start(http, command="seq 1 50000; exit 7")
    with looking(runtime, terminal) as viewer:
        assert viewer.until_told("exit") == {"type": "exit", "code": 7}
        with pytest.raises(ConnectionClosed) as closed:
            viewer.read()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000
    assert viewer.shown.endswith(b"\r\n50000\r\n")
    with looking(runtime, terminal) as late:
        assert late.until_told("exit") == {"type": "exit", "code": 7}
    assert late.shown == viewer.shown[-len(late.shown) :]
    assert info(http, terminal)["exitCode"] == 7


def test_who_keeps_up_misses_nothing_of_ten_megabytes(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    terminal = start(http, command="read go; seq 1 1200000; exit 0")
    with looking(runtime, terminal) as viewer:
        viewer.type("\n")
        viewer.until_told("exit")

    assert viewer.shown == b"\r\n" + b"".join(b"%d\r\n" % n for n in range(1, 1_200_001))


def test_nobody_need_look_for_it_to_go_on_and_only_the_end_is_kept(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    terminal = start(http, command="seq 1 300000; yes \u20ac | head -c 3000; exit 3")
    wait_until(lambda: info(http, terminal).get("exitCode") == 3)

    with looking(runtime, terminal) as viewer:
        viewer.until_told("exit")

    assert len(viewer.shown) <= 256 * 1024
    assert viewer.shown.decode().endswith("\u20ac\r\n" * 2)


def test_one_who_does_not_read_holds_up_nobody(runtime: RunningRuntime, http: httpx.Client) -> None:
    terminal = start(http, command="read go; seq 1 1200000; echo d''one; read end")
    with looking(runtime, terminal) as idle, looking(runtime, terminal) as viewer:
        idle.read()  # And no more.
        viewer.type("\n")
        viewer.until("done\r\n")


def test_input_that_is_not_read_is_refused_and_the_terminal_goes_on(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    go = runtime.workspace / "go"
    terminal = start(
        http, command=f"stty raw -echo; echo now; until test -e {go}; do sleep 0.05; done; cat"
    )
    with looking(runtime, terminal) as viewer:
        viewer.until("now")
        viewer.connection.send(b"x" * 200_000)
        assert viewer.until_told("error")["code"] == "terminal_input_refused"
        go.touch()
        viewer.until("xxx")


@pytest.mark.parametrize(
    "message", ["", "x", "[]", '{"type":"resize"}', '{"type":"resize","cols":0,"rows":5}']
)
def test_a_message_that_means_nothing_is_refused(
    runtime: RunningRuntime, http: httpx.Client, message: str
) -> None:
    with looking(runtime, start(http)) as viewer:
        viewer.connection.send(message)
        assert viewer.until_told("error")["code"] == "invalid_message"
        viewer.type("echo still=$((1 + 1))\n")
        viewer.until("still=2\r\n")


def test_ending_it_ends_all_that_it_started(runtime: RunningRuntime, http: httpx.Client) -> None:
    terminal = start(http)
    with looking(runtime, terminal) as viewer:
        viewer.type("(setsid sleep 311 &) ; trap '' HUP TERM; sleep 312 & echo run''ning\n")
        viewer.until("running\r\n")
        assert http.delete(f"/terminals/{terminal}").status_code == 204
        viewer.until_told("exit")

    assert not running({"311", "312"})
    assert http.delete(f"/terminals/{terminal}").json()["code"] == "terminal_not_found"


def running(arguments: set[str]) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            if words[0] == "sleep" and arguments.intersection(words):
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"argv": ["/no/such/program"], "session": {"cwd": "/"}}, "terminal_not_started"),
        ({"argv": ["sh"], "command": "true"}, "invalid_request"),
        ({"cols": 0}, "invalid_request"),
        ({"cwd": "a\0b"}, "invalid_request"),
        ({"command": "a\0b"}, "invalid_request"),
        ({"color": True}, "invalid_request"),
    ],
)
def test_what_cannot_be_started_is_refused(http: httpx.Client, wanted: Json, code: str) -> None:
    answer = http.post("/terminals", json=wanted)

    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_there_are_only_so_many(runtime: RunningRuntime) -> None:
    with running_runtime() as crowded, crowded.http() as http:
        terminals = [start(http, argv=["sleep", "313"]) for _ in range(32)]
        answer = http.post("/terminals", json={})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_terminals")
        for terminal in terminals[:20]:
            http.delete(f"/terminals/{terminal}")
        ended = [start(http, command="exit 4") for _ in range(12)]
        wait_until(lambda: len(http.get("/terminals").json()["terminals"]) == 12 + 8)
        assert info(http, ended[-1])["exitCode"] == 4


@pytest.mark.parametrize(
    ("terminal", "token", "status"),
    [("term-0123456789abcdef", TOKEN, 404), ("term-0123456789abcdef", "wrong", 401)],
)
def test_only_who_has_the_token_may_look_and_only_at_what_is_there(
    runtime: RunningRuntime, terminal: str, token: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused, looking(runtime, terminal, token):
        pass

    assert refused.value.response.status_code == status
    assert b'"code"' in (refused.value.response.body or b"")


def test_viewers_who_come_and_go_leave_nothing_behind(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    terminal = start(http)

    def come_and_go() -> None:
        for _ in range(20):
            with looking(runtime, terminal) as viewer:
                viewer.type("echo hi\n")
                viewer.read()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_until(lambda: info(http, terminal)["viewers"] == 0)
