"""Runs an exec job: one command in a session, or one program."""

from __future__ import annotations

from sandbox_runtime.protocol.requests import ExecRequest, Session
from workers.contract.jobs import ExecSpec
from workers.contract.sandboxes import Sandbox, SessionRecord


def exec_request(spec: ExecSpec, sandbox: Sandbox, session: SessionRecord | None) -> ExecRequest:
    """What the runtime is asked; `session` is None for the implicit one."""
    shell = Session(name=spec.session, env=sandbox.user_env)
    if session is not None:
        shell = Session(
            name=session.name,
            cwd=session.cwd,
            env={**sandbox.user_env, **session.env},
            user=session.user,
        )
    return ExecRequest(
        command=spec.command,
        argv=spec.argv,
        session=shell,
        cwd=spec.cwd,
        env=spec.env,
        stdin=spec.stdin,
        timeout_ms=spec.timeout_ms,
        output_limit_bytes=spec.output_limit_bytes,
        encoding=spec.encoding,
    )
