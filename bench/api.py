"""Speaks the platform's HTTP API over one connection that is kept alive."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from bench.errors import PlatformRefused, PlatformUnreachable
from bench.settings import Settings
from bench.sse import TERMINAL_TYPES, Event, read_events

CALL_TIMEOUT_S = 120.0
IDLE_LIMIT_S = 10.0
READ_BYTES = 256 * 1024

_SSE = {"Accept": "text/event-stream"}
_ASYNC = {"Prefer": "respond-async"}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that was made for the bench."""

    name: str
    id: str


class Api:
    """One connection: for one thread at a time. Raises `BenchError`s alone."""

    def __init__(self, settings: Settings) -> None:
        self._connection = http.client.HTTPConnection(
            settings.host, settings.port, timeout=CALL_TIMEOUT_S
        )
        self._followed: http.client.HTTPResponse | None = None
        self._used_at = time.monotonic()
        self._headers = {
            "Authorization": f"Bearer {settings.api_key}",
            "Content-Type": "application/json",
        }

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def check_ready(self) -> None:
        self._call("GET", "/readyz")

    def put_sandbox(
        self, name: str, *, disk_mb: int | None = None, network: str | None = None
    ) -> Sandbox:
        body: dict[str, Any] = {} if network is None else {"network": network}
        if disk_mb is not None:
            body["diskMb"] = disk_mb
        answer = self._call("PUT", f"/v1/sandboxes/{name}", body)
        return Sandbox(name=str(answer["name"]), id=str(answer["id"]))

    def delete_sandbox(self, name: str) -> None:
        """Also where there is none."""
        self._call("DELETE", f"/v1/sandboxes/{name}", missing_ok=True)

    def expose(self, sandbox: str, port: int) -> str:
        """The URL of its preview."""
        return str(self._call("POST", f"/v1/sandboxes/{sandbox}/ports", {"port": port})["url"])

    def make_session(self, sandbox: str, name: str) -> None:
        self._call("POST", f"/v1/sandboxes/{sandbox}/sessions", {"name": name})

    def exec(self, sandbox: str, command: str, *, session: str | None = None) -> None:
        """Waits for the result; anything but success is an error."""
        body = _exec_body(command, session)
        _check_result(self._call("POST", f"/v1/sandboxes/{sandbox}/exec", body))

    def run_python(self, sandbox: str, code: str) -> None:
        """Runs a cell in the sandbox's default context."""
        body = {"code": code, "language": "python"}
        _check_result(self._call("POST", f"/v1/sandboxes/{sandbox}/code", body))

    def make_context(self, sandbox: str, language: str) -> str:
        """Its id."""
        body = {"language": language}
        return str(self._call("POST", f"/v1/sandboxes/{sandbox}/contexts", body)["id"])

    def run_cell(self, sandbox: str, code: str, *, context: str) -> None:
        body = {"code": code, "context": context}
        _check_result(self._call("POST", f"/v1/sandboxes/{sandbox}/code", body))

    def start_exec(self, sandbox: str, command: str, *, session: str) -> str:
        """Returns the job's id at once."""
        body = _exec_body(command, session)
        answer = self._call("POST", f"/v1/sandboxes/{sandbox}/exec", body, _ASYNC)
        return str(answer["id"])

    def start_program(self, sandbox: str, argv: list[str]) -> None:
        """Returns when it is accepted."""
        self._call("POST", f"/v1/sandboxes/{sandbox}/exec", {"argv": argv}, _ASYNC)

    def make_key(self, owner: str, jobs_at_once: int | None) -> tuple[str, str]:
        """Its id, and the key."""
        limits = {} if jobs_at_once is None else {"jobsAtOnce": jobs_at_once}
        answer = self._call("POST", "/v1/keys", {"owner": owner, "limits": limits})
        return str(answer["id"]), str(answer["key"])

    def revoke_key(self, key_id: str) -> None:
        self._call("DELETE", f"/v1/keys/{key_id}")

    def cancel_job(self, job_id: str) -> None:
        self._call("POST", f"/v1/jobs/{job_id}/cancel")

    def exec_to_complete(self, sandbox: str, command: str) -> None:
        """Streams a command's events; returns with the terminal one."""
        with self._exec_stream(sandbox, _exec_body(command)) as response:
            for event in read_events(iter(response.readline, b"")):
                _check_event(event)
            response.read()  # The connection is free again when the answer has been read.

    def exec_to_first_output(self, sandbox: str, command: str) -> None:
        """Returns with the first output; the connection is used up."""
        with (
            self._exec_stream(sandbox, _exec_body(command)) as response,
            closing(self._connection),
        ):
            for event in read_events(iter(response.readline, b"")):
                _check_event(event)
                if event.type == "stdout":
                    return
        raise PlatformRefused("a stream ended without output")

    def exec_stream(self, sandbox: str, command: str, *, output_limit_bytes: int) -> bytes:
        """A command's whole stream as it came over the wire."""
        body = {**_exec_body(command), "outputLimitBytes": output_limit_bytes}
        pieces = []
        with self._exec_stream(sandbox, body) as response:
            while piece := response.read1(READ_BYTES):
                pieces.append(piece)
        return b"".join(pieces)

    def follow_job(self, job_id: str) -> None:
        """Becomes a reader of the job's events; returns with the first byte of the answer."""
        with _translated_errors():
            self._request("GET", f"/v1/jobs/{job_id}/events", headers={**self._headers, **_SSE})
            response = self._connection.getresponse()
            _check_status(response, response.status, b"")
            response.readline()
            self._followed = response

    def is_told_the_end(self) -> bool:
        """Reads what the job that it follows told, to its end; False where that is missing."""
        assert self._followed is not None
        with _translated_errors():
            events = list(read_events(iter(self._followed.readline, b"")))
        return bool(events) and events[-1].type in TERMINAL_TYPES

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        # The platform closes a connection that was idle for long, such as beside a slow baseline.
        if time.monotonic() - self._used_at > IDLE_LIMIT_S:
            self._connection.close()
        self._connection.request(method, path, body, headers or {})
        self._used_at = time.monotonic()

    @contextmanager
    def _exec_stream(
        self, sandbox: str, body: dict[str, Any]
    ) -> Iterator[http.client.HTTPResponse]:
        with _translated_errors():
            headers = {**self._headers, **_SSE}
            self._request(
                "POST", f"/v1/sandboxes/{sandbox}/exec", json.dumps(body).encode(), headers
            )
            response = self._connection.getresponse()
            if response.status != 200:
                _check_status(response, response.status, response.read())
            yield response

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        *,
        missing_ok: bool = False,
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        with _translated_errors():
            self._request(method, path, content, {**self._headers, **(headers or {})})
            response = self._connection.getresponse()
            answer = response.read()
        if missing_ok and response.status == 404:
            return {}
        _check_status(response, response.status, answer)
        decoded: dict[str, Any] = json.loads(answer) if answer else {}
        return decoded


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise PlatformUnreachable(f"the platform: {type(error).__name__}: {error}") from error


def _exec_body(command: str, session: str | None = None) -> dict[str, Any]:
    return {"command": command} if session is None else {"command": command, "session": session}


def _check_status(response: http.client.HTTPResponse, status: int, answer: bytes) -> None:
    if not 200 <= status < 300:
        text = answer.decode(errors="replace")
        raise PlatformRefused(f"the platform answered {status} {response.reason}: {text}")


def _check_result(answer: dict[str, Any]) -> None:
    if answer.get("conclusion") != "success":
        raise PlatformRefused(f"a job did not succeed: {json.dumps(answer)[:500]}")


def _check_event(event: Event) -> None:
    if event.type == "error":
        raise PlatformRefused(f"a job ended in {event.error}")
    if event.type == "complete" and event.conclusion != "success":
        raise PlatformRefused(f"a job ended in {event.conclusion}")
