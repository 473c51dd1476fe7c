"""Calls to a sandbox's runtime by way of its node's relay, for who is not on that node."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TypeVar
from urllib.parse import urlencode

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.connections import Body, Connections, unreachable

CALL_TIMEOUT_S = 60.0
"""For each wait of a call: for its answer to begin, and for each piece of it."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of an answer that is held whole."""

READ_BYTES = 256 * 1024

REFUSED_HEADER = "Coldframe-Relay-Refused"
"""The relay's, where it answers in place of a server in a sandbox."""

Query = Mapping[str, str | int | bool | None]
"""None leaves a parameter out."""

T = TypeVar("T")


class Answer:
    """One whose body is read as it comes. To be closed; what is left of it then is let go."""

    def __init__(self, response: http.client.HTTPResponse, give_back: Callable[[], None]) -> None:
        self._response = response
        self._give_back = give_back
        self.status = response.status

    def close(self) -> None:
        self._give_back()

    @property
    def headers(self) -> list[tuple[str, str]]:
        return self._response.getheaders()

    def header(self, name: str) -> str:
        """Empty where there is none."""
        return self._response.getheader(name, "")

    def pieces(self) -> Iterator[bytes]:
        """As they come, to the end. Raises `RuntimeUnreachable` where it is cut before."""
        while piece := self._read1():
            yield piece
        # http.client's read1 tells neither that the rest is missing nor that there is none.
        if self._response.length:
            raise unreachable(http.client.IncompleteRead(b"", self._response.length))
        self._response.close()  # So that the connection can be kept.

    def _read1(self) -> bytes:
        try:
            return self._response.read1(READ_BYTES)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise unreachable(error) from error


class RuntimeCalls:
    """Asks the runtime of one sandbox; safe to share between threads."""

    def __init__(self, relay: Connections, sandbox_id: str) -> None:
        self._relay = relay
        self._sandbox_id = sandbox_id

    def call(
        self,
        method: str,
        path: str,
        *,
        kind: type[T],
        query: Query | None = None,
        body: Body = None,
        timeout_s: float = CALL_TIMEOUT_S,
        is_wanted: Callable[[], bool] | None = None,
    ) -> T:
        """The answer's JSON as a `kind`. Raises what the runtime says, or `RuntimeUnreachable`.

        Without `is_wanted` it is waited for whether or not somebody still wants it.
        """
        with closing(
            self.open(
                method, path, query=query, body=body, timeout_s=timeout_s, is_wanted=is_wanted
            )
        ) as answer:
            return codec.decode_answer(answer.status, _joined(answer), kind)

    def order(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Body = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        """As `call`, where there is nothing to tell."""
        with closing(
            self.open(method, path, query=query, body=body, timeout_s=timeout_s)
        ) as answer:
            _joined(answer)

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        is_wanted: Callable[[], bool] | None = None,
    ) -> Answer:
        """The answer, its body unread. `path` is quoted by the caller.

        Raises what the runtime says, or `RuntimeUnreachable`.
        """
        target = f"/sandboxes/{self._sandbox_id}{path}{_query(query or {})}"
        answer = self._ask(method, target, body, headers or {}, timeout_s, is_wanted)
        if answer.status >= 300:
            with closing(answer):
                raise codec.decode_fault(answer.status, _joined(answer))
        return answer

    def fetch(
        self,
        port: int,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
    ) -> Answer:
        """What a server on a port of the sandbox answers, whatever that is.

        Raises `PortNotListening`, `RuntimeUnreachable`.
        """
        path = f"/ports/{self._sandbox_id}/{port}{target}"
        answer = self._ask(method, path, body, headers, timeout_s)
        if answer.header(REFUSED_HEADER):
            with closing(answer):
                raise codec.decode_fault(answer.status, _joined(answer))
        return answer

    def look_at_exposures(self) -> None:
        """Tells the relay that the exposed ports of this sandbox have changed."""
        answer = self._ask("POST", f"/exposures/{self._sandbox_id}", None, {}, CALL_TIMEOUT_S)
        with closing(answer):
            if answer.status != 204:
                raise codec.decode_fault(answer.status, _joined(answer))

    def _ask(
        self,
        method: str,
        target: str,
        body: Body,
        headers: Mapping[str, str],
        timeout_s: float,
        is_wanted: Callable[[], bool] | None = None,
    ) -> Answer:
        connection, response = self._relay.request(
            method,
            target,
            body,
            {"Host": "relay", **headers},
            timeout_s=timeout_s,
            repeatable=method != "POST",
            is_wanted=is_wanted,
        )
        return Answer(response, lambda: self._relay.give_back(connection, response))


def _joined(answer: Answer) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for piece in answer.pieces():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise unreachable(ValueError(f"an answer longer than {MAX_ANSWER_BYTES} bytes"))
        pieces.append(piece)
    return b"".join(pieces)


def _query(query: Query) -> str:
    given = {name: _text(value) for name, value in query.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
