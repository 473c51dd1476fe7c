"""Runs a code job: one cell in a code context."""

from __future__ import annotations

from sandbox_runtime.protocol.requests import CodeContext, CodeRequest
from workers.contract.jobs import CodeSpec
from workers.contract.sandboxes import ContextRecord, Sandbox


def code_request(spec: CodeSpec, sandbox: Sandbox, context: ContextRecord | None) -> CodeRequest:
    """What the runtime is asked; `context` is None where it was deleted since."""
    started_with = CodeContext(id=spec.context, language=spec.language, env=sandbox.user_env)
    if context is not None:
        started_with = CodeContext(
            id=context.id,
            language=context.language,
            cwd=context.cwd,
            env={**sandbox.user_env, **context.env_vars},
        )
    return CodeRequest(
        code=spec.code,
        context=started_with,
        allow_input=spec.allow_input,
        timeout_ms=spec.timeout_ms,
        output_limit_bytes=spec.output_limit_bytes,
    )
