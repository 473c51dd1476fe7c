"""The routes of jobs: their records, their events, their early end."""

from __future__ import annotations

import re

import msgspec
from flask import Response

from sandbox_runtime.protocol.calls import RuntimeCalls
from sandbox_runtime.protocol.codec import encode
from sandbox_runtime.protocol.errors import InputNotWanted
from sandbox_runtime.protocol.requests import InputReply
from web.api.job_answers import JobAnswers, last_event_id
from web.cancellation import Cancellation
from web.door import Door
from web.errors import InvalidEventId, InvalidField, RuntimeRefused
from web.operations import Operation, json_answer, no_content
from web.readers import Readers
from web.schemas import (
    EventsQuery,
    InputRequest,
    JobCancelled,
    JobsPage,
    JobsQuery,
    JobView,
    job_view,
)
from workers.contract.errors import EventsExpired, JobNotFound
from workers.contract.jobs import Job, Status
from workers.contract.sandboxes import Sandbox
from workers.contract.store import JobStore, SandboxStore
from workers.contract.stream import EventStream

SCAN_PAGE = 100
SCAN_LIMIT = 1000
"""Jobs that one request looks at; a filter that lets few pass gets its next cursor instead."""

_JOB_ID = re.compile(r"[a-z2-7]{26}")
_CURSOR = re.compile(r"(\d{1,15})-([a-z2-7]{26})")


class JobList:
    """An owner's jobs: others' are as if they were not there."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    def get(self, owner: str, job_id: str) -> Job:
        """Raises `JobNotFound`, with the same words whether it is missing or another's."""
        job = self._jobs.get(job_id) if _JOB_ID.fullmatch(job_id) else None
        if job is None or job.owner != owner:
            raise JobNotFound(f"No job {job_id[:26]}.")
        return job

    def page(self, owner: str, query: JobsQuery) -> JobsPage:
        """Newest first. The cursor is the place of the last job that was looked at."""
        found: list[JobView] = []
        place = _parse_cursor(query.cursor)
        for _ in range(SCAN_LIMIT // SCAN_PAGE):
            # One millisecond may hold several jobs, and a page end between them.
            before_ms = place[0] + 1 if place else None
            batch = self._jobs.list_of(owner, before_ms=before_ms, limit=SCAN_PAGE)
            fresh = [(ms, job) for job, ms in batch if place is None or (ms, job.id) < place]
            for ms, job in fresh:
                place = (ms, job.id)
                if _matches(job, query):
                    found.append(job_view(job))
                    if len(found) == query.limit:
                        return JobsPage(jobs=found, next_cursor=f"{ms}-{job.id}")
            if not fresh:
                return JobsPage(jobs=found)
        return JobsPage(
            jobs=found, next_cursor=f"{place[0]}-{place[1]}" if place else msgspec.UNSET
        )


class JobRoutes:
    """What there is to know of jobs, and their cancellation."""

    def __init__(
        self,
        *,
        jobs: JobList,
        stream: EventStream,
        readers: Readers,
        answers: JobAnswers,
        cancellation: Cancellation,
        sandboxes: SandboxStore,
        door: Door,
    ) -> None:
        self._jobs = jobs
        self._stream = stream
        self._readers = readers
        self._answers = answers
        self._cancellation = cancellation
        self._sandboxes = sandboxes
        self._door = door

    def operations(self) -> list[Operation]:
        one = "/v1/jobs/{id}"
        return [
            Operation("GET", "/v1/jobs", self.list_all, {200: JobsPage}),
            Operation("GET", one, self.get, {200: JobView}),
            Operation("GET", f"{one}/events", self.events, {204: None}, streams=True),
            Operation("POST", f"{one}/cancel", self.cancel, {202: JobCancelled}),
            Operation("POST", f"{one}/input", self.answer, {204: None}),
        ]

    def list_all(self, owner: str, query: JobsQuery) -> Response:
        """The owner's jobs, newest first."""
        return json_answer(self._jobs.page(owner, query))

    def get(self, owner: str, id: str) -> Response:
        """One job."""
        return json_answer(job_view(self._jobs.get(owner, id)))

    def events(self, owner: str, id: str, query: EventsQuery) -> Response:
        """The job's events, from the first or from `Last-Event-ID` on, to the terminal one."""
        job = self._jobs.get(owner, id)
        after = last_event_id(query)
        if job.status is Status.COMPLETED:
            end = self._stream.last(job.id)
            if end is None:
                raise EventsExpired(f"The events of job {job.id} are no longer kept.")
            if after == end.id:
                return no_content()  # The one status that keeps a browser from coming back.
        if after.attempt > job.attempt:
            raise InvalidEventId(f"The job is in attempt {job.attempt}.")
        reader = self._readers.open_job(job.id)
        return self._answers.stream(job.id, reader, after=after)

    def cancel(self, owner: str, id: str) -> Response:
        """End the job early; asking again changes nothing."""
        job = self._jobs.get(owner, id)
        status = self._cancellation.cancel(job)
        return json_answer(JobCancelled(id=job.id, status=status), 202)

    def answer(self, owner: str, id: str, body: InputRequest) -> Response:
        """Give a cell the input that it waits for."""
        job = self._jobs.get(owner, id)
        if job.status is not Status.RUNNING or job.sandbox_id is None:
            raise RuntimeRefused(InputNotWanted(f"the job {job.id} does not run"))
        reply = InputReply(value=body.value, input=body.input or None)

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> None:
            calls.order("POST", f"/executions/{job.id}.{job.attempt}/input", body=encode(reply))

        self._door.use_one(self._sandboxes.get(job.sandbox_id), act)
        return no_content()


def _matches(job: Job, query: JobsQuery) -> bool:
    return (
        query.kind in (None, job.kind)
        and query.status in (None, job.status)
        and query.sandbox in (None, job.sandbox)
    )


def _parse_cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidField("cursor", "Send the `nextCursor` of the page before.")
    return int(match[1]), match[2]
