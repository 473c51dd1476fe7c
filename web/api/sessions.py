"""The routes of sessions."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from flask import Response

from web.names import SandboxNames
from web.operations import Operation, json_answer, no_content
from web.placement import Placement
from web.schemas import SessionRequest, SessionsPage, SessionView, session_view
from workers.contract.errors import SandboxNotRunning, SessionNotFound
from workers.contract.queue import ControlChannel, EndSession
from workers.contract.sandboxes import DEFAULT_SESSION, Sandbox, SandboxState, SessionRecord
from workers.contract.store import SandboxStore


class SessionRoutes:
    """Persistent shells of a sandbox; the one named `default` is always there."""

    def __init__(
        self,
        *,
        sandboxes: SandboxStore,
        names: SandboxNames,
        placement: Placement,
        control: ControlChannel,
        now: Callable[[], str],
    ) -> None:
        self._sandboxes = sandboxes
        self._names = names
        self._placement = placement
        self._control = control
        self._now = now

    def operations(self) -> list[Operation]:
        all_of = "/v1/sandboxes/{name}/sessions"
        one = f"{all_of}/{{session}}"
        return [
            Operation("POST", all_of, self.create, {201: SessionView}),
            Operation("GET", all_of, self.list_all, {200: SessionsPage}),
            Operation("GET", one, self.get, {200: SessionView}),
            Operation("DELETE", one, self.remove, {204: None}),
        ]

    def create(self, owner: str, name: str, body: SessionRequest) -> Response:
        """Create a session; its shell starts with its first command."""
        session = SessionRecord(
            name=body.name,
            created_at=self._now(),
            cwd=body.cwd,
            env=body.env,
            timeout_ms=None if body.timeout_ms is msgspec.UNSET else body.timeout_ms,
        )

        def add(sandbox: Sandbox) -> SessionRecord:
            check_running(self._sandboxes.get(sandbox.id))
            if body.isolation:
                self._placement.check_driver(sandbox, "isolate sessions from each other")
            return self._sandboxes.add_session(sandbox.id, session, isolated=body.isolation)

        return json_answer(session_view(self._names.use(owner, name, add)), 201)

    def list_all(self, owner: str, name: str) -> Response:
        """The sandbox's sessions, the implicit one first."""
        sessions = self._all(self._sandboxes.by_name(owner, name))
        return json_answer(SessionsPage(sessions=[session_view(session) for session in sessions]))

    def get(self, owner: str, name: str, session: str) -> Response:
        """One session."""
        for record in self._all(self._sandboxes.by_name(owner, name)):
            if record.name == session:
                return json_answer(session_view(record))
        raise SessionNotFound(f"The sandbox has no session {session!r}.")

    def remove(self, owner: str, name: str, session: str) -> Response:
        """End a session with all that it left running; `default` starts anew."""
        sandbox = self._sandboxes.by_name(owner, name)
        if session != DEFAULT_SESSION:
            self._sandboxes.drop_session(sandbox.id, session)
        if sandbox.node is not None:
            self._control.send(sandbox.node, EndSession(sandbox.id, session))
        return no_content()

    def _all(self, sandbox: Sandbox) -> list[SessionRecord]:
        implicit = SessionRecord(name=DEFAULT_SESSION, created_at=sandbox.created_at)
        created = sorted(self._sandboxes.sessions(sandbox.id), key=lambda one: one.created_at)
        return [implicit, *(one for one in created if one.name != DEFAULT_SESSION)]


def check_running(sandbox: Sandbox) -> None:
    """Raises `SandboxNotRunning`: what is written to a record that ends would be lost."""
    if sandbox.state is not SandboxState.RUNNING:
        raise SandboxNotRunning(sandbox.name, sandbox.state)
