"""Hostile clients and hostile servers on the two sides of the relay."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from relay.__main__ import REDIS_CONNECTIONS
from tests.client import Client, wait_for
from tests.memory import peak_rss_mb
from tests.platform import Platform
from tests.previews import expose, looking_at, serve

PORT = 8090
BOX = "stage"
TIMEOUT_S = 20.0
PEAK_MB = 150
CUT = b""

CHUNKED = b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFINISHED = b"HTTP/1.1 200 -\r\nContent-Length: 9\r\n\r\nok"
SWITCH = b"HTTP/1.1 101 -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

PUPPET = r"""
import base64, socket, threading

# Answers with the bytes that X-Answer has in base64, then with those of X-Again for ever, and then
# as X-Then says: else closes. Without X-Answer: with what it was asked. /tmp/seen has all of that.

seen = open("/tmp/seen", "ab", buffering=0)

def serve(connection):
    with connection:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65536)
            if not piece:
                return
            received += piece
            seen.write(piece)
        told = {}
        for line in received.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            told[name.strip().lower().decode("latin-1")] = value.strip()
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(received), received)
        given = told.get("x-answer")
        connection.sendall(whole if given is None else base64.b64decode(given))
        again = base64.b64decode(told.get("x-again", b""))
        while again:
            connection.sendall(again)
        then = told.get("x-then", b"close")
        if then == b"hold":
            while piece := connection.recv(65536):
                seen.write(piece)
        elif then == b"deaf":
            threading.Event().wait()
        elif then == b"echo":
            while piece := connection.recv(65536):
                connection.sendall(piece)
        elif then == b"reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

def take(connection):
    try:
        serve(connection)
    except OSError:
        pass

with socket.create_server(("127.0.0.1", PORT), backlog=128) as listener:
    while True:
        threading.Thread(target=take, args=(listener.accept()[0],), daemon=True).start()
"""


class Stage:
    """A preview of the puppet, and what it takes to speak to the relay byte by byte."""

    def __init__(self, api: Client, platform: Platform, url: str) -> None:
        self.api = api
        self.platform = platform
        self.url = url
        self.host = httpx.URL(url).netloc.decode()
        self.port = httpx.URL(url).port or 80

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def say(self, text: bytes) -> bytes:
        """All that comes back until the relay closes; HOST stands for the preview's."""
        with self.connect() as connection:
            connection.sendall(text.replace(b"HOST", self.host.encode()))
            return read_to_the_end(connection)

    def asked(self, **told: bytes | str) -> bytes:
        """A request of which the puppet's answer is told."""
        lines = [b"GET /asked HTTP/1.1", b"Host: " + self.host.encode(), b"Connection: close"]
        for name, value in told.items():
            raw = value.encode() if isinstance(value, str) else base64.b64encode(value)
            lines.append(b"X-%s: %s" % (name.capitalize().encode(), raw))
        return b"\r\n".join([*lines, b"", b""])

    def upgrade(self, protocol: bytes = b"websocket", **told: bytes | str) -> bytes:
        line = b"Connection: Upgrade\r\nUpgrade: " + protocol
        return self.asked(**told).replace(b"Connection: close", line)

    def tunnel(self) -> socket.socket:
        """A WebSocket, as far as the relay is concerned, that gets its bytes back."""
        connection = self.connect()
        connection.sendall(self.upgrade(answer=SWITCH, then="echo"))
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        return connection

    def seen(self) -> str:
        """All that the puppet was ever sent."""
        return str(self.api.exec(BOX, "cat /tmp/seen")["stdout"])

    def log(self) -> str:
        return (self.platform.state_dir / "logs" / "relay.log").read_text()

    def descriptors(self) -> int:
        """How many the relay has open."""
        return len(list(Path(f"/proc/{self.platform.pid('relay')}/fd").iterdir()))

    def peak_mb(self) -> float:
        return peak_rss_mb(self.platform.pid("relay"))


def serve_puppet(api: Client, box: str, port: int) -> None:
    serve(api, box, f"PORT = {port}\n{PUPPET}", port)


def read_until(connection: socket.socket, ending: bytes) -> bytes:
    received = b""
    while not received.endswith(ending):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def read_to_the_end(connection: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


@pytest.fixture(scope="module")
def stage(api: Client, platform: Platform) -> Iterator[Stage]:
    """The relay is as it was, in the end: nothing is left open, nothing went wrong in it."""
    api.sandbox(BOX)
    serve_puppet(api, BOX, PORT)
    stage = Stage(api, platform, expose(api, BOX, PORT)["url"])
    stage.say(stage.asked())
    before = stage.descriptors()
    yield stage
    most = before + REDIS_CONNECTIONS
    wait_for(lambda: stage.descriptors() <= most, "all connections are closed")
    api.remove(BOX)
    assert "Traceback" not in stage.log()
    assert "exception" not in stage.log()


# H1: ports


@pytest.mark.parametrize(
    "label",
    ["0", "65536", "-1", "080", "0x50", "1e3", "8090@evil", "8090/..", "8091", "8090-8090"],
)
def test_no_port_but_an_exposed_one_is_shown(stage: Stage, label: str) -> None:
    host = stage.host.replace(f"{PORT}-", f"{label}-", 1)

    answer = stage.say(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())

    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))


def test_a_token_of_one_sandbox_or_port_opens_no_other(stage: Stage, api: Client) -> None:
    other = api.sandbox("audience")["id"]
    sandbox, token = stage.host.split(".")[0].split("-", 2)[1:]
    exposed_too = expose(api, BOX, PORT + 1)["url"]
    names = [f"{PORT}-{other}-{token}", f"{PORT + 1}-{sandbox}-{token}"]

    answers = [
        stage.say(f"GET / HTTP/1.0\r\nHost: {name}.localhost\r\n\r\n".encode()) for name in names
    ]

    api.remove("audience")
    assert str(PORT + 1) in exposed_too
    assert all(answer.startswith(b"HTTP/1.1 404 ") for answer in answers)


# H2: whose host


@pytest.mark.parametrize(
    "lines",
    [
        "Host: HOST.evil.example",
        "Host: x.HOST",
        "Host: localhost",
        "Host: evil.example\r\nX-Forwarded-Host: HOST",
        "Host: HOST\r\nHost: HOST",
        "Host: HOST\r\nHost: evil.example",
        "Host: HOST:x",
        "Host: HOST, HOST",
        "Host: user@HOST",
        "X: y",
    ],
)
def test_a_request_whose_host_is_not_exactly_a_previews_goes_nowhere(
    stage: Stage, lines: str
) -> None:
    answer = stage.say(b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n%s\r\n\r\n" % lines.encode())

    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))
    assert "/nowhere" not in stage.seen()


@pytest.mark.parametrize("target", ["http://HOST/", "HOST:80", "*", "//HOST@evil.example:x"])
def test_a_target_that_is_no_path_goes_to_no_other_host(stage: Stage, target: str) -> None:
    text = f"GET {target} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"

    answer = stage.say(text.encode())

    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))


# H3: requests that can be read in two ways

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"
POST = b"POST /front HTTP/1.1\r\nHost: HOST\r\n"
AMBIGUOUS = {
    "both lengths": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a coding behind chunked": POST
    + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "a coding in two lines": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 9\r\n\r\n" + SMUGGLED,
    "a list of lengths": POST + b"Content-Length: 0, 9\r\n\r\n" + SMUGGLED,
    "a length with a sign": POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "a length with a space": POST + b"Content-Length: 1 0\r\n\r\n" + SMUGGLED,
    "a length that is too large": POST + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n" + SMUGGLED,
    "a space before the colon": POST + b"Content-Length : 0\r\n\r\n" + SMUGGLED,
    "a folded line": POST + b"X: y\r\n Content-Length: 9\r\n\r\n" + SMUGGLED,
    "bare line feeds": POST.replace(b"\r\n", b"\n") + b"X: y\n\n" + SMUGGLED,
    "a bare carriage return": POST + b"X: y\rContent-Length: 9\r\n\r\n" + SMUGGLED,
    "a NUL in a value": POST + b"X: y\0z\r\n\r\n" + SMUGGLED,
    "a NUL in a name": POST + b"X\0: y\r\n\r\n" + SMUGGLED,
    "a chunk of a negative size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    "a chunk of a huge size": POST
    + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n"
    + SMUGGLED,
    "a chunk that is longer than it says": POST
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n"
    + SMUGGLED,
    "bare line feeds between chunks": POST
    + b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n"
    + SMUGGLED,
    "an extension without an end": POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
    "trailers without an end": POST
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    + b"X: y\r\n" * 50_000,
    "a length among the trailers": POST
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n"
    + SMUGGLED,
    "a head without an end": POST + b"X: " + b"y" * 400_000,
    "more headers than may be": POST + b"X: y\r\n" * 1000 + b"\r\n",
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("text", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(
    stage: Stage, text: bytes
) -> None:
    answer = stage.say(text)

    assert answer == CUT or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert "/smuggled" not in stage.seen()


def test_extensions_and_trailers_of_chunks_are_read_once_and_written_anew(stage: Stage) -> None:
    asked = stage.asked(answer=CHUNKED, then="hold").replace(b"GET", b"POST")
    head = asked.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    with stage.connect() as connection:
        connection.sendall(head + b"1;extended=x\r\na\r\n0\r\nX-Trailer: t\r\n\r\n")

        wait_for(lambda: "X-Trailer: t" in stage.seen(), "the trailer comes")

    assert "extended" not in stage.seen()


def test_a_head_that_comes_in_drops_has_an_end(stage: Stage) -> None:
    with stage.connect() as connection:
        connection.settimeout(1.0)
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")

        def is_closed() -> bool:
            try:
                connection.sendall(b"y")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_for(is_closed, "the relay closes", deadline_s=30)


# H4: servers that answer what they should not

NO_ANSWERS = {
    "a switch that nobody asked for": b"HTTP/1.1 101 -\r\nUpgrade: websocket\r\n\r\nhello",
    "nothing": b"\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "interim answers alone": b"HTTP/1.1 103 -\r\n\r\n" * 1000,
    "both lengths": b"HTTP/1.1 200 -\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 -\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a negative length": b"HTTP/1.1 200 -\r\nContent-Length: -2\r\n\r\nok",
    "more headers than may be": b"HTTP/1.1 200 -\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "a line feed in a header": b"HTTP/1.1 200 -\r\nX: y\rSet-Cookie: z\r\n\r\n",
    "a status that is none": b"HTTP/1.1 99999 -\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
def test_an_answer_that_follows_no_rule_is_told_as_a_fault(stage: Stage, answer: bytes) -> None:
    assert stage.say(stage.asked(answer=answer)).startswith(b"HTTP/1.1 502 ")


ENDLESS = {
    "interim answers": (b"HTTP/1.1 100 -\r\n\r\n", b"HTTP/1.1 100 -\r\n\r\n"),
    "headers": (b"HTTP/1.1 200 -\r\n", b"X: y\r\n" * 1000),
    "one header": (b"HTTP/1.1 200 -\r\nX: ", b"y" * 65536),
    "the reason": (b"HTTP/1.1 200 ", b"y" * 65536),
}


@pytest.mark.parametrize("told", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_answer_whose_head_has_no_end_is_ended(stage: Stage, told: tuple[bytes, bytes]) -> None:
    answer, again = told

    said = stage.say(stage.asked(answer=answer, again=again))

    assert b"HTTP/1.1 502 " in said
    assert len(said) < 10_000
    assert stage.peak_mb() < PEAK_MB


CUT_OFF = {
    "less than the length": UNFINISHED,
    "no last chunk": CHUNKED + b"2\r\nok\r\n",
    "half a chunk": CHUNKED + b"9\r\nok",
    "an invalid chunk": CHUNKED + b"2\r\nok\r\nzz\r\n",
    "trailers without an end": CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 300,
}


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("answer", CUT_OFF.values(), ids=CUT_OFF.keys())
def test_an_answer_that_is_not_whole_is_seen_to_be_cut(
    stage: Stage, answer: bytes, then: str
) -> None:
    with (
        looking_at(stage.url) as client,
        pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)),
    ):
        client.get("/", headers={"X-Answer": base64.b64encode(answer).decode(), "X-Then": then})


def test_what_comes_behind_an_answer_is_nobodys(stage: Stage) -> None:
    """By the same connection of a client, which is kept alive."""
    behind = b"HTTP/1.1 200 -\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 -\r\nX: evil\r\n\r\n"
    poison = {"X-Answer": base64.b64encode(behind).decode(), "X-Then": "hold"}

    with looking_at(stage.url) as client:
        answers = [client.get("/", headers=poison).text for _ in range(3)]
        last = client.get("/clean")

    assert answers == ["ok", "ok", "ok"]
    assert last.text.startswith("GET /clean ")


# H5, H6: cookies and secrets


def test_a_cookie_is_for_its_preview_alone(stage: Stage, api: Client) -> None:
    cookies = [f"c{n}=1; domain = .localhost; Path=/" for n in range(150)]
    lines = "".join(f"Set-Cookie: {cookie}\r\n" for cookie in ["__Host-a=1; Path=/", *cookies])
    answer = f"HTTP/1.1 200 -\r\n{lines}Content-Length: 0\r\n\r\n".encode()

    said = stage.say(stage.asked(answer=answer))

    assert said.count(b"Set-Cookie") == 151
    assert b"domain" not in said.lower().partition(b"\r\n\r\n")[0]


class _ByLoopback(httpx.HTTPTransport):
    """Asks no resolver for `*.localhost`, and leaves to the jar what a cookie's host is."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(host="127.0.0.1")
        asked = httpx.Request(request.method, url, headers=request.headers)
        return super().handle_request(asked)


def test_a_browser_shows_the_cookies_of_one_sandbox_to_no_other(stage: Stage, api: Client) -> None:
    api.sandbox("audience")
    serve_puppet(api, "audience", PORT)
    other = expose(api, "audience", PORT)["url"]
    cookies = "Set-Cookie: a=secret; Domain=localhost\r\nSet-Cookie: b=secret\r\n"
    answer = f"HTTP/1.1 200 -\r\n{cookies}Content-Length: 0\r\n\r\n".encode()
    with httpx.Client(transport=_ByLoopback(), timeout=TIMEOUT_S) as browser:
        browser.get(stage.url, headers={"X-Answer": base64.b64encode(answer).decode()})
        own, others = browser.get(stage.url).text, browser.get(other).text
    api.remove("audience")

    assert "a=secret" in own
    assert "b=secret" in own
    assert "secret" not in others


def test_secrets_of_the_api_and_what_is_said_in_our_name_go_no_further(
    stage: Stage, api: Client
) -> None:
    key = str(api.http.headers["Authorization"])
    forged = {
        "Authorization": key,
        "X-API-Key": key.split()[1],
        "X_API_Key": key.split()[1],
        "X-Forwarded-For": "forged",
        "X_Forwarded_For": "forged",
        "X-Real-IP": "forged",
        "X-Sandbox-Name": "forged",
        "Connection": "X-Hop, keep-alive",
        "X-Hop": "forged",
        "Trailer": "forged",
        "TE": "trailers",
        "Proxy-Authorization": "forged",
    }
    with looking_at(stage.url) as client:
        asked = client.get("/", headers=forged).text

    assert key.split()[1] not in asked
    assert "forged" not in asked
    assert asked.lower().count("x-forwarded-for:") == 1
    assert asked.lower().count("connection:") == 1


def test_a_key_of_somebody_elses_reaches_the_server_that_it_is_for(stage: Stage) -> None:
    with looking_at(stage.url) as client:
        assert "Bearer mine" in client.get("/", headers={"Authorization": "Bearer mine"}).text


# H7: pages against the API, and against other previews


def test_a_page_of_a_preview_cannot_ask_the_api(stage: Stage, api: Client) -> None:
    origin = {"Origin": stage.url.rstrip("/"), "Access-Control-Request-Method": "POST"}

    answers = [
        api.http.get("/v1/sandboxes", headers=origin),
        api.http.options("/v1/sandboxes", headers={**origin, "Authorization": ""}),
    ]

    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_server_cannot_speak_for_the_domain(stage: Stage) -> None:
    names = ["Strict-Transport-Security", "Clear-Site-Data", "Alt-Svc", "Public-Key-Pins"]
    for_a_path = ["NEL", "Report-To", "Service-Worker-Allowed"]
    lines = "".join(f"{name}: evil\r\n" for name in [*names, *for_a_path])
    answer = f"HTTP/1.1 200 -\r\n{lines}Content-Length: 0\r\n\r\n".encode()
    label = stage.host.split(".")[0]
    port, sandbox, token = label.split("-", 2)
    asked = stage.asked(answer=answer).replace(
        b"/asked", f"/preview/{sandbox}/{port}/{token}/".encode()
    )

    at_a_host = stage.say(stage.asked(answer=answer))
    at_a_path = stage.say(asked.replace(f"Host: {label}.".encode(), b"Host: "))

    assert at_a_host.count(b"evil") == len(for_a_path)
    assert at_a_path.startswith(b"HTTP/1.1 200 ")
    assert b"evil" not in at_a_path


# H8: tokens


def test_tokens_are_in_no_log_and_other_sites_are_not_told(stage: Stage) -> None:
    token = stage.host.split(".")[0].split("-", 2)[2]
    wrong = stage.host.replace(token, "a" * 26)

    shown = stage.say(stage.asked())
    refused = stage.say(f"GET / HTTP/1.0\r\nHost: {wrong}\r\n\r\n".encode())
    stage.say(f"GET /preview/x/1/{token}/ HTTP/1.0\r\nHost: {stage.host}\r\nX\0\r\n\r\n".encode())

    assert b"Referrer-Policy: same-origin" in shown
    assert refused.startswith(b"HTTP/1.1 404 ")
    assert len(token) >= 26
    for log in (stage.platform.state_dir / "logs").iterdir():
        assert token not in log.read_text(errors="replace"), log.name


def test_what_looks_at_a_port_is_cut_when_it_is_exposed_no_more(stage: Stage, api: Client) -> None:
    """A WebSocket and an answer that does not end, within two seconds."""
    port = PORT + 2
    serve_puppet(api, BOX, port)
    closed = Stage(api, stage.platform, expose(api, BOX, port)["url"])
    with closing(closed.tunnel()) as tunnel, closing(closed.connect()) as answer:
        answer.sendall(closed.asked(answer=UNFINISHED, then="hold"))
        read_until(answer, b"ok")
        for connection in (tunnel, answer):
            connection.settimeout(2.0)

        api.http.delete(f"/v1/sandboxes/{BOX}/ports/{port}")

        assert [read_to_the_end(tunnel), read_to_the_end(answer)] == [CUT, CUT]


# H9: WebSockets


def test_an_upgrade_is_asked_for_the_same_token(stage: Stage) -> None:
    wrong = stage.host.replace(".", "a.", 1).encode()

    answer = stage.say(stage.upgrade(answer=SWITCH).replace(stage.host.encode(), wrong))

    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket, h2c", b"tcp"])
def test_nothing_but_a_websocket_becomes_a_tunnel(stage: Stage, protocol: bytes) -> None:
    switch = SWITCH.replace(b"websocket", protocol)

    answer = stage.say(stage.upgrade(protocol, answer=switch, then="echo"))

    assert answer.startswith(b"HTTP/1.1 502 ")


def test_a_tunnel_that_both_sides_have_ended_is_closed(stage: Stage) -> None:
    before = stage.descriptors()
    tunnels = [stage.tunnel() for _ in range(10)]
    for tunnel in tunnels:
        tunnel.sendall(b"last words")
        tunnel.shutdown(socket.SHUT_WR)

    heard = [read_to_the_end(tunnel) for tunnel in tunnels]

    assert heard == [b"last words"] * 10
    for tunnel in tunnels:
        tunnel.close()
    wait_for(lambda: stage.descriptors() <= before, "all are closed", deadline_s=5)


def test_a_server_that_ends_its_tunnel_leaves_nothing_open(stage: Stage) -> None:
    before = stage.descriptors()
    for _ in range(10):
        assert stage.say(stage.upgrade(answer=SWITCH + b"bye")).endswith(b"bye")

    wait_for(lambda: stage.descriptors() <= before, "all are closed", deadline_s=5)


# H10: slow and large


def test_a_reader_that_takes_nothing_holds_little(stage: Stage) -> None:
    """Also where what it does not take is the answer to its second request."""
    endless = stage.asked(answer=b"HTTP/1.1 200 -\r\n\r\n", again=b"x" * 65536)
    first = stage.asked(answer=b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n")
    first = first.replace(b"Connection: close\r\n", b"")
    with closing(stage.connect()) as one, closing(stage.connect()) as two:
        one.sendall(endless)
        two.sendall(first)
        two.recv(65536)
        two.sendall(endless)
        stage.api.exec(BOX, "sleep 2")

        assert stage.say(stage.asked()).startswith(b"HTTP/1.1 200 ")
        assert stage.peak_mb() < PEAK_MB


def test_a_server_that_takes_nothing_holds_little_of_what_it_is_sent(stage: Stage) -> None:
    asked = stage.asked(answer=CHUNKED, then="deaf").replace(b"GET", b"POST")
    head = asked.replace(b"\r\n\r\n", b"\r\nContent-Length: 10000000000\r\n\r\n")
    sent = 0
    with stage.connect() as connection:
        connection.sendall(head)
        read_until(connection, b"\r\n\r\n")
        connection.settimeout(1.0)

        with suppress(TimeoutError):
            while sent < 1 << 30:
                sent += connection.send(bytes(1 << 20))

    assert sent < 1 << 30
    assert stage.peak_mb() < PEAK_MB


# H11: redirects


def test_a_redirect_is_not_followed(stage: Stage) -> None:
    for location in ("//evil.example", "http://169.254.169.254/latest", "http://127.0.0.1:1/"):
        lines = f"HTTP/1.1 302 -\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"

        said = stage.say(stage.asked(answer=lines.encode()))

        assert f"\r\nLocation: {location}\r\n".encode() in said


# H12: servers and sandboxes that go away


def test_who_looks_at_a_sandbox_that_is_removed_sees_a_cut(stage: Stage, api: Client) -> None:
    api.sandbox("leaver")
    serve_puppet(api, "leaver", PORT)
    leaver = Stage(api, stage.platform, expose(api, "leaver", PORT)["url"])
    with closing(leaver.tunnel()) as tunnel, closing(leaver.connect()) as answer:
        answer.sendall(leaver.asked(answer=UNFINISHED, then="hold"))
        read_until(answer, b"ok")

        api.remove("leaver")

        assert [read_to_the_end(tunnel), read_to_the_end(answer)] == [CUT, CUT]
    gone = leaver.say(b"GET / HTTP/1.0\r\nHost: HOST\r\n\r\n")
    assert gone.startswith(b"HTTP/1.1 404 ")
    assert json.loads(gone.partition(b"\r\n\r\n")[2])["error"]["code"] == "preview_not_found"
