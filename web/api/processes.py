"""The routes of background processes."""

from __future__ import annotations

import re
from functools import partial
from typing import TypeVar

from flask import Response, g, request

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.calls import CALL_TIMEOUT_S, Answer, RuntimeCalls
from sandbox_runtime.protocol.errors import ProcessNotFound
from sandbox_runtime.protocol.events import TERMINAL, Numbered
from sandbox_runtime.protocol.processes import (
    ID_PATTERN,
    KilledProcesses,
    ProcessInfo,
    ProcessList,
    ProcessLogs,
    SignalProcess,
    Waited,
)
from sandbox_runtime.protocol.requests import SILENCE_LIMIT_S
from web import sse
from web.api.job_answers import idempotency_key
from web.door import Door
from web.errors import InvalidEventId, RuntimeRefused
from web.operations import Operation, json_answer, no_content, reaching_in
from web.readers import client_left
from web.requests import wants_events
from web.schemas_processes import LogsQuery, ProcessRequest, SignalRequest, WaitRequest
from web.shells import shell_of
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore

MARGIN_S = 15.0
"""What the runtime may take over the time that it was to wait."""

_NUMBER = re.compile(r"[0-9]{1,18}")

T = TypeVar("T")


class ProcessRoutes:
    """Calls, not jobs; a process goes on when who started it has left."""

    def __init__(self, *, door: Door, sandboxes: SandboxStore) -> None:
        self._door = door
        self._sandboxes = sandboxes

    def operations(self) -> list[Operation]:
        all_of = "/v1/sandboxes/{name}/processes"
        one = f"{all_of}/{{id}}"
        return reaching_in(
            [
                Operation("POST", all_of, self.start, {201: ProcessInfo}, takes_key=True),
                Operation("GET", all_of, self.list_all, {200: ProcessList}),
                Operation("DELETE", all_of, self.kill_all, {200: KilledProcesses}),
                Operation("GET", one, self.get, {200: ProcessInfo}),
                Operation("DELETE", one, self.kill, {200: ProcessInfo}),
                Operation("GET", f"{one}/logs", self.logs, {200: ProcessLogs}, streams=True),
                Operation("POST", f"{one}/signal", self.signal, {200: ProcessInfo}),
                Operation("POST", f"{one}/wait", self.wait, {200: Waited}),
            ]
        )

    def start(self, owner: str, name: str, body: ProcessRequest) -> Response:
        """Start a process, which outlives this request."""
        key = idempotency_key()

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> ProcessInfo:
            session = shell_of(self._sandboxes, sandbox, body.session)
            wanted = codec.encode(body.to_runtime(session, key))
            return calls.call("POST", "/processes", kind=ProcessInfo, body=wanted)

        return json_answer(self._door.use(owner, name, act), 201)

    def list_all(self, owner: str, name: str) -> Response:
        """The processes that run, and those that have ended lately; the oldest first."""
        return json_answer(self._call(owner, name, "GET", "/processes", ProcessList))

    def kill_all(self, owner: str, name: str) -> Response:
        """End all processes, and tell how many there were."""
        return json_answer(self._call(owner, name, "DELETE", "/processes", KilledProcesses))

    def get(self, owner: str, name: str, id: str) -> Response:
        """One process."""
        return json_answer(self._call(owner, name, "GET", _path(id), ProcessInfo))

    def kill(self, owner: str, name: str, id: str) -> Response:
        """End a process with all that it started; of one that has ended, drop the record."""
        return json_answer(self._call(owner, name, "DELETE", _path(id), ProcessInfo))

    def logs(self, owner: str, name: str, id: str, query: LogsQuery) -> Response:
        """What it has printed so far, or as a stream what it prints, to its end."""
        path = _path(id)
        if not wants_events(request):
            return json_answer(self._call(owner, name, "GET", f"{path}/logs", ProcessLogs))
        after = _last_number(query)

        def act(_: Sandbox, calls: RuntimeCalls) -> Answer:
            return calls.open(
                "GET", f"{path}/events", query={"after": after}, timeout_s=SILENCE_LIMIT_S
            )

        answer = self._door.use(owner, name, act)
        if answer.status == 204:
            answer.close()
            return no_content()  # The one status that keeps a browser from coming back.
        frames = sse.relayed(
            answer.pieces(),
            codec.LineDecoder().feed,
            _frame,
            is_last=lambda numbered: isinstance(numbered.event, TERMINAL),
            left=partial(client_left, request.environ),
            request_id=g.request_id,
        )
        response = Response(frames, headers=sse.HEADERS)
        response.call_on_close(answer.close)
        return response

    def signal(self, owner: str, name: str, id: str, body: SignalRequest) -> Response:
        """Send a signal to a process and to all that it started."""
        wanted = codec.encode(SignalProcess(signal=body.signal))
        return json_answer(
            self._call(owner, name, "POST", f"{_path(id)}/signal", ProcessInfo, body=wanted)
        )

    def wait(self, owner: str, name: str, id: str, body: WaitRequest) -> Response:
        """Wait for a process: for its end, for a port, for a line that it prints."""
        wanted = codec.encode(body.to_runtime())
        waited = self._call(
            owner,
            name,
            "POST",
            f"{_path(id)}/wait",
            Waited,
            body=wanted,
            timeout_s=body.timeout_ms / 1000 + MARGIN_S,
        )
        return json_answer(waited)

    def _call(
        self,
        owner: str,
        name: str,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: bytes | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> T:
        environ = request.environ

        def act(_: Sandbox, calls: RuntimeCalls) -> T:
            return calls.call(
                method,
                path,
                kind=kind,
                body=body,
                timeout_s=timeout_s,
                is_wanted=lambda: not client_left(environ),
            )

        return self._door.use(owner, name, act)


def _path(process_id: str) -> str:
    if not re.match(ID_PATTERN, process_id):
        raise RuntimeRefused(ProcessNotFound(f"there is no process {process_id[:80]!r}"))
    return f"/processes/{process_id}"


def _last_number(query: LogsQuery) -> int:
    text = request.headers.get("Last-Event-ID") or query.last_event_id or "0"
    if not _NUMBER.fullmatch(text):
        raise InvalidEventId("The id of a log's event is a number.")
    return int(text)


def _frame(numbered: Numbered) -> bytes:
    return sse.numbered_frame(numbered.n, codec.encode(numbered.event))
