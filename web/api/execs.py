"""The route of commands."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from flask import Response

from web.api.job_answers import JobAnswers, Order, digest_of
from web.names import SandboxNames
from web.operations import Operation
from web.outcomes import ExecOutcome
from web.schemas import ExecRequest, ExecResult, JobView
from workers.contract.jobs import ExecSpec, Job, JobKind, line_of, new_id
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore


class ExecRoutes:
    """Commands and programs; the first one makes the sandbox."""

    def __init__(
        self,
        *,
        sandboxes: SandboxStore,
        names: SandboxNames,
        answers: JobAnswers,
        now: Callable[[], str],
    ) -> None:
        self._names = names
        self._sandboxes = sandboxes
        self._answers = answers
        self._now = now

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST",
                "/v1/sandboxes/{name}/exec",
                self.run,
                {200: ExecResult, 202: JobView},
                makes_job=True,
                streams=True,
            )
        ]

    def run(self, owner: str, name: str, body: ExecRequest) -> Response:
        """Run a command in a session's shell, or a program without one."""
        spec = body.to_spec()
        return self._names.use(owner, name, lambda sandbox: self._run_in(sandbox, body, spec))

    def _run_in(self, sandbox: Sandbox, body: ExecRequest, spec: ExecSpec) -> Response:
        if spec.argv is None:
            session = self._sandboxes.session(sandbox.id, spec.session)
            if session is not None and session.timeout_ms and body.timeout_ms is msgspec.UNSET:
                spec = msgspec.structs.replace(spec, timeout_ms=session.timeout_ms)
        job = Job(
            id=new_id(),
            kind=JobKind.EXEC,
            owner=sandbox.owner,
            spec=spec,
            created_at=self._now(),
            sandbox_id=sandbox.id,
            sandbox=sandbox.name,
            line=line_of(sandbox.id, spec),
        )
        return self._answers.answer(
            Order(
                job,
                outcome=lambda job_id: ExecOutcome(job_id, spec.encoding),
                digest=digest_of(body),
                cancel_on_disconnect=body.cancel_on_disconnect,
            )
        )
