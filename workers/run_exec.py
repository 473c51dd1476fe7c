"""Runs an exec job: one command in a session, or one program."""

from __future__ import annotations

from sandbox_runtime.protocol.requests import ExecRequest
from workers.contract.jobs import ExecSpec
from workers.contract.sandboxes import Sandbox, SessionRecord, runtime_session


def exec_request(spec: ExecSpec, sandbox: Sandbox, session: SessionRecord | None) -> ExecRequest:
    """What the runtime is asked; `session` is None for the implicit one."""
    return ExecRequest(
        command=spec.command,
        argv=spec.argv,
        session=runtime_session(sandbox, session),
        cwd=spec.cwd,
        env=spec.env,
        stdin=spec.stdin,
        timeout_ms=spec.timeout_ms,
        output_limit_bytes=spec.output_limit_bytes,
        encoding=spec.encoding,
    )
