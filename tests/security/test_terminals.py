"""Strangers at the one way from outside to a sandbox's runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.client import Client, Event
from tests.platform import Platform

DEADLINE_S = 20.0
TOO_BIG = 1009

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(scope="module")
def terminals(api: Client) -> Iterator[list[Event]]:
    """Of two sandboxes."""
    names = ("watched-a", "watched-b")
    made = []
    for name in names:
        api.sandbox(name)
        answer = api.http.post(f"/v1/sandboxes/{name}/terminals", json={})
        made.append(answer.json())
    yield made
    for name in names:
        api.remove(name)


def asked(url: str, path: str, **headers: str) -> httpx.Response:
    origin = f"http://{urlsplit(url).netloc}"
    # Whole, as it is: httpx would tidy its path.
    with httpx.Client(trust_env=False) as client:
        request = client.build_request("GET", origin, headers={**HANDSHAKE, **headers})
        request.url = httpx.URL(origin).copy_with(raw_path=path.encode())
        answer = client.send(request, stream=True)
        if answer.status_code != 101:
            answer.read()
        answer.close()
    return answer


def test_the_token_of_one_terminal_opens_no_other(terminals: list[Event]) -> None:
    first, second = (urlsplit(one["url"]).path.split("/") for one in terminals)

    assert asked(terminals[0]["url"], "/".join(first)).status_code == 101
    for wrong in (
        [*first[:4], second[4]],
        [*first[:3], second[3], first[4]],
        [*first[:2], second[2], *first[3:]],
        [*first[:4], "x"],
        [*first[:4], ""],
        first[:4],
    ):
        assert asked(terminals[0]["url"], "/".join(wrong)).status_code == 404


@pytest.mark.parametrize(
    "beyond", ["/../../ping", "/x", "%2f..%2fping", "/..;/ping", "\\..\\ping", "%00"]
)
def test_nothing_of_a_runtime_but_its_terminals_is_reached(
    terminals: list[Event], beyond: str
) -> None:
    url = terminals[0]["url"]

    answer = asked(url, urlsplit(url).path + beyond)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "preview_not_found"


def test_a_terminal_is_spoken_to_by_websocket_alone(terminals: list[Event]) -> None:
    url = terminals[0]["url"].replace("ws", "http", 1)

    for method in ("GET", "POST", "DELETE"):
        answer = httpx.request(method, url, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (426, "websocket_only")
    assert asked(terminals[0]["url"], urlsplit(url).path, Upgrade="h2c").status_code == 426


def test_what_a_stranger_says_of_himself_does_not_reach_the_runtime(
    terminals: list[Event],
) -> None:
    url = terminals[0]["url"]

    answer = asked(
        url,
        urlsplit(url).path,
        Authorization="Bearer wrong",
        Cookie="a=b",
        **{"Sec-WebSocket-Extensions": "permessage-deflate"},
    )

    assert answer.status_code == 101
    assert set(answer.headers) == {"connection", "upgrade", "sec-websocket-accept"}


def test_tokens_of_terminals_are_in_no_log(platform: Platform, terminals: list[Event]) -> None:
    token = urlsplit(terminals[0]["url"]).path.rpartition("/")[2]
    logs: list[Path] = list((platform.state_dir / "logs").iterdir())

    assert logs
    assert not [log for log in logs if token in log.read_text(errors="replace")]


@pytest.mark.parametrize("pieces", [1, 64], ids=["one frame", "in pieces"])
def test_a_message_that_is_too_large_ends_its_connection_and_not_the_terminal(
    terminals: list[Event], pieces: int
) -> None:
    url = terminals[0]["url"]

    def send_too_much() -> None:
        with connect(url, proxy=None) as connection:
            connection.send(bytes(2 << 20) if pieces == 1 else [bytes(1 << 15)] * pieces)
            while True:
                connection.recv(timeout=DEADLINE_S)

    with pytest.raises(ConnectionClosed) as closed:
        send_too_much()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == TOO_BIG
    assert_answers(url)


def test_a_flood_of_pings_and_empty_messages_holds_up_nobody(terminals: list[Event]) -> None:
    url = terminals[0]["url"]
    with connect(url, proxy=None) as flooding:
        for n in range(5000):
            flooding.ping()
            flooding.send(b"" if n % 2 else "{}")
        assert_answers(url)


def assert_answers(url: str) -> None:
    with connect(url, proxy=None) as connection:
        connection.send(b"echo $((6 * 7))\n")
        shown = b""
        while b"\r42\r\n" not in shown:
            message = connection.recv(timeout=DEADLINE_S)
            shown += message if isinstance(message, bytes) else b""
