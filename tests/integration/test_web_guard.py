"""Who gets in, and what is said of requests that cannot be read."""

from __future__ import annotations

import base64
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.integration.web_client import AUTH, KEY, Web, code_of, field_of, json_of, web_on
from tests.integration.web_node import FakeNode
from tests.redis_server import RedisServer

EXEC = "/v1/sandboxes/box/exec"


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[Web]:
    redis_server.empty()
    with FakeNode(redis_server), web_on(redis_server) as web:
        web.sandbox()
        yield web


def bare(web: Web, method: str, path: str, headers: dict[str, str] | None = None) -> TestResponse:
    return web.client.open(path, method=method, headers=headers, buffered=True)


def test_no_route_but_health_answers_without_the_key(web: Web) -> None:
    answers = {
        (method, rule.rule): bare(web, method, re.sub(r"<[^>]*>", "x", rule.rule)).status_code
        for rule in web.client.application.url_map.iter_rules()
        for method in rule.methods or set()
    }

    open_routes = {route for route, status in answers.items() if status != 401}
    assert open_routes == {("GET", "/healthz"), ("HEAD", "/healthz")}
    assert len(answers) > 30


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("GET", "/v1/sandboxes/"),
        ("OPTIONS", "/v1/sandboxes"),
        ("TRACE", "/v1/jobs"),
        ("PATCH", "/v1/jobs"),
        ("GET", "/static/x"),
        ("POST", "/healthz"),
        ("GET", "//healthz"),
    ],
)
def test_nobody_learns_what_there_is_without_the_key(web: Web, method: str, path: str) -> None:
    answer = bare(web, method, path)

    assert (answer.status_code, code_of(answer)) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="coldframe"'


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEY} "},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": f"Token {KEY}"},
        {"Authorization": f"Bearer {KEY},Bearer {KEY}"},
        {"Authorization": "Bearer wrong", "X-API-Key": KEY},
        {"Authorization": "Basic " + base64.b64encode(f"x:{KEY}".encode()).decode()},
        {"Authorization": "Bearer \xe9"},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"Cookie": f"key={KEY}"},
    ],
)
def test_a_key_that_is_not_quite_right_opens_nothing(web: Web, headers: dict[str, str]) -> None:
    answer = bare(web, "GET", "/v1/jobs", headers)

    assert (answer.status_code, code_of(answer)) == (401, "unauthorized")


@pytest.mark.parametrize("query", [f"?key={KEY}", f"?token={KEY}", f"?X-API-Key={KEY}"])
def test_a_key_in_the_query_opens_nothing(web: Web, query: str) -> None:
    assert bare(web, "GET", f"/v1/jobs{query}").status_code == 401


@pytest.mark.parametrize("headers", [AUTH, {"X-API-Key": KEY}, {"Authorization": f"bearer {KEY}"}])
def test_the_key_opens_by_either_header(web: Web, headers: dict[str, str]) -> None:
    assert bare(web, "GET", "/v1/jobs", headers).status_code == 200


def test_a_request_id_is_given_back_or_made(web: Web) -> None:
    kept = web.send("GET", "/v1/nope", headers={"X-Request-Id": "r-1.2_3"})
    made = web.send("GET", "/v1/nope")

    assert kept.headers["X-Request-Id"] == "r-1.2_3" == json_of(kept)["error"]["requestId"]
    assert made.headers["X-Request-Id"] == json_of(made)["error"]["requestId"]


@pytest.mark.parametrize("sent", ["", "a b", "é", "x" * 129, '"><script>'])
def test_a_request_id_that_could_do_harm_is_replaced(web: Web, sent: str) -> None:
    answer = web.send("GET", "/v1/jobs", headers={"X-Request-Id": sent})

    assert re.fullmatch(r"[a-z2-7]{26}", answer.headers["X-Request-Id"])


def test_every_answer_says_that_it_is_what_it_says(web: Web) -> None:
    for path in ("/v1/jobs", "/v1/nope", "/healthz", "/metrics", "/v1/openapi.json"):
        assert web.send("GET", path).headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/sandboxes/", "//v1/jobs", "/v1/jobs/a/b/c"])
def test_a_path_that_is_not_there_is_not_found(web: Web, path: str) -> None:
    answer = web.send("GET", path)

    assert (answer.status_code, code_of(answer)) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/nodes", "GET, HEAD"),
        ("DELETE", "/v1/jobs/x", "GET, HEAD"),
        ("GET", EXEC, "POST"),
        ("OPTIONS", EXEC, "POST"),
        ("TRACE", EXEC, "POST"),
        ("PATCH", "/v1/sandboxes/box", "DELETE, GET, HEAD, PUT"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_answered_with_those_it_takes(
    web: Web, method: str, path: str, allowed: str
) -> None:
    answer = web.send(method, path)

    assert (answer.status_code, code_of(answer)) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "unreadable_body"),
        (b"\xff", 400, "unreadable_body"),
        (b'{"command": NaN}', 400, "unreadable_body"),
        (b'{"command": "\\ud800"}', 400, "unreadable_body"),
        (b"[" * 1_000_000, 422, "invalid_field"),
        (b'{"command":' + b"[" * 1_000_000, 422, "invalid_field"),
        (b'{"argv":' + b'{"a":' * 100_000, 422, "invalid_field"),
        (b"[]", 422, "invalid_field"),
        (b"{}", 422, "invalid_field"),
        (b'{"command": "a", "timeoutMs": 1e400}', 422, "invalid_field"),
        (b'{"command": "a", "x": 1}', 422, "invalid_field"),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}", 422, "invalid_field"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_body_that_cannot_be_used_is_the_client_s_fault(
    web: Web, body: bytes, status: int, code: str
) -> None:
    answer = web.send("POST", EXEC, data=body, content_type="application/json")

    assert (answer.status_code, code_of(answer)) == (status, code)
    assert "Traceback" not in answer.text


def test_the_field_that_is_wrong_is_named_in_the_words_of_the_wire(web: Web) -> None:
    answer = web.send("POST", EXEC, {"command": "a", "timeoutMs": -1})

    assert (answer.status_code, field_of(answer)) == (422, "timeoutMs")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=utf-7"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_a_body_of_another_kind_is_not_guessed_at(web: Web, headers: dict[str, str]) -> None:
    answer = web.send("POST", EXEC, headers=headers, data=b'{"command": "say hi"}')

    assert (answer.status_code, code_of(answer)) == (415, "unsupported_media_type")


def test_a_body_over_the_limit_is_too_large(redis_server: RedisServer, web: Web) -> None:
    with web_on(redis_server, max_body_bytes=2048) as small:
        answer = small.send("POST", EXEC, {"command": "say " + "x" * 3000})

        assert (answer.status_code, code_of(answer)) == (413, "body_too_large")
        assert json_of(answer)["error"]["details"] == {"limitBytes": 2048}
        assert small.send("POST", EXEC, {"command": "say hi"}).status_code == 200


def test_a_mistake_of_ours_is_told_without_any_detail(
    web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the secret detail")

    monkeypatch.setattr("web.api.jobs.JobList.page", fail)

    answer = web.send("GET", "/v1/jobs", headers={"X-Request-Id": "r-9"})

    assert (answer.status_code, code_of(answer)) == (500, "internal_error")
    assert "secret" not in answer.text
    logged = capsys.readouterr()
    assert "the secret detail" in logged.out + logged.err
    assert "r-9" in logged.out + logged.err


def test_what_is_done_is_counted_by_route(web: Web) -> None:
    web.exec("say hi")

    text = web.send("GET", "/metrics").text

    route = 'route="/v1/sandboxes/<name>/exec"'
    assert re.search(rf'coldframe_http_requests_total{{method="POST",{route},status="200"}}', text)
    assert re.search(r'coldframe_jobs_submitted_total\{kind="exec"\} [1-9]', text)
    assert 'coldframe_jobs_submitted_total{kind="build"} 0.0' in text
    assert "coldframe_redis_up 1.0" in text
    assert "coldframe_readers 0.0" in text
    assert "coldframe_http_request_duration_seconds_bucket" in text


class FlowerStub(BaseHTTPRequestHandler):
    """Tells what it was asked, as Flower's stand-in on a Unix socket."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str, dict[str, str], bytes]]

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        type(self).asked.append((self.command, self.path, headers, body))
        answer = b"<html>tasks</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Connection", "keep-alive")
        self.send_header("Keep-Alive", "timeout=5")
        self.send_header("Set-Cookie", "_xsrf=1")
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "flower.sock"
    FlowerStub.asked = []
    with socketserver.ThreadingUnixStreamServer(str(path), FlowerStub) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


@pytest.fixture
def pages(redis_server: RedisServer, flower: Path) -> Iterator[Web]:
    with web_on(redis_server, flower_socket=flower) as web:
        yield web


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


def test_flower_is_shown_to_who_has_the_key(pages: Web) -> None:
    answer = pages.send("GET", "/flower/task/a%2Fb?x=1&y=%20")

    assert (answer.status_code, answer.text) == (200, "<html>tasks</html>")
    assert answer.headers["Set-Cookie"] == "_xsrf=1"
    assert "Keep-Alive" not in answer.headers
    method, path, headers, _ = FlowerStub.asked[0]
    assert (method, path.partition("?")[2]) == ("GET", "x=1&y=%20")
    assert {"authorization", "x-api-key"}.isdisjoint(headers)


def test_a_browser_gets_to_flower_with_the_key_as_password(pages: Web) -> None:
    asked = bare(pages, "GET", "/flower/")
    wrong = bare(pages, "GET", "/flower/", basic("wrong"))
    right = bare(pages, "GET", "/flower/", basic(KEY))

    assert asked.headers["WWW-Authenticate"] == 'Basic realm="coldframe"'
    assert (asked.status_code, wrong.status_code, right.status_code) == (401, 401, 200)
    assert len(FlowerStub.asked) == 1


def test_flower_s_own_metrics_are_behind_the_key_too(pages: Web) -> None:
    assert bare(pages, "GET", "/flower/metrics").status_code == 401
    assert pages.send("GET", "/flower/metrics").status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost", 200), ("http://evil.example", 403), ("null", 403), (None, 403)],
)
def test_another_site_s_page_cannot_use_what_the_browser_knows(
    pages: Web, origin: str | None, status: int
) -> None:
    headers = basic(KEY) | ({"Origin": origin} if origin else {})

    answer = bare(pages, "POST", "/flower/api/worker/shutdown/w", headers)

    assert answer.status_code == status


def test_an_action_of_flower_s_arrives_with_its_body(pages: Web) -> None:
    answer = pages.send("POST", "/flower/api/x", data=b"a=1", headers={"Content-Type": "text/x"})

    assert answer.status_code == 200
    method, path, headers, body = FlowerStub.asked[0]
    assert (method, path, body, headers["content-type"]) == (
        "POST",
        "/flower/api/x",
        b"a=1",
        "text/x",
    )


def test_flower_that_does_not_answer_can_be_asked_again(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with web_on(redis_server, flower_socket=tmp_path / "nobody.sock") as web:
        answer = web.send("GET", "/flower/")

        assert (answer.status_code, code_of(answer)) == (503, "flower_unavailable")


def test_without_flower_there_is_no_page(web: Web) -> None:
    answer = web.send("GET", "/flower/")

    assert (answer.status_code, code_of(answer)) == (404, "route_not_found")
