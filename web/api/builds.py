"""The routes of builds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from flask import Response, request

from web.api.job_answers import JobAnswers, Order, digest_of
from web.api.jobs import JobList
from web.errors import BodyTooLarge, InvalidField
from web.operations import Operation, json_answer
from web.placement import Placement
from web.requests import FORM_TYPE, read_body, read_form
from web.schemas import (
    CHECKOUT,
    BuildRequest,
    BuildsQuery,
    JobsPage,
    JobsQuery,
    JobView,
    job_view,
)
from workers.contract.errors import JobNotFound
from workers.contract.jobs import Job, JobKind, StepRecord, new_id
from workers.contract.queue import placement_queue

BUILD_PART = "build"
ARCHIVE_PART = "archive"


class BuildRoutes:
    """Builds, each in a sandbox of its own."""

    def __init__(
        self,
        *,
        jobs: JobList,
        answers: JobAnswers,
        placement: Placement,
        now: Callable[[], str],
        max_body_bytes: int,
        max_archive_bytes: int,
    ) -> None:
        self._jobs = jobs
        self._answers = answers
        self._placement = placement
        self._now = now
        self._max_archive_bytes = max_archive_bytes
        # Base64 takes four bytes for three.
        self._max_body_bytes = max_body_bytes + max_archive_bytes * 4 // 3 + 4

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST",
                "/v1/builds",
                self.create,
                {200: JobView, 202: JobView},
                makes_job=True,
                streams=True,
                form_part=BUILD_PART,
                form_type=BuildRequest,
                body_limit_bytes=self._max_body_bytes,
            ),
            Operation("GET", "/v1/builds", self.list_all, {200: JobsPage}),
            Operation("GET", "/v1/builds/{id}", self.get, {200: JobView}),
        ]

    def create(self, owner: str) -> Response:
        """Build a repository, or an archive that comes with the request."""
        body = self._read()
        spec = body.to_spec()
        archive = None if body.archive is msgspec.UNSET else body.archive
        if archive is not None and len(archive) > self._max_archive_bytes:
            raise BodyTooLarge(self._max_archive_bytes)
        network = self._placement.check_nodes(spec.sandbox.image, spec.sandbox.network)
        job = Job(
            id=new_id(),
            kind=JobKind.BUILD,
            owner=owner,
            spec=spec,
            created_at=self._now(),
            steps=[
                StepRecord(name=CHECKOUT),
                *(StepRecord(name=step.name) for step in spec.steps),
            ],
        )
        digest = digest_of(msgspec.structs.replace(body, archive=msgspec.UNSET), archive or b"")
        queue = placement_queue(network)
        return self._answers.answer(
            Order(job, outcome=None, digest=digest, archive=archive, queue=queue)
        )

    def list_all(self, owner: str, query: BuildsQuery) -> Response:
        """The owner's builds, newest first."""
        wanted = JobsQuery(
            cursor=query.cursor, limit=query.limit, kind=JobKind.BUILD, status=query.status
        )
        return json_answer(self._jobs.page(owner, wanted))

    def get(self, owner: str, id: str) -> Response:
        """One build, with its steps."""
        job = self._jobs.get(owner, id)
        if job.kind is not JobKind.BUILD:
            raise JobNotFound(f"No job {id}.")
        return json_answer(job_view(job))

    def _read(self) -> BuildRequest:
        if request.mimetype != FORM_TYPE:
            return read_body(request, BuildRequest)
        body, files = read_form(request, BUILD_PART, BuildRequest)
        if ARCHIVE_PART in files and body.archive is msgspec.UNSET:
            body = msgspec.structs.replace(body, archive=files.pop(ARCHIVE_PART))
        if files:
            name = next(iter(files))
            raise InvalidField(name, f"The part `{name}` is unknown, or there twice.")
        return body
