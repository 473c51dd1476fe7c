"""Runs a code job: one cell in a code context."""

from __future__ import annotations

from sandbox_runtime.protocol.requests import CodeRequest
from workers.contract.jobs import CodeSpec
from workers.contract.sandboxes import ContextRecord, Sandbox, runtime_context


def code_request(spec: CodeSpec, sandbox: Sandbox, context: ContextRecord | None) -> CodeRequest:
    """What the runtime is asked; `context` is None where it was deleted since."""
    forgotten = ContextRecord(id=spec.context, language=spec.language, created_at="")
    return CodeRequest(
        code=spec.code,
        context=runtime_context(sandbox, context or forgotten),
        env=spec.env,
        allow_input=spec.allow_input,
        ansi_traceback=spec.ansi_traceback,
        timeout_ms=spec.timeout_ms,
        output_limit_bytes=spec.output_limit_bytes,
    )
