"""The routes of sandboxes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from flask import Response

from web.operations import Operation, json_answer, no_content
from web.placement import Placement
from web.requests import check
from web.schemas import (
    NewSandboxRequest,
    Pong,
    SandboxesPage,
    SandboxesQuery,
    SandboxName,
    SandboxRequest,
    SandboxView,
    sandbox_view,
)
from workers.contract.errors import SandboxExists
from workers.contract.jobs import new_id
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore


class SandboxRoutes:
    """Get-or-create, look, remove."""

    def __init__(
        self,
        *,
        sandboxes: SandboxStore,
        placement: Placement,
        now: Callable[[], str],
    ) -> None:
        self._sandboxes = sandboxes
        self._placement = placement
        self._now = now

    def operations(self) -> list[Operation]:
        one = "/v1/sandboxes/{name}"
        made: dict[int, type[msgspec.Struct] | None] = {200: SandboxView, 201: SandboxView}
        return [
            Operation("PUT", one, self.put, made),
            Operation("POST", "/v1/sandboxes", self.create, made),
            Operation("GET", "/v1/sandboxes", self.list_all, {200: SandboxesPage}),
            Operation("GET", one, self.get, {200: SandboxView}),
            Operation("DELETE", one, self.remove, {204: None, 202: SandboxView}),
            Operation("GET", f"{one}/ping", self.ping, {200: Pong}),
        ]

    def put(self, owner: str, name: str, body: SandboxRequest) -> Response:
        """Get the sandbox of this name, or create it; answers when it runs."""
        check("name", name, SandboxName)
        return self._find_or_make(owner, name, body)

    def create(self, owner: str, body: NewSandboxRequest) -> Response:
        """As PUT; without a name, a new sandbox with a generated one."""
        name = f"sandbox-{new_id()[:10]}" if body.name is msgspec.UNSET else body.name
        return self._find_or_make(owner, name, body)

    def list_all(self, owner: str, query: SandboxesQuery) -> Response:
        """The owner's sandboxes, by name."""
        after = query.cursor or ""
        left = [sandbox for sandbox in self._sandboxes.list_of(owner) if sandbox.name > after]
        page = left[: query.limit]
        return json_answer(
            SandboxesPage(
                sandboxes=[sandbox_view(sandbox) for sandbox in page],
                next_cursor=page[-1].name if len(left) > len(page) else msgspec.UNSET,
            )
        )

    def get(self, owner: str, name: str) -> Response:
        """One sandbox."""
        return json_answer(sandbox_view(self._sandboxes.by_name(owner, name)))

    def remove(self, owner: str, name: str) -> Response:
        """End the sandbox's jobs and remove it; 202 where its node has not done so in time."""
        sandbox = self._sandboxes.by_name(owner, name)
        if self._placement.remove(sandbox):
            return no_content()
        return json_answer(sandbox_view(self._sandboxes.get(sandbox.id)), 202)

    def ping(self, owner: str, name: str) -> Response:
        """Whether the sandbox is there."""
        sandbox = self._sandboxes.by_name(owner, name)
        return json_answer(Pong(state=sandbox.state, node=sandbox.node))

    def _find_or_make(self, owner: str, name: str, body: SandboxRequest) -> Response:
        wanted = Sandbox(
            id=new_id(), name=name, owner=owner, spec=body.to_spec(), created_at=self._now()
        )
        sandbox, created = self._placement.find_or_make(wanted)
        if not created and (differences := body.differences(sandbox.spec)):
            raise SandboxExists(
                f"The sandbox {name} is there and differs in {', '.join(differences)}."
            )
        return json_answer(sandbox_view(sandbox), 201 if created else 200)
