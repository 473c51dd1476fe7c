"""The routes of terminals, which are looked at through the relay."""

from __future__ import annotations

import re

import msgspec
from flask import Response

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.calls import RuntimeCalls
from sandbox_runtime.protocol.errors import TerminalNotFound
from sandbox_runtime.protocol.terminals import ID_PATTERN, TerminalInfo, TerminalList
from web.door import Door
from web.errors import RuntimeRefused
from web.operations import Operation, json_answer, no_content, reaching_in
from web.relays import Relays
from web.schemas_terminals import TerminalRequest, TerminalsPage, TerminalView
from web.shells import shell_of
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore
from workers.contract.terminals import TerminalStore


class TerminalRoutes:
    """A terminal goes on when who started it has left."""

    def __init__(
        self,
        *,
        door: Door,
        sandboxes: SandboxStore,
        terminals: TerminalStore,
        relays: Relays,
    ) -> None:
        self._door = door
        self._sandboxes = sandboxes
        self._terminals = terminals
        self._relays = relays

    def operations(self) -> list[Operation]:
        all_of = "/v1/sandboxes/{name}/terminals"
        return reaching_in(
            [
                Operation("POST", all_of, self.start, {201: TerminalView}),
                Operation("GET", all_of, self.list_all, {200: TerminalsPage}),
                Operation("DELETE", f"{all_of}/{{id}}", self.end, {204: None}),
            ]
        )

    def start(self, owner: str, name: str, body: TerminalRequest) -> Response:
        """Start a shell or a program on a terminal; its URL takes WebSockets."""

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> tuple[Sandbox, TerminalInfo]:
            session = shell_of(self._sandboxes, sandbox, body.session)
            wanted = codec.encode(body.to_runtime(session))
            started = calls.call("POST", "/terminals", kind=TerminalInfo, body=wanted)
            self._known(sandbox, calls)  # So that tokens do not pile up.
            return sandbox, started

        return json_answer(self._view(*self._door.use(owner, name, act)), 201)

    def list_all(self, owner: str, name: str) -> Response:
        """The terminals that run, and those that have ended lately; the oldest first."""

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> tuple[Sandbox, list[TerminalInfo]]:
            return sandbox, self._known(sandbox, calls)

        sandbox, infos = self._door.use(owner, name, act)
        return json_answer(TerminalsPage(terminals=[self._view(sandbox, one) for one in infos]))

    def end(self, owner: str, name: str, id: str) -> Response:
        """End a terminal with all that was started on it."""
        if not re.match(ID_PATTERN, id):
            raise RuntimeRefused(TerminalNotFound(f"there is no terminal {id[:80]!r}"))
        self._door.use(owner, name, lambda _, calls: calls.order("DELETE", f"/terminals/{id}"))
        return no_content()

    def _known(self, sandbox: Sandbox, calls: RuntimeCalls) -> list[TerminalInfo]:
        """Lets go of the tokens of those that are not there any more."""
        infos = calls.call("GET", "/terminals", kind=TerminalList).terminals
        self._terminals.keep(sandbox.id, [info.id for info in infos])
        return infos

    def _view(self, sandbox: Sandbox, info: TerminalInfo) -> TerminalView:
        url = self._terminals.name(sandbox.id, info.id).url(self._relays.previews_of(sandbox.node))
        return TerminalView(**msgspec.structs.asdict(info), url=url)
