"""Terminals as users have them: made through the API, looked at through the relay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.browser import Page, browsing
from tests.client import Client, Event, wait_for
from tests.previews import expose, looking_at

BOX = "desk"
DEADLINE_S = 20.0
INSTALL_MS = 100_000
PAGE_PORT = 8090

PAGE = """<!doctype html>
<link rel="stylesheet" href="node_modules/@xterm/xterm/css/xterm.css"><div id="screen"></div>
<script src="node_modules/@xterm/xterm/lib/xterm.js"></script>
<script>
const term = new Terminal({ cols: 90, rows: 25 })
term.open(document.getElementById('screen'))
const socket = new WebSocket(location.hash.slice(1))
socket.binaryType = 'arraybuffer'
const told = []
socket.onmessage = ({ data }) =>
  typeof data === 'string' ? told.push(JSON.parse(data)) : term.write(new Uint8Array(data))
socket.onopen = () => socket.send(JSON.stringify({ type: 'resize', cols: 90, rows: 25 }))
term.onData(data => socket.send(new TextEncoder().encode(data)))
const line = n => term.buffer.active.getLine(n).translateToString(true)
const screen = () => Array.from({ length: 25 }, (_, n) => line(term.buffer.active.viewportY + n))
</script>
"""


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox(BOX, network="egress")
    yield BOX
    api.remove(BOX)


def start(api: Client, box: str, **wanted: object) -> Event:
    answer = api.http.post(f"/v1/sandboxes/{box}/terminals", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@contextmanager
def looking(url: str) -> Iterator[ClientConnection]:
    with connect(url, proxy=None) as connection:
        yield connection


def read_until(connection: ClientConnection, text: str) -> str:
    shown = b""
    while text.encode() not in shown:
        message = connection.recv(timeout=DEADLINE_S)
        shown += message if isinstance(message, bytes) else b""
    return shown.decode(errors="replace")


def read_to_the_end(connection: ClientConnection) -> tuple[Event, int]:
    """What was told last, and the code that it was closed with."""
    told: Event = {}
    try:
        while True:
            message = connection.recv(timeout=DEADLINE_S)
            told = json.loads(message) if isinstance(message, str) else told
    except ConnectionClosed as closed:
        return told, closed.rcvd.code if closed.rcvd else 0


def test_a_terminal_is_typed_into_seen_again_and_ended(api: Client, box: str) -> None:
    terminal = start(api, box)
    with looking(terminal["url"]) as connection:
        connection.send(b"cd /tmp; echo $((40 + 2)) `id -u`\n")
        shown = read_until(connection, "\r42 ")
    with looking(terminal["url"]) as connection:
        again = read_until(connection, "\r42 ")
        [listed] = [one for one in terminals_of(api, box) if one["id"] == terminal["id"]]
        assert listed["url"] == terminal["url"]
        assert api.http.delete(path_of(box, terminal)).status_code == 204
        told, code = read_to_the_end(connection)

    assert again.startswith(shown[:20])
    assert (told, code) == ({"type": "exit", "code": 137}, 1000)
    assert status_at(terminal["url"]) == 404


def terminals_of(api: Client, box: str) -> list[Event]:
    answer = api.http.get(f"/v1/sandboxes/{box}/terminals")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["terminals"])


def path_of(box: str, terminal: Event) -> str:
    return f"/v1/sandboxes/{box}/terminals/{terminal['id']}"


def status_at(url: str) -> int:
    with pytest.raises(InvalidStatus) as refused, looking(url):
        pass
    return refused.value.response.status_code


def test_it_has_the_variables_the_directory_and_the_user_of_its_session(
    api: Client, box: str
) -> None:
    body = {"name": "mine", "cwd": "/tmp", "env": {"WHO": "me"}, "isolation": True}
    answer = api.http.post(f"/v1/sandboxes/{box}/sessions", json=body)
    assert answer.status_code == 201, answer.text
    user = api.exec(box, "id -u", session="mine")["stdout"].strip()
    api.exec(box, "mkdir -p /tmp/deep && cd /tmp/deep", session="mine")

    terminal = start(api, box, session="mine", env={"MORE": "1"}, cols=100, rows=30)
    with looking(terminal["url"]) as connection:
        connection.send(b'echo "$PWD $WHO $MORE $(id -u) $(stty size)"\n')
        read_until(connection, f"/tmp/deep me 1 {user} 30 100\r\n")
        api.http.delete(f"/v1/sandboxes/{box}/sessions/mine")
        told, _ = read_to_the_end(connection)

    assert told["type"] == "exit"


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"rows": 0}, 422, "invalid_field"),
        ({"color": 1}, 422, "invalid_field"),
        ({"argv": ["sh"], "command": "true"}, 422, "invalid_field"),
        ({"argv": ["/no/such"]}, 422, "terminal_not_started"),
        ({"session": "nobodys"}, 404, "session_not_found"),
    ],
)
def test_what_cannot_be_started_says_why(
    api: Client, box: str, wanted: Event, status: int, code: str
) -> None:
    answer = api.http.post(f"/v1/sandboxes/{box}/terminals", json=wanted)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_an_open_terminal_keeps_its_sandbox_awake(api: Client) -> None:
    api.sandbox("terminal-idle", idleTimeoutMs=1000)
    terminal = start(api, "terminal-idle")

    def state() -> str:
        return str(api.http.get("/v1/sandboxes/terminal-idle").json()["state"])

    with looking(terminal["url"]) as connection:
        connection.send(b"for i in 1 2 3 4 5 6; do sleep 1; done; echo awa''ke\n")
        read_until(connection, "awake\r\n")
        assert state() == "running"
    wait_for(lambda: state() == "stopped", "it falls asleep")
    assert status_at(terminal["url"]) == 410
    api.remove("terminal-idle")


@pytest.mark.timeout(600)  # The browser may have to be installed.
def test_vim_edits_a_file_in_a_terminal_in_a_browser(api: Client, box: str, tmp_path: Path) -> None:
    install = "mkdir -p page && cd page && npm install --silent @xterm/xterm@5.5.0"
    show = f"cat > page/index.html; cd page; python3 -m http.server {PAGE_PORT} >log 2>&1 &"
    assert api.exec(box, f"({install})", timeoutMs=INSTALL_MS)["exitCode"] == 0
    assert api.exec(box, f"({show})", stdin=PAGE)["exitCode"] == 0
    terminal = start(api, box)
    url = expose(api, box, PAGE_PORT)["url"]
    with looking_at(url) as preview:
        wait_for(lambda: preview.get("/").status_code == 200, "the page is served")

    with browsing(f"{url}#{terminal['url']}", tmp_path) as page:
        wait_for(lambda: shows(page, "$"), "the shell asks")
        type_into(page, "vi -u NONE /workspace/note.txt\r")
        wait_for(lambda: page.run("line(24)").startswith('"/workspace/note.txt"'), "vim is there")
        wait_for(lambda: page.run("line(1)").startswith("~"), "it shows an empty file")
        type_into(page, "iGr\u00fc\u00dfe aus vim \U0001f600\x1b")
        wait_for(lambda: shows(page, "Gr\u00fc\u00dfe aus vim"), "it is typed")
        type_into(page, ":wq\r")
        wait_for(lambda: not shows(page, "~"), "vim has gone")
        type_into(page, "exit\r")
        wait_for(lambda: page.run("told.at(-1).type") == "exit", "the shell has gone")

    assert (
        api.exec(box, "cat /workspace/note.txt")["stdout"] == "Gr\u00fc\u00dfe aus vim \U0001f600\n"
    )


def shows(page: Page, text: str) -> bool:
    return any(text in line for line in page.run("screen()") or [])


def type_into(page: Page, text: str) -> None:
    page.run(f"term.input({json.dumps(text)})")
