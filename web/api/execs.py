"""The route of commands."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response

from web.api.job_answers import JobAnswers, Order, digest_of
from web.names import SandboxNames
from web.operations import Operation
from web.outcomes import ExecOutcome
from web.schemas import ExecRequest, ExecResult, JobView
from workers.contract.errors import SandboxNotRunning, SessionNotFound
from workers.contract.jobs import ExecSpec, Job, JobKind, line_of, new_id
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore


class ExecRoutes:
    """Commands and programs, in a sandbox that is there."""

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
        remembered = self._names.remembered(owner, name)
        if remembered is not None:
            try:
                return self._run_in(remembered, body, spec)
            except (SandboxNotRunning, SessionNotFound):
                pass  # Perhaps another sandbox has the name now.
        return self._run_in(self._names.find(owner, name), body, spec)

    def _run_in(self, sandbox: Sandbox, body: ExecRequest, spec: ExecSpec) -> Response:
        if spec.argv is None:
            self._sandboxes.check_session(sandbox.id, spec.session)
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
