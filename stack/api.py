"""Speaks to the platform's API over plain HTTP, as any client would."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import msgspec

from stack.client_env import ClientEnv

ANSWER_TIMEOUT_S = 90.0
"""Longer than anything that the API waits for; a stream sends heartbeats more often."""


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """One event of a job, as far as a person at a terminal wants to know."""

    type: str
    data: object = ""
    """A text, where it is output."""
    step: str = ""
    name: str = ""
    status: str = ""
    text: str = ""
    png: str = ""
    """Base64."""
    conclusion: str = ""
    exit_code: int | None = None
    """None: the event tells of no exit."""
    phase: str = ""
    percent: int | None = None
    """None: git does not say."""
    value: str = ""
    code: str = ""
    error: str = ""


class NodeView(msgspec.Struct, frozen=True, rename="camel"):
    """What the API says of a node."""

    id: str
    driver: str
    ready: bool
    problem: str = ""
    sandboxes: int = 0
    running_jobs: int = 0
    job_limit: int = 0
    warnings: list[str] = []


class _Nodes(msgspec.Struct, frozen=True):
    nodes: list[NodeView]


class ApiFailed(Exception):
    """The API could not be reached, or answered with an error."""


class Api:
    """The API at one address, with one key. Each call has a connection of its own."""

    def __init__(self, client_env: ClientEnv, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._address = urlsplit(client_env.url).netloc
        self._key = client_env.api_key
        self._timeout_s = timeout_s

    def status(self, path: str) -> tuple[int, str]:
        """The HTTP status of a GET, and its body."""
        with closing(self._connection()) as connection:
            answer = self._send(connection, "GET", path, None, "application/json")
            return answer.status, answer.read().decode(errors="replace")

    def call(self, method: str, path: str, body: object | None = None) -> bytes:
        """The body of an answer that is no error."""
        with closing(self._connection()) as connection:
            answer = self._send(connection, method, path, body, "application/json")
            content = answer.read()
            _raise_for_error(answer, method, path, content)
            return content

    def stream(self, path: str, body: object) -> Iterator[Event]:
        """Posts a job and gives its events as they come, to the stream's end."""
        with closing(self._connection()) as connection:
            answer = self._send(connection, "POST", path, body, "text/event-stream")
            if answer.status != http.client.OK:
                _raise_for_error(answer, "POST", path, answer.read())
            try:
                for line in answer:
                    if line.startswith(b"data:"):
                        yield msgspec.json.decode(line.removeprefix(b"data:"), type=Event)
            except OSError as error:
                raise ApiFailed(f"POST {path}: the stream broke off: {error}") from error

    def nodes(self) -> list[NodeView]:
        return msgspec.json.decode(self.call("GET", "/v1/nodes"), type=_Nodes).nodes

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, timeout=self._timeout_s)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: object | None,
        accept: str,
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._key}", "Accept": accept}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, content, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ApiFailed(f"{method} {path}: {error}") from error


def _raise_for_error(
    answer: http.client.HTTPResponse, method: str, path: str, content: bytes
) -> None:
    if answer.status >= http.client.BAD_REQUEST:
        said = content.decode(errors="replace")[:500]
        raise ApiFailed(f"{method} {path} answered {answer.status}: {said}")
