"""The routes of exposed ports, and of single requests to servers in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing

import msgspec
from flask import Response

from sandbox_runtime.protocol.calls import Answer, RuntimeCalls
from web.contents import decoded, encoded
from web.door import Door
from web.errors import AnswerTooLarge, InvalidField
from web.operations import Operation, json_answer, no_content
from web.relays import Relays
from web.requests import check
from web.schemas_ports import (
    ExposeRequest,
    FetchedView,
    FetchRequest,
    PortNumber,
    PortsPage,
    PortView,
    port_view,
)
from workers.contract.ports import Port, PortStore
from workers.contract.previews import new_token
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore

MAX_FETCHED_BYTES = 16 * 1024 * 1024

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset({"connection", "content-length", "transfer-encoding", "upgrade", "expect"})
"""Headers that say how a request is sent, which is not the caller's to say."""


class PortRoutes:
    """Previews are looked at through the relay; here it is told which there are."""

    def __init__(
        self,
        *,
        door: Door,
        ports: PortStore,
        sandboxes: SandboxStore,
        relays: Relays,
        now: Callable[[], str],
    ) -> None:
        self._door = door
        self._ports = ports
        self._sandboxes = sandboxes
        self._relays = relays
        self._now = now

    def operations(self) -> list[Operation]:
        all_of = "/v1/sandboxes/{name}/ports"
        fetch = "/v1/sandboxes/{name}/fetch/{port}"
        return [
            Operation("POST", all_of, self.expose, {201: PortView}),
            Operation("GET", all_of, self.list_all, {200: PortsPage}),
            Operation("DELETE", f"{all_of}/{{port}}", self.close, {204: None}),
            Operation("POST", fetch, self.fetch, {200: FetchedView}),
        ]

    def expose(self, owner: str, name: str, body: ExposeRequest) -> Response:
        """Expose a port: its URL shows what listens there, now or later."""
        given = None if body.token is msgspec.UNSET else body.token
        wanted = Port(
            port=body.port,
            token=given or new_token(),
            name=None if body.name is msgspec.UNSET else body.name,
            exposed_at=self._now(),
        )

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> PortView:
            port = self._ports.expose(sandbox.id, wanted, keep_token=given is None)
            calls.look_at_exposures()
            return port_view(port, sandbox.id, self._relays.previews_of(sandbox.node))

        return json_answer(self._door.use(owner, name, act), 201)

    def list_all(self, owner: str, name: str) -> Response:
        """The exposed ports, with their URLs."""
        sandbox = self._sandboxes.by_name(owner, name)
        ports = self._ports.all_of(sandbox.id)
        views = [
            port_view(port, sandbox.id, self._relays.previews_of(sandbox.node)) for port in ports
        ]
        return json_answer(PortsPage(ports=views))

    def close(self, owner: str, name: str, port: str) -> Response:
        """Expose a port no more; what looks at it is cut. Fine where it is not exposed."""
        sandbox = self._sandboxes.by_name(owner, name)
        self._ports.close(sandbox.id, _number(port))
        self._door.ask(sandbox, lambda _, calls: calls.look_at_exposures())
        return no_content()

    def fetch(self, owner: str, name: str, port: str, body: FetchRequest) -> Response:
        """Send one request to a server in the sandbox, exposed or not."""
        number, headers = _number(port), _headers(body.headers)
        content = decoded("body", body.body, body.encoding)

        def act(_: Sandbox, calls: RuntimeCalls) -> FetchedView:
            answer = calls.fetch(
                number,
                body.method,
                body.path,
                headers={"Host": f"localhost:{number}", **headers},
                body=content,
                timeout_s=body.timeout_ms / 1000,
            )
            with closing(answer):
                return _fetched(answer)

        return json_answer(self._door.use(owner, name, act))


def _number(port: str) -> int:
    if not port.isascii() or not port.isdigit():
        raise InvalidField("port", "A port is a number.")
    return check("port", int(port) if len(port) < 6 else 0, PortNumber)


def _headers(given: dict[str, str]) -> dict[str, str]:
    for name, value in given.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _OURS:
            raise InvalidField(f"headers.{name[:64]}", "This header cannot be sent.")
    return given


def _fetched(answer: Answer) -> FetchedView:
    pieces, size = [], 0
    for piece in answer.pieces():
        size += len(piece)
        if size > MAX_FETCHED_BYTES:
            raise AnswerTooLarge(MAX_FETCHED_BYTES)
        pieces.append(piece)
    text, encoding = encoded(b"".join(pieces))
    return FetchedView(status=answer.status, headers=answer.headers, body=text, encoding=encoding)
