"""Runs one job from its claim to its terminal event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import msgspec
import structlog

from sandbox_runtime.protocol.events import Error, RuntimeEvent, Start
from sandbox_runtime.protocol.requests import CancelReason, ExecutionRequest
from workers.contract.clock import timestamp
from workers.contract.jobs import BuildSpec, CodeSpec, ExecSpec, Job
from workers.contract.sandboxes import ContextRecord, SessionRecord
from workers.contract.store import Claim, JobStore
from workers.contract.stream import NumberedEvent
from workers.held import HeldJob, HeldJobs
from workers.lifecycle import Sandboxes, UnknownSandbox
from workers.publisher import SANDBOX_LOST, ClaimLost, Publisher
from workers.run_build import BuildRunner
from workers.run_code import code_request
from workers.run_exec import exec_request

ADOPTION_LOOK_S = 0.5

RUNNER = "runner"
"""The execution that a terminal event of the runner's own is counted in."""

log = structlog.get_logger(__name__)


class Runner:
    """Safe to share between the threads of a worker."""

    def __init__(
        self,
        *,
        node_id: str,
        lease_s: float,
        jobs: JobStore,
        held: HeldJobs,
        sandboxes: Sandboxes,
        publisher: Publisher,
        builds: BuildRunner,
    ) -> None:
        self._node_id = node_id
        self._lease_ms = int(lease_s * 1000)
        self._jobs = jobs
        self._held = held
        self._sandboxes = sandboxes
        self._publisher = publisher
        self._builds = builds

    def run(self, job_id: str) -> bool:
        """False where there was nothing to do here: a nudge that came twice, or too late.

        Raises `StoreUnavailable` before the claim; the leader sends the job again.
        """
        ran = False
        with closing(self._held.turns(job_id)) as turns:
            for _ in turns:
                ran = self._claim_and_run(job_id) or ran
        return ran

    def _claim_and_run(self, job_id: str) -> bool:
        claim = self._jobs.claim(
            job_id, node=self._node_id, now=timestamp(), lease_ms=self._lease_ms
        )
        if claim is None:
            return False
        with self._held.holding(claim.job) as held:
            return self._run_held(held, claim)

    def _run_held(self, held: HeldJob, claim: Claim) -> bool:
        try:
            if claim.job.cancel:
                held.cancel(_reason(claim.job.cancel))
                if not claim.resumed:
                    self._end(held, held.cancelled or CancelReason.CANCELLED, "It was cancelled.")
                    return True
            self._run_kind(held, claim)
        except ClaimLost:
            log.info("claim lost", job_id=claim.job.id)
            return False
        except Exception as error:
            log.exception("job failed inside the worker", job_id=claim.job.id)
            self._end(held, "internal_error", f"The worker failed: {type(error).__name__}.")
        return True

    def _run_kind(self, held: HeldJob, claim: Claim) -> None:
        # A worker that starts while the engine is away does not know its sandboxes yet.
        while not self._sandboxes.adopted.wait(ADOPTION_LOOK_S):
            if held.let_go:
                raise ClaimLost
        match claim.job.spec:
            case BuildSpec() as spec:
                self._builds.run(held, spec, resumed=claim.resumed)
            case ExecSpec() as spec:
                assert claim.sandbox is not None
                session = claim.seat if isinstance(claim.seat, SessionRecord) else None
                self._run_one(held, claim, exec_request(spec, claim.sandbox, session))
            case CodeSpec() as spec:
                assert claim.sandbox is not None
                context = claim.seat if isinstance(claim.seat, ContextRecord) else None
                self._run_one(held, claim, code_request(spec, claim.sandbox, context))

    def _run_one(self, held: HeldJob, claim: Claim, request: ExecutionRequest) -> None:
        job = claim.job
        assert claim.sandbox is not None
        sandbox = claim.sandbox
        try:
            place = self._publisher.patiently(held, lambda: self._sandboxes.place_for(sandbox))
        except UnknownSandbox:
            self._end(held, "sandbox_lost", f"The sandbox {job.sandbox} is not on this node.")
            return
        end = self._publisher.publish(
            held,
            place,
            f"{job.id}.{job.attempt}",
            request,
            translate=_with_attempt(job),
            resumed=claim.resumed,
        )
        if end.oom_killed:
            self._sandboxes.tell_out_of_memory(claim.sandbox)
        if isinstance(end, Error) and end.code == SANDBOX_LOST:
            # Whatever its runtime does: who asks for the sandbox next is to get one that works.
            self._publisher.patiently(held, lambda: self._sandboxes.give_up(sandbox.id, place))
        if isinstance(end, Error):
            # Of ours, where the runtime could not be asked; what it told itself is in the stream.
            self._end(held, end.code, end.error, end.hint)

    def _end(self, held: HeldJob, code: str, message: str, hint: str = "") -> None:
        """Adds a terminal event of the runner's own, unless the job has one."""
        error = Error(timestamp=timestamp(), code=code, error=message, hint=hint)
        try:
            self._publisher.append(held, RUNNER, [NumberedEvent(1, error)])
        except ClaimLost:
            pass  # It had ended.


def _with_attempt(job: Job) -> Callable[[RuntimeEvent], RuntimeEvent]:
    def translate(event: RuntimeEvent) -> RuntimeEvent:
        if isinstance(event, Start):
            return msgspec.structs.replace(event, attempt=job.attempt)
        return event

    return translate


def _reason(text: str) -> CancelReason:
    try:
        return CancelReason(text)
    except ValueError:
        return CancelReason.CANCELLED
