"""The route of cells."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from flask import Response

from web.api.contexts import open_context
from web.api.job_answers import JobAnswers, Order, digest_of
from web.door import Door
from web.names import SandboxNames
from web.operations import Operation
from web.outcomes import CodeOutcome
from web.schemas import CodeRequest, CodeResult, JobView, language_of
from workers.contract.errors import ContextLanguageDiffers, ContextNotFound
from workers.contract.jobs import Job, JobKind, line_of, new_id
from workers.contract.sandboxes import (
    DEFAULT_CONTEXT_PREFIX,
    LANGUAGES,
    ContextRecord,
    Sandbox,
)
from workers.contract.store import SandboxStore

DEFAULT_LANGUAGE = "python"


class CodeRoutes:
    """Cells, in a code context; the first one makes the sandbox."""

    def __init__(
        self,
        *,
        sandboxes: SandboxStore,
        names: SandboxNames,
        answers: JobAnswers,
        door: Door,
        now: Callable[[], str],
    ) -> None:
        self._sandboxes = sandboxes
        self._names = names
        self._answers = answers
        self._door = door
        self._now = now

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST",
                "/v1/sandboxes/{name}/code",
                self.run,
                {200: CodeResult, 202: JobView},
                makes_job=True,
                streams=True,
            )
        ]

    def run(self, owner: str, name: str, body: CodeRequest) -> Response:
        """Run a cell in a code context, or in the sandbox's own context of the language."""
        language = body.asked_language()
        return self._names.use(owner, name, lambda sandbox: self._run_in(sandbox, body, language))

    def _run_in(self, sandbox: Sandbox, body: CodeRequest, language: str | None) -> Response:
        context = self._context(sandbox, body, language)
        spec = body.to_spec(context)
        job = Job(
            id=new_id(),
            kind=JobKind.CODE,
            owner=sandbox.owner,
            spec=spec,
            created_at=self._now(),
            sandbox_id=sandbox.id,
            sandbox=sandbox.name,
            line=line_of(sandbox.id, spec),
        )
        return self._answers.answer(Order(job, outcome=CodeOutcome, digest=digest_of(body)))

    def _context(self, sandbox: Sandbox, body: CodeRequest, language: str | None) -> ContextRecord:
        if body.context is msgspec.UNSET:
            return self._default_context(sandbox, language or language_of(DEFAULT_LANGUAGE))
        context = self._sandboxes.context(sandbox.id, body.context)
        if language is not None and language != context.language:
            raise ContextLanguageDiffers(f"The context {context.id} speaks {context.language}.")
        return context

    def _default_context(self, sandbox: Sandbox, language: str) -> ContextRecord:
        context_id = f"{DEFAULT_CONTEXT_PREFIX}{language}"
        try:
            return self._sandboxes.context(sandbox.id, context_id)
        except ContextNotFound:
            context = ContextRecord(id=context_id, language=language, created_at=self._now())
            if language not in LANGUAGES.values():
                # Whether there is such a language, the sandbox knows.
                open_context(self._door, self._sandboxes.get(sandbox.id), context)
            self._sandboxes.add_context(sandbox.id, context)
            return context
