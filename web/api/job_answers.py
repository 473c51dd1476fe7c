"""Submits a job and answers in the way that the client asked for: wait, stream or at once."""

from __future__ import annotations

import enum
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import msgspec
import structlog
from flask import Response, g, request

from web import sse
from web.admission import Admission
from web.cancellation import Cancellation
from web.errors import InvalidEventId, InvalidField
from web.metrics import Metrics
from web.operations import json_answer
from web.outcomes import Outcome
from web.readers import CLIENT_GONE, Reader, Readers, client_left
from web.requests import wants_events
from web.schemas import EventsQuery, job_view
from workers.contract.errors import EventsExpired, Fault, JobNotFound
from workers.contract.events import BEFORE_ALL, EventId, PublishedEvent, decode_event
from workers.contract.jobs import Job
from workers.contract.owners import Limits
from workers.contract.queue import PLACEMENT_QUEUE
from workers.contract.store import JobStore, Submitted
from workers.contract.stream import channel_of

WAIT_MARGIN_S = 60.0
"""What a job may wait in its line, over its own timeout, before a waiting POST says 202."""

GONE_LOOK_S = 1.0
"""So often the client is looked after, where its job ends with it."""

_KEY = re.compile(r"[\x20-\x7e]{1,200}")

log = structlog.get_logger(__name__)


class Manner(enum.Enum):
    """How a job-making request is answered."""

    WAIT = enum.auto()
    STREAM = enum.auto()
    AT_ONCE = enum.auto()


class Order(NamedTuple):
    """A job that a request asks for, with what concerns the request alone."""

    job: Job
    outcome: Callable[[str], Outcome] | None
    """Makes, for a job's id, what its events are folded into; None: the record is the answer."""
    digest: str
    """Of all that was asked, for `Idempotency-Key`."""
    archive: bytes | None = None
    queue: str = PLACEMENT_QUEUE
    """A build's."""
    cancel_on_disconnect: bool = False


class JobAnswers:
    """Shared by all routes that make jobs."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        readers: Readers,
        admission: Admission,
        cancellation: Cancellation,
        metrics: Metrics,
        limits: Callable[[], Limits],
        heartbeat_s: float,
        wait_limit_s: float | None,
    ) -> None:
        self._jobs = jobs
        self._readers = readers
        self._admission = admission
        self._cancellation = cancellation
        self._metrics = metrics
        self._limits = limits
        self._heartbeat_s = heartbeat_s
        self._wait_limit_s = wait_limit_s

    def answer(self, order: Order) -> Response:
        """Raises whatever keeps the job from being accepted; after that it goes on by itself."""
        manner, key = _manner(), idempotency_key()
        self._admission.check()
        if manner is Manner.AT_ONCE:
            submitted = self._submit(order, key)
            return self._accepted(order, submitted, {"Preference-Applied": "respond-async"})
        # Before the job is there: Redis confirms the subscription while the job is on its way.
        reader = self._readers.open_job(order.job.id)
        try:
            submitted = self._submit(order, key)
            if submitted.repeated:
                reader.turn_to(channel_of(submitted.job_id))
            if manner is Manner.STREAM:
                return self.stream(
                    submitted.job_id, reader, cancel_with_reader=order.cancel_on_disconnect
                )
            response = self._wait(order, submitted, reader)
        except BaseException:
            reader.close()
            raise
        # Not before the client has its answer.
        response.call_on_close(reader.close)
        return response

    def stream(
        self,
        job_id: str,
        reader: Reader,
        *,
        after: EventId = BEFORE_ALL,
        cancel_with_reader: bool = False,
        location: str = "",
    ) -> Response:
        """The events of a job, or of the sandbox at `location`, as they come.

        The reader is closed with the response.
        """
        run = _StreamRun(
            job_id,
            reader,
            request_id=g.request_id,
            left=partial(client_left, request.environ),
        )
        tick_s = min(self._heartbeat_s, GONE_LOOK_S) if cancel_with_reader else self._heartbeat_s
        response = Response(
            sse.frames(run.events(after, tick_s), heartbeat_s=self._heartbeat_s),
            headers={**sse.HEADERS, "Location": location or f"/v1/jobs/{job_id}"},
        )
        response.call_on_close(reader.close)
        if cancel_with_reader:
            response.call_on_close(lambda: None if run.is_over else self._cancel(job_id))
        return response

    def _submit(self, order: Order, key: str | None) -> Submitted:
        job = order.job
        submitted: Submitted | None = None
        try:
            submitted = self._jobs.submit(
                job,
                idempotency_key=key,
                digest=order.digest,
                archive=order.archive,
                limits=self._limits(),
                queue=order.queue,
            )
        finally:
            if order.archive is not None and (submitted is None or submitted.repeated):
                self._drop_archive(job.id)
        if not submitted.repeated:
            self._metrics.job_submitted(job.kind)
        return submitted

    def _wait(self, order: Order, submitted: Submitted, reader: Reader) -> Response:
        limit_s = self._wait_limit_s or order.job.spec.timeout_ms / 1000 + WAIT_MARGIN_S
        tick_s = min(self._heartbeat_s, limit_s)
        if order.cancel_on_disconnect:
            tick_s = min(tick_s, GONE_LOOK_S)
        outcome = order.outcome(submitted.job_id) if order.outcome else None
        deadline = time.monotonic() + limit_s
        try:
            for event in reader.events(
                submitted.job_id, tick_s=tick_s, is_new=not submitted.repeated
            ):
                if event is None and client_left(request.environ):
                    if order.cancel_on_disconnect:
                        self._cancel(submitted.job_id)
                    return Response(status=CLIENT_GONE)
                if event is not None and outcome is not None:
                    outcome.add(decode_event(event.json))
                if time.monotonic() > deadline and not (event and event.is_terminal):
                    return self._accepted(order, submitted)
        except JobNotFound as fault:
            raise _no_longer_kept(submitted.job_id) from fault
        if outcome is not None:
            return json_answer(outcome.result())
        return json_answer(job_view(self._jobs.get(submitted.job_id)))

    def _accepted(
        self, order: Order, submitted: Submitted, headers: dict[str, str] | None = None
    ) -> Response:
        job = order.job
        if submitted.repeated:
            try:
                job = self._jobs.get(submitted.job_id)
            except JobNotFound as fault:
                raise _no_longer_kept(submitted.job_id) from fault
        location = {"Location": f"/v1/jobs/{job.id}"}
        return json_answer(job_view(job), 202, location | (headers or {}))

    def _cancel(self, job_id: str) -> None:
        try:
            self._cancellation.cancel(self._jobs.get(job_id))
        except Fault as fault:
            log.warning("job not cancelled", job_id=job_id, reason=fault.message)
        else:
            log.info("job cancelled with its reader", job_id=job_id)

    def _drop_archive(self, job_id: str) -> None:
        try:
            self._jobs.drop_archive(job_id)
        except Fault as fault:
            # It goes by itself in a day.
            log.warning("archive not dropped", job_id=job_id, reason=fault.message)


class _StreamRun:
    """One response's way through a job's events; it knows whether it came to their end."""

    def __init__(
        self, job_id: str, reader: Reader, *, request_id: str, left: Callable[[], bool]
    ) -> None:
        self._job_id = job_id
        self._reader = reader
        self._request_id = request_id
        self._left = left
        self.is_over = False
        """The response ended by itself, not because its reader left."""

    def events(self, after: EventId, tick_s: float) -> Iterator[PublishedEvent | None]:
        """Ends without a terminal event where the client must come back for it."""
        try:
            for event in self._reader.events(self._job_id, after=after, tick_s=tick_s):
                if event is None and self._left():
                    return
                if event is not None and event.is_terminal:
                    self.is_over = True
                yield event
        except Fault as fault:
            self.is_over = True
            log.warning(
                "stream cut short",
                job_id=self._job_id,
                request_id=self._request_id,
                reason=fault.message,
            )
        except Exception:
            self.is_over = True
            log.exception("stream failed", job_id=self._job_id, request_id=self._request_id)


def digest_of(body: msgspec.Struct, archive: bytes = b"") -> str:
    """The same for the same request to the same path, whatever order its fields come in."""
    canonical = msgspec.json.encode(body, order="deterministic")
    whole = hashlib.sha256(f"{request.method} {request.path}\n".encode())
    whole.update(hashlib.sha256(canonical).digest())
    whole.update(hashlib.sha256(archive).digest())
    return whole.hexdigest()


def last_event_id(query: EventsQuery) -> EventId:
    """Where a reader wants to go on. Raises `InvalidEventId`."""
    text = request.headers.get("Last-Event-ID") or query.last_event_id
    if not text:
        return BEFORE_ALL
    parsed = EventId.parse(text)
    if parsed is None:
        raise InvalidEventId("An event's id looks like 1-42.")
    return parsed


def idempotency_key() -> str | None:
    """The request's; None where it has none. Raises `InvalidField`."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidField("Idempotency-Key", "Must be 1 to 200 printable ASCII characters.")
    return key


def _manner() -> Manner:
    preferences = {part.strip().lower() for part in request.headers.get("Prefer", "").split(",")}
    if "respond-async" in preferences:
        return Manner.AT_ONCE
    if wants_events(request):
        return Manner.STREAM
    return Manner.WAIT


def _no_longer_kept(job_id: str) -> EventsExpired:
    return EventsExpired(f"The job {job_id} that this key stands for is no longer kept.")
