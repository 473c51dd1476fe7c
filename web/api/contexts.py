"""The routes of code contexts."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from flask import Response

from sandbox_runtime.protocol.calls import RuntimeCalls
from sandbox_runtime.protocol.codec import encode
from sandbox_runtime.protocol.requests import ContextInterrupted
from web.api.sessions import check_running
from web.door import Door
from web.names import SandboxNames
from web.operations import Operation, json_answer, no_content
from web.schemas import ContextRequest, ContextsPage, ContextView, context_view, language_of
from workers.contract.errors import Fault
from workers.contract.jobs import new_id
from workers.contract.queue import ControlChannel, EndContext
from workers.contract.sandboxes import ContextRecord, Sandbox, runtime_context
from workers.contract.store import SandboxStore

START_TIMEOUT_S = 70.0
"""More than the runtime gives a kernel."""


def open_context(door: Door, sandbox: Sandbox, context: ContextRecord) -> None:
    """Has the runtime start its kernel. Raises as `Door.use_one`."""
    body = encode(runtime_context(sandbox, context))

    def act(_: Sandbox, calls: RuntimeCalls) -> None:
        path = f"/contexts/{quote(context.id, safe='')}"
        calls.order("PUT", path, body=body, timeout_s=START_TIMEOUT_S)

    door.use_one(sandbox, act)


class ContextRoutes:
    """Kernels of a sandbox, and the variables that they hold."""

    def __init__(
        self,
        *,
        sandboxes: SandboxStore,
        names: SandboxNames,
        control: ControlChannel,
        door: Door,
        now: Callable[[], str],
    ) -> None:
        self._sandboxes = sandboxes
        self._names = names
        self._control = control
        self._door = door
        self._now = now

    def operations(self) -> list[Operation]:
        all_of = "/v1/sandboxes/{name}/contexts"
        one = f"{all_of}/{{id}}"
        return [
            Operation("POST", all_of, self.create, {201: ContextView}),
            Operation("GET", all_of, self.list_all, {200: ContextsPage}),
            Operation("GET", one, self.get, {200: ContextView}),
            Operation("DELETE", one, self.remove, {204: None}),
            Operation("POST", f"{one}/interrupt", self.interrupt, {200: ContextInterrupted}),
            Operation("POST", f"{one}/restart", self.restart, {204: None}),
        ]

    def create(self, owner: str, name: str, body: ContextRequest) -> Response:
        """Create a code context, and start its kernel."""
        language = language_of(body.language)
        context = ContextRecord(
            id=new_id(),
            language=language,
            created_at=self._now(),
            cwd=body.cwd,
            env_vars=body.env_vars,
        )

        def add(sandbox: Sandbox) -> None:
            check_running(self._sandboxes.get(sandbox.id))
            self._sandboxes.add_context(sandbox.id, context)
            try:
                open_context(self._door, self._sandboxes.get(sandbox.id), context)
            except Fault:
                self._sandboxes.drop_context(sandbox.id, context.id)
                raise

        self._names.use(owner, name, add)
        return json_answer(context_view(context), 201)

    def list_all(self, owner: str, name: str) -> Response:
        """The sandbox's code contexts, oldest first."""
        records = self._sandboxes.contexts(self._sandboxes.by_name(owner, name).id)
        oldest_first = sorted(records, key=lambda record: record.created_at)
        return json_answer(ContextsPage(contexts=[context_view(record) for record in oldest_first]))

    def get(self, owner: str, name: str, id: str) -> Response:
        """One code context."""
        sandbox = self._sandboxes.by_name(owner, name)
        return json_answer(context_view(self._sandboxes.context(sandbox.id, id)))

    def interrupt(self, owner: str, name: str, id: str) -> Response:
        """Stop the cell that runs in a context, as Ctrl-C does; the variables stay."""

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> ContextInterrupted:
            path = f"{self._path(sandbox, id)}/interrupt"
            return calls.call("POST", path, kind=ContextInterrupted)

        return json_answer(self._door.use(owner, name, act))

    def restart(self, owner: str, name: str, id: str) -> Response:
        """End a context's kernel, and a cell that runs in it; the next one has a new kernel."""

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> None:
            calls.order("POST", f"{self._path(sandbox, id)}/restart")

        self._door.use(owner, name, act)
        return no_content()

    def _path(self, sandbox: Sandbox, id: str) -> str:
        """To the runtime. Raises `ContextNotFound`."""
        return f"/contexts/{quote(self._sandboxes.context(sandbox.id, id).id, safe='')}"

    def remove(self, owner: str, name: str, id: str) -> Response:
        """End a code context's kernel and forget the context."""
        sandbox = self._sandboxes.by_name(owner, name)
        self._sandboxes.drop_context(sandbox.id, id)
        if sandbox.node is not None:
            self._control.send(sandbox.node, EndContext(sandbox.id, id))
        return no_content()
