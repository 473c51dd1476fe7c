"""Servers in sandboxes, looked at through the relay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from tests.client import Client, wait_for
from tests.memory import peak_rss_mb
from tests.platform import Platform
from tests.previews import expose, looking_at, serve

PORT = 8080

IDLE_MS = 6000

SERVER = (
    f"PORT = {PORT}\n"
    + """
import hashlib, json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body=b"", status=200, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/redirect":
            self.answer(status=307, headers=[("Location", "//elsewhere.example/x")])
        elif self.path == "/cookies":
            cookies = ["a=1; Domain=localhost; Path=/deep", "b=2"]
            self.answer(headers=[("Set-Cookie", cookie) for cookie in cookies])
        elif self.path == "/slow":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for n in range(2):
                self.wfile.write(b"6\\r\\ndata%d\\n\\r\\n" % n)
                self.wfile.flush()
                while n == 0 and not os.path.exists("/tmp/go-on"):
                    time.sleep(0.01)
            self.wfile.write(b"0\\r\\n\\r\\n")
        elif self.path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(64 << 20))
            self.end_headers()
            for _ in range(64):
                self.wfile.write(b"x" * (1 << 20))
        elif self.path == "/to-the-end":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"no length")
        else:
            said = [list(pair) for pair in self.headers.items()]
            self.answer(json.dumps({"path": self.path, "headers": said}).encode())

    def do_POST(self):
        digest, size = hashlib.sha256(), 0
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while length := int(self.rfile.readline(), 16):
                piece = self.rfile.read(length)
                self.rfile.readline()
                digest.update(piece)
                size += length
            self.rfile.readline()
        else:
            rest = int(self.headers["Content-Length"])
            while rest:
                piece = self.rfile.read(min(rest, 1 << 16))
                digest.update(piece)
                rest -= len(piece)
                size += len(piece)
        self.answer(json.dumps([size, digest.hexdigest()]).encode())

    do_HEAD = do_GET

ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""
)


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox("shown")
    serve(api, "shown", SERVER, PORT)
    yield "shown"
    api.remove("shown")


@pytest.fixture(scope="module")
def preview(api: Client, box: str) -> Iterator[httpx.Client]:
    with looking_at(expose(api, box, PORT)["url"]) as client:
        yield client


def test_path_query_and_headers_reach_the_server_as_they_are(preview: httpx.Client) -> None:
    said = preview.get("/a%20b/../c?x=1&y=%2F", headers={"X-Mine": "yes"}).json()

    assert said["path"] == "/a%20b/../c?x=1&y=%2F" or said["path"] == "/c?x=1&y=%2F"
    assert ["X-Mine", "yes"] in [[name.title(), value] for name, value in said["headers"]]


def test_the_server_is_told_who_asks_and_what_for_and_a_client_cannot_forge_it(
    preview: httpx.Client, box: str
) -> None:
    forged = {"X-Forwarded-For": "10.0.0.1", "X-Sandbox-Name": "other", "Forwarded": "for=x"}

    headers = preview.get("/p", headers=forged).json()["headers"]

    told = {name.lower(): value for name, value in headers}
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["x-forwarded-host"] == told["host"] == preview.headers["Host"]
    assert told["x-original-url"] == f"http://{preview.headers['Host']}/p"
    assert told["x-sandbox-name"] == box
    assert "forwarded" not in told


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_arrives_byte_by_byte(preview: httpx.Client, size: int, is_chunked: bool) -> None:
    body = bytes(n % 251 for n in range(1000)) * (size // 1000 + 1)
    body = body[:size]
    pieces = (body[at : at + 70_000] for at in range(0, size, 70_000))

    answer = preview.post("/", content=pieces if is_chunked else body)

    assert answer.json() == [size, hashlib.sha256(body).hexdigest()]


def test_a_redirect_and_cookies_pass_through(preview: httpx.Client) -> None:
    redirect = preview.get("/redirect")
    cookies = preview.get("/cookies").headers.get_list("set-cookie")

    assert (redirect.status_code, redirect.headers["location"]) == (307, "//elsewhere.example/x")
    assert cookies == ["a=1; Path=/deep", "b=2; Path=/"]


def test_an_answer_is_shown_while_it_is_written(
    preview: httpx.Client, api: Client, box: str
) -> None:
    with preview.stream("GET", "/slow") as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        api.exec(box, "touch /tmp/go-on")
        rest = b"".join(pieces)

    assert (first, rest) == (b"data0\n", b"data1\n")


def test_an_answer_without_a_length_ends_with_its_connection(preview: httpx.Client) -> None:
    assert preview.get("/to-the-end").text == "no length"


def test_head_tells_the_length_and_sends_nothing(preview: httpx.Client) -> None:
    answer = preview.head("/")

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0


def test_a_large_answer_passes_through_in_little_memory(
    preview: httpx.Client, platform: Platform
) -> None:
    size = 0
    with preview.stream("GET", "/large") as answer:
        for piece in answer.iter_raw():
            size += len(piece)

    assert size == 64 << 20
    assert peak_rss_mb(platform.pid("relay")) < 100


def test_the_same_is_at_a_path_where_subdomains_cannot_be_had(
    api: Client, box: str, preview: httpx.Client
) -> None:
    path = expose(api, box, PORT)["path"]

    said = httpx.get(f"{preview.base_url}{path}deep?x=1").json()
    cookies = httpx.get(f"{preview.base_url}{path}cookies").headers

    assert said["path"] == "/deep?x=1"
    assert cookies.get_list("set-cookie") == [f"a=1; Path={path}deep", f"b=2; Path={path}"]


def test_without_the_right_token_there_is_no_preview(
    preview: httpx.Client, api: Client, box: str
) -> None:
    host = preview.headers["Host"]
    wrong = host.replace(host.split(".")[0][-4:], "aaaa")

    answer = preview.get("/", headers={"Host": wrong})

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "preview_not_found"


def test_a_port_on_which_nothing_listens_is_told_at_once(api: Client, box: str) -> None:
    with looking_at(expose(api, box, 9999)["url"]) as preview:
        answer = preview.get("/", headers={"Accept": "text/html"})

    assert answer.status_code == 502
    assert "Nothing listens on port 9999" in answer.text


def test_a_port_that_is_exposed_no_more_is_refused(api: Client, box: str) -> None:
    with looking_at(expose(api, box, PORT + 1)["url"]) as preview:
        assert preview.get("/").status_code == 502
        for _ in range(2):
            answer = api.http.delete(f"/v1/sandboxes/{box}/ports/{PORT + 1}")
            assert answer.status_code == 204

        assert preview.get("/").status_code == 404


def test_exposed_again_a_port_keeps_its_token_unless_another_is_given(
    api: Client, box: str
) -> None:
    first = expose(api, box, PORT + 2)
    again = expose(api, box, PORT + 2, name="named")
    other = expose(api, box, PORT + 2, token="my-own-token")
    taken = api.http.post(
        f"/v1/sandboxes/{box}/ports", json={"port": PORT + 3, "token": "my-own-token"}
    )

    assert again["url"] == first["url"]
    assert again["name"] == "named"
    assert other["token"] == "my-own-token"
    assert taken.json()["error"]["code"] == "preview_token_taken"
    with looking_at(first["url"]) as preview:
        assert preview.get("/").status_code == 404


@pytest.mark.parametrize("port", [0, -1, 80, 1023, 65536, 1.5, "8080"])
def test_what_is_no_port_is_refused(api: Client, box: str, port: object) -> None:
    answer = api.http.post(f"/v1/sandboxes/{box}/ports", json={"port": port})

    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["field"] == "port"


@pytest.mark.parametrize("body", ["a*b", "é"])
def test_what_is_no_base64_is_not_sent_to_a_server(api: Client, box: str, body: str) -> None:
    request = {"method": "POST", "body": body, "encoding": "base64"}

    answer = api.http.post(f"/v1/sandboxes/{box}/fetch/{PORT}", json=request)

    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["field"] == "body"


def test_a_stopped_sandbox_is_told_of_and_stays_asleep(api: Client) -> None:
    api.sandbox("sleeper")
    url = expose(api, "sleeper", PORT, token="always-the-same")["url"]
    serve(api, "sleeper", SERVER, PORT)
    with looking_at(url) as preview:
        assert preview.get("/").status_code == 200
        api.http.post("/v1/sandboxes/sleeper/stop")
        assert preview.get("/").status_code == 410
        assert api.http.get("/v1/sandboxes/sleeper").json()["state"] == "stopped"

        serve(api, "sleeper", SERVER, PORT)
        assert preview.get("/").status_code == 200
        api.remove("sleeper")
        wait_for(lambda: preview.get("/").status_code == 404, "it is gone")


def test_an_open_preview_keeps_its_sandbox_awake(api: Client) -> None:
    for name in ("looked-at", "forgotten"):
        api.sandbox(name, idleTimeoutMs=IDLE_MS)
    serve(api, "looked-at", SERVER, PORT)
    url = expose(api, "looked-at", PORT)["url"]

    def state(name: str) -> str:
        return str(api.http.get(f"/v1/sandboxes/{name}").json()["state"])

    with looking_at(url) as preview, preview.stream("GET", "/slow") as answer:
        pieces = answer.iter_raw()  # Held: without it the connection is closed.
        assert next(pieces) == b"data0\n"
        wait_for(lambda: state("forgotten") == "stopped", "the one that nobody uses is asleep")
        assert state("looked-at") == "running"

    wait_for(lambda: state("looked-at") == "stopped", "it is asleep, too")
    for name in ("looked-at", "forgotten"):
        api.remove(name)


def test_each_of_two_sandboxes_is_reached_by_its_own_url(api: Client, box: str) -> None:
    api.sandbox("other")
    serve(api, "other", SERVER, PORT)
    names = []
    for name in (box, "other"):
        with looking_at(expose(api, name, PORT)["url"]) as preview:
            said = dict(preview.get("/").json()["headers"])
            names.append(said["X-Sandbox-Name"])
    api.remove("other")

    assert names == [box, "other"]


def test_a_relay_that_was_killed_is_there_again_with_all_urls(
    platform: Platform, api: Client, box: str, preview: httpx.Client
) -> None:
    platform.kill("relay")
    refused = api.http.post(f"/v1/sandboxes/{box}/fetch/{PORT}", json={})
    platform.start("relay")

    assert refused.json()["error"]["code"] == "sandbox_unreachable"

    def shows() -> bool:
        try:
            return preview.get("/").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(shows, "the preview is shown")
