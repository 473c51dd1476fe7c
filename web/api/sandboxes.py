"""The routes of sandboxes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from flask import Response

from web.api.job_answers import JobAnswers, last_event_id
from web.operations import Operation, json_answer, no_content
from web.placement import Placement
from web.readers import Readers
from web.requests import check
from web.schemas import (
    EnvRequest,
    EventsQuery,
    NewSandboxRequest,
    Pong,
    RenewRequest,
    SandboxesPage,
    SandboxesQuery,
    SandboxName,
    SandboxRequest,
    SandboxView,
    sandbox_view,
)
from workers.contract.clock import later
from workers.contract.errors import SandboxExists
from workers.contract.jobs import new_id
from workers.contract.sandbox_events import SandboxEvent
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore


class SandboxRoutes:
    """Get-or-create, look, remove."""

    def __init__(
        self,
        *,
        sandboxes: SandboxStore,
        placement: Placement,
        readers: Readers,
        answers: JobAnswers,
        now: Callable[[], str],
    ) -> None:
        self._sandboxes = sandboxes
        self._placement = placement
        self._readers = readers
        self._answers = answers
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
            Operation("POST", f"{one}/start", self.start, {200: SandboxView}),
            Operation("POST", f"{one}/stop", self.stop, {200: SandboxView}),
            Operation("POST", f"{one}/pause", self.pause, {200: SandboxView}),
            Operation("POST", f"{one}/resume", self.resume, {200: SandboxView}),
            Operation("POST", f"{one}/renew", self.renew, {200: SandboxView}),
            Operation("PUT", f"{one}/env", self.set_env, {204: None}),
            Operation(
                "GET",
                f"{one}/events",
                self.events,
                {204: None},
                streams=True,
                stream_of=SandboxEvent,
            ),
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
        left = [
            sandbox
            for sandbox in self._sandboxes.list_of(owner)
            if sandbox.name > after and _matches(sandbox, query)
        ]
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

    def start(self, owner: str, name: str) -> Response:
        """Start a sandbox that was stopped, with its files as they were."""
        return self._changed(owner, name, self._placement.start)

    def stop(self, owner: str, name: str) -> Response:
        """End the sandbox's jobs and all that runs in it; its files stay."""
        return self._changed(owner, name, self._placement.stop)

    def pause(self, owner: str, name: str) -> Response:
        """Freeze all that runs in the sandbox."""
        return self._changed(owner, name, self._placement.pause)

    def resume(self, owner: str, name: str) -> Response:
        """Let what was frozen go on."""
        return self._changed(owner, name, self._placement.resume)

    def renew(self, owner: str, name: str, body: RenewRequest) -> Response:
        """Count idle time and lifetime from now."""
        sandbox = self._sandboxes.by_name(owner, name)
        lifetime_ms = body.max_lifetime_ms
        if lifetime_ms is msgspec.UNSET and sandbox.spec.max_lifetime_ms is not None:
            lifetime_ms = sandbox.spec.max_lifetime_ms
        self._sandboxes.renew(
            sandbox,
            idle_timeout_ms=None if body.idle_timeout_ms is msgspec.UNSET else body.idle_timeout_ms,
            expires_at=None if lifetime_ms is msgspec.UNSET else later(self._now(), lifetime_ms),
        )
        return json_answer(sandbox_view(self._sandboxes.get(sandbox.id)))

    def set_env(self, owner: str, name: str, body: EnvRequest) -> Response:
        """Set variables for all sessions, from each one's next command on; null unsets."""
        sandbox = self._sandboxes.by_name(owner, name)
        self._sandboxes.set_env(sandbox.id, body.env)
        return no_content()

    def events(self, owner: str, name: str, query: EventsQuery) -> Response:
        """What happens to the sandbox, from the first event or from `Last-Event-ID` on."""
        sandbox = self._sandboxes.by_name(owner, name)
        after = last_event_id(query)
        return self._answers.stream(
            sandbox.id,
            self._readers.open_sandbox(sandbox.id),
            after=after,
            location=f"/v1/sandboxes/{sandbox.name}",
        )

    def _changed(self, owner: str, name: str, change: Callable[[Sandbox], Sandbox]) -> Response:
        return json_answer(sandbox_view(change(self._sandboxes.by_name(owner, name))))

    def _find_or_make(self, owner: str, name: str, body: SandboxRequest) -> Response:
        spec, now = body.to_spec(), self._now()
        lifetime_ms = spec.max_lifetime_ms
        wanted = Sandbox(
            id=new_id(),
            name=name,
            owner=owner,
            spec=spec,
            created_at=now,
            idle_timeout_ms=spec.idle_timeout_ms,
            expires_at=None if lifetime_ms is None else later(now, lifetime_ms),
        )
        sandbox, created = self._placement.find_or_make(wanted, body.asked_network())
        if not created and (differences := body.differences(sandbox.spec)):
            raise SandboxExists(
                f"The sandbox {name} is there and differs in {', '.join(differences)}."
            )
        return json_answer(sandbox_view(sandbox), 201 if created else 200)


def _matches(sandbox: Sandbox, query: SandboxesQuery) -> bool:
    if query.state not in (None, sandbox.state):
        return False
    if query.label is None:
        return True
    key, _, value = query.label.partition("=")
    labels = sandbox.spec.labels
    return key in labels and ("=" not in query.label or labels[key] == value)
