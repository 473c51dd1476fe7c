"""Runs a build: a checkout, then steps in order, in a sandbox of its own that is removed after.

Each step is an execution of its own in the runtime. Its `start` and its end become `step` events of
the job, one for one; the record's steps are written with them, so that a worker that takes over
finds there how far the build is, and attaches to the step that runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import structlog

from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.events import (
    Complete,
    Conclusion,
    Error,
    Progress,
    RuntimeEvent,
    Start,
    Stderr,
    Stdout,
    Truncated,
    conclusion_of,
)
from sandbox_runtime.protocol.requests import CheckoutRequest, ExecRequest, ExecutionRequest
from workers.clock import timestamp
from workers.contract.events import JobEvent, Step
from workers.contract.jobs import BuildSpec, BuildStep, Job, StepRecord, StepStatus
from workers.contract.sandboxes import Network, Sandbox, SandboxSpec
from workers.contract.store import JobStore
from workers.contract.stream import NumberedEvent
from workers.drivers.driver import DriverFault, DriverUnavailable
from workers.held import HeldJob
from workers.lifecycle import Sandboxes
from workers.publisher import ClaimLost, Publisher

SOURCE_DIR = "/workspace/source"
CHECKOUT = "checkout"
ARCHIVE_TIMEOUT_S = 300.0

ENGINE_RETRY_S = 1.0

PLAN = "plan"
"""The execution that the job's own first and last event are counted in."""


log = structlog.get_logger(__name__)


class BuildRunner:
    """Runs builds on this node."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        publisher: Publisher,
        sandboxes: Sandboxes,
        default_network: Network,
    ) -> None:
        self._jobs = jobs
        self._publisher = publisher
        self._sandboxes = sandboxes
        self._default_network = default_network

    def run(self, held: HeldJob, spec: BuildSpec, *, resumed: bool) -> None:
        """From its `start` to its terminal event. Raises `ClaimLost`."""
        started = time.monotonic()
        build = Build(held, spec)
        start = Start(timestamp=timestamp(), command=_title(spec), attempt=held.job.attempt)
        self._publisher.append(held, PLAN, [NumberedEvent(1, start)], steps=build.steps)
        try:
            end = self._run_in_sandbox(build, resumed=resumed)
        except DriverFault as fault:
            end = _error(fault.code, str(fault), fault.hint)
        except ClaimLost:
            raise  # The sandbox stays, for whoever resumes the build.
        except Exception:
            self._remove_sandbox(held.job)
            raise
        build.skip_what_is_left()
        if isinstance(end, Complete):
            duration_ms = int((time.monotonic() - started) * 1000)
            end = msgspec.structs.replace(end, duration_ms=duration_ms, commit=build.commit)
        # The sandbox goes first: who has read the build's end finds nothing of it left.
        self._remove_sandbox(held.job)
        self._publisher.append(held, PLAN, [NumberedEvent(2, end)], steps=build.steps)
        self._jobs.drop_archive(held.job.id)

    def _run_in_sandbox(self, build: Build, *, resumed: bool) -> Complete | Error:
        sandbox = self._own_sandbox(build, resumed=resumed)
        end = build.end_of(CHECKOUT) or self._get_source(build, sandbox, resumed=resumed)
        for index, step in enumerate(build.spec.steps, start=1):
            if not _succeeded(end):
                return end
            if earlier := build.end_of(step.name):
                end = earlier
                continue
            if cancelled := build.held.cancelled:
                return _error(cancelled.value, "The build was cancelled.")
            request = _step_request(build, step)
            end = self._run_execution(
                build, sandbox, f"step-{index}", step.name, request, resumed=resumed
            )
        return end

    def _own_sandbox(self, build: Build, *, resumed: bool) -> Sandbox:
        """Raises `DriverFault`."""
        job, asked = build.held.job, build.spec.sandbox
        # It has the build's own id, so it is found however far the making came.
        if resumed and (found := self._sandboxes.find(job.id)):
            self._jobs.set_sandbox(job.id, found.id)
            return found
        sandbox = Sandbox(
            id=job.id,
            name=f"build-{job.id}",
            owner=job.owner,
            created_at=timestamp(),
            spec=SandboxSpec(
                image=asked.image,
                network=Network(asked.network) if asked.network else self._default_network,
                cpus=asked.cpus,
                memory_mb=asked.memory_mb,
                pids=asked.pids,
                disk_mb=asked.disk_mb,
                labels={"coldframe/build": job.id},
            ),
        )
        made = self._make_patiently(build, sandbox)
        self._jobs.set_sandbox(job.id, sandbox.id)
        return made

    def _make_patiently(self, build: Build, sandbox: Sandbox) -> Sandbox:
        """An engine that is away does not cost an accepted build more than time."""
        while True:
            try:
                return self._sandboxes.make_for_build(sandbox)
            except DriverUnavailable as fault:
                if build.time_left_ms() <= 1 or build.held.cancelled:
                    raise
                log.warning("build waits for the engine", job_id=sandbox.id, reason=str(fault))
            if build.held.let_go:
                raise ClaimLost
            time.sleep(ENGINE_RETRY_S)

    def _remove_sandbox(self, job: Job) -> None:
        sandbox = self._sandboxes.find(job.id)
        if sandbox is not None:
            self._sandboxes.remove(sandbox)

    def _get_source(self, build: Build, sandbox: Sandbox, *, resumed: bool) -> Complete | Error:
        if build.spec.repo_url is not None:
            request = CheckoutRequest(
                repo_url=build.spec.repo_url,
                target_dir=SOURCE_DIR,
                ref=build.spec.ref,
                depth=build.spec.depth,
                timeout_ms=build.time_left_ms(),
                output_limit_bytes=build.spec.output_limit_bytes,
            )
            return self._run_execution(build, sandbox, CHECKOUT, CHECKOUT, request, resumed=resumed)
        return self._unpack_archive(build, sandbox)

    def _unpack_archive(self, build: Build, sandbox: Sandbox) -> Complete | Error:
        """Unpacking twice does no harm, so a resumed build does it again where it is not noted."""
        started = time.monotonic()
        running = Step(timestamp=timestamp(), name=CHECKOUT, status=StepStatus.RUNNING)
        build.note(CHECKOUT, StepRecord(name=CHECKOUT, status=StepStatus.RUNNING))
        self._publisher.append(build.held, CHECKOUT, [NumberedEvent(1, running)], steps=build.steps)
        archive = self._jobs.archive(build.held.job.id)
        end: Complete | Error
        if archive is None:
            end = _error("archive_expired", "The uploaded archive is no longer kept.")
        else:
            try:
                place = self._sandboxes.place(sandbox.id)
                place.client.unpack_archive([archive], SOURCE_DIR, ARCHIVE_TIMEOUT_S)
                duration_ms = int((time.monotonic() - started) * 1000)
                end = Complete(
                    timestamp=timestamp(),
                    conclusion=Conclusion.SUCCESS,
                    duration_ms=duration_ms,
                )
            except RuntimeFault as fault:
                end = _error(fault.code, fault.message, fault.hint)
        build.note(CHECKOUT, _ended(CHECKOUT, end))
        self._publisher.append(
            build.held, CHECKOUT, [NumberedEvent(2, _step_end(CHECKOUT, end))], steps=build.steps
        )
        return end

    def _run_execution(
        self,
        build: Build,
        sandbox: Sandbox,
        execution: str,
        step: str,
        request: ExecutionRequest,
        *,
        resumed: bool,
    ) -> Complete | Error:
        def steps_at(event: RuntimeEvent) -> Sequence[StepRecord] | None:
            if isinstance(event, Start):
                build.note(step, StepRecord(name=step, status=StepStatus.RUNNING))
            elif isinstance(event, Complete | Error):
                build.note(step, _ended(step, event))
            else:
                return None
            return build.steps

        end = self._publisher.publish(
            build.held,
            self._sandboxes.place(sandbox.id),
            f"{build.held.job.id}.{build.held.job.attempt}.{execution}",
            request,
            translate=translation(step),
            steps_at=steps_at,
            resumed=resumed,
        )
        build.note(step, _ended(step, end))
        return end


class Build:
    """What is known of a running build."""

    def __init__(self, held: HeldJob, spec: BuildSpec) -> None:
        self.held = held
        self.spec = spec
        self.steps = held.job.steps or _steps_at_first(spec)

    @property
    def commit(self) -> str | None:
        return self.steps[0].commit

    def end_of(self, name: str) -> Complete | Error | None:
        """How a step ended that another worker ran; None where it has not."""
        step = next(step for step in self.steps if step.name == name)
        if step.status is not StepStatus.COMPLETED or step.conclusion is None:
            return None
        if step.conclusion in (Conclusion.SUCCESS, Conclusion.FAILURE):
            return Complete(
                timestamp=timestamp(),
                conclusion=step.conclusion,
                duration_ms=step.duration_ms or 0,
                exit_code=step.exit_code,
            )
        return _error(step.conclusion.value, f"The step {name} ended with {step.conclusion}.")

    def note(self, name: str, record: StepRecord) -> None:
        self.steps = [record if step.name == name else step for step in self.steps]

    def skip_what_is_left(self) -> None:
        self.steps = [
            msgspec.structs.replace(step, status=StepStatus.SKIPPED)
            if step.status is StepStatus.QUEUED
            else step
            for step in self.steps
        ]

    def time_left_ms(self) -> int:
        """Of the build's own timeout, which runs from its first claim."""
        started_at = datetime.fromisoformat(self.held.job.started_at or timestamp())
        spent_ms = (datetime.now(started_at.tzinfo) - started_at).total_seconds() * 1000
        return max(1, self.spec.timeout_ms - int(spent_ms))


def _steps_at_first(spec: BuildSpec) -> list[StepRecord]:
    return [StepRecord(name=CHECKOUT), *(StepRecord(name=step.name) for step in spec.steps)]


def _step_request(build: Build, step: BuildStep) -> ExecRequest:
    variables: dict[str, str | None] = {
        "CI": "true",
        "COLDFRAME_BUILD_ID": build.held.job.id,
        "COLDFRAME_STEP": step.name,
    }
    if build.commit:
        variables["COLDFRAME_COMMIT"] = build.commit
    return ExecRequest(
        # The first command that fails ends the step, as in every build runner.
        argv=["/bin/bash", "-e", "-c", "\n".join(step.commands)],
        cwd=SOURCE_DIR,
        env={**variables, **build.spec.env, **step.env},
        timeout_ms=build.time_left_ms(),
        output_limit_bytes=build.spec.output_limit_bytes,
    )


def translation(step: str) -> Callable[[RuntimeEvent], JobEvent]:
    def translate(event: RuntimeEvent) -> JobEvent:
        match event:
            case Start():
                return Step(timestamp=event.timestamp, name=step, status=StepStatus.RUNNING)
            case Complete() | Error():
                return _step_end(step, event)
            case Stdout() | Stderr() | Progress() | Truncated():
                return msgspec.structs.replace(event, step=step)
            case _:
                return event

    return translate


def _step_end(step: str, end: Complete | Error) -> Step:
    completed = end if isinstance(end, Complete) else None
    return Step(
        timestamp=end.timestamp,
        name=step,
        status=StepStatus.COMPLETED,
        conclusion=conclusion_of(end),
        exit_code=completed.exit_code if completed else None,
        duration_ms=completed.duration_ms if completed else None,
        commit=completed.commit if completed else None,
    )


def _ended(step: str, end: Complete | Error) -> StepRecord:
    event = _step_end(step, end)
    return StepRecord(
        name=step,
        status=StepStatus.COMPLETED,
        conclusion=event.conclusion,
        exit_code=event.exit_code,
        duration_ms=event.duration_ms,
        commit=event.commit,
    )


def _succeeded(end: Complete | Error) -> bool:
    return conclusion_of(end) is Conclusion.SUCCESS


def _title(spec: BuildSpec) -> str:
    return f"build of {spec.repo_url.split('@')[-1]}" if spec.repo_url else "build of an archive"


def _error(code: str, message: str, hint: str = "") -> Error:
    return Error(timestamp=timestamp(), code=code, error=message, hint=hint)
