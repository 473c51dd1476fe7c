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

from sandbox_runtime.protocol.errors import RuntimeFault, RuntimeUnreachable
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
from workers.contract.clock import later, timestamp
from workers.contract.events import JobEvent, Step
from workers.contract.jobs import BuildSpec, BuildStep, StepRecord, StepStatus
from workers.contract.networks import Network
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.contract.store import JobStore
from workers.contract.stream import NumberedEvent
from workers.drivers.driver import DriverFault, DriverUnavailable
from workers.held import HeldJob
from workers.lifecycle import Sandboxes, UnknownSandbox
from workers.publisher import RUNTIME_PATIENCE_S, ClaimLost, Publisher

SOURCE_DIR = "/workspace/source"
CHECKOUT = "checkout"
ARCHIVE_TIMEOUT_S = 300.0

SANDBOX_MARGIN_MS = 60 * 60 * 1000
"""After a build's own time, when nobody resumes it any more, its sandbox is removed."""

RETRY_S = 1.0

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
        except UnknownSandbox:
            end = _sandbox_lost()
        except ClaimLost:
            raise  # The sandbox stays, for whoever resumes the build.
        except Exception:
            self._remove_sandbox(held)
            raise
        build.skip_what_is_left()
        if isinstance(end, Complete):
            duration_ms = int((time.monotonic() - started) * 1000)
            end = msgspec.structs.replace(end, duration_ms=duration_ms, commit=build.commit)
        # The sandbox goes first: who has read the build's end finds nothing of it left.
        self._remove_sandbox(held)
        self._publisher.append(held, PLAN, [NumberedEvent(2, end)], steps=build.steps)
        self._publisher.patiently(held, lambda: self._jobs.drop_archive(held.job.id))

    def _run_in_sandbox(self, build: Build, *, resumed: bool) -> Complete | Error:
        if (
            resumed
            and build.has_begun
            and self._sandboxes.find(build.held.job.build_sandbox) is None
        ):
            # In another one the steps would find nothing of what those before them have left.
            return build.end() or _sandbox_lost()
        sandbox = self._own_sandbox(build)
        untold = self._untold(build, sandbox) if resumed else set()
        end = self._get_source(build, sandbox, untold, resumed=resumed)
        for index, step in enumerate(build.spec.steps, start=1):
            if not _succeeded(end):
                return end
            execution = build.execution(f"step-{index}")
            if (earlier := build.end_of(step.name)) and execution not in untold:
                end = earlier
                continue
            if cancelled := build.held.cancelled:
                return _error(cancelled.value, "The build was cancelled.")
            request = _step_request(build, step)
            end = self._run_execution(
                build, sandbox, execution, step.name, request, resumed=resumed
            )
        return end

    def _own_sandbox(self, build: Build) -> Sandbox:
        """Raises `DriverFault`."""
        job, asked = build.held.job, build.spec.sandbox
        sandbox = Sandbox(
            id=job.build_sandbox,
            name=f"build-{job.build_sandbox}",
            owner=job.owner,
            created_at=timestamp(),
            expires_at=later(timestamp(), build.spec.timeout_ms + SANDBOX_MARGIN_MS),
            spec=SandboxSpec(
                image=asked.image,
                network=asked.network or self._sandboxes.default_network(self._default_network),
                cpus=asked.cpus,
                memory_mb=asked.memory_mb,
                pids=asked.pids,
                disk_mb=asked.disk_mb,
                labels={"coldframe/build": job.id},
            ),
        )
        # Its id follows from the build, so it is found however far an earlier making came.
        made = self._make_patiently(build, sandbox)
        self._publisher.patiently(build.held, lambda: self._jobs.set_sandbox(job.id, sandbox.id))
        return made

    def _make_patiently(self, build: Build, sandbox: Sandbox) -> Sandbox:
        """An engine that is away does not cost an accepted build more than time."""
        while True:
            try:
                return self._publisher.patiently(
                    build.held, lambda: self._sandboxes.make_for_build(sandbox)
                )
            except DriverUnavailable as fault:
                if build.time_left_ms() <= 1 or build.held.cancelled:
                    raise
                log.warning(
                    "build waits for the engine", job_id=build.held.job.id, reason=str(fault)
                )
            if build.held.let_go:
                raise ClaimLost
            time.sleep(RETRY_S)

    def _remove_sandbox(self, held: HeldJob) -> None:
        sandbox = self._sandboxes.find(held.job.build_sandbox)
        if sandbox is not None:
            self._publisher.patiently(held, lambda: self._sandboxes.remove(sandbox))

    def _untold(self, build: Build, sandbox: Sandbox) -> set[str]:
        """Executions that Redis has told less of than happened, ended ones among them.

        The record may call a step completed whose last events Redis has forgotten: it was written
        again with the step that followed.
        """
        job_id = build.held.job.id
        try:
            there = self._sandboxes.place(sandbox.id).client.executions()
        except RuntimeFault:
            return set()
        asked = [(job_id, execution.id) for execution in there]
        kept = self._publisher.patiently(build.held, lambda: self._jobs.last_ns(asked))
        return {one.id for one, n in zip(there, kept, strict=True) if n < one.last_n}

    def _get_source(
        self, build: Build, sandbox: Sandbox, untold: set[str], *, resumed: bool
    ) -> Complete | Error:
        earlier = build.end_of(CHECKOUT)
        if build.spec.repo_url is None:
            return self._unpack_archive(build, sandbox, earlier)
        execution = build.execution(CHECKOUT)
        if earlier and execution not in untold:
            return earlier
        request = CheckoutRequest(
            repo_url=build.spec.repo_url,
            target_dir=SOURCE_DIR,
            ref=build.spec.ref,
            depth=build.spec.depth,
            timeout_ms=build.time_left_ms(),
            output_limit_bytes=build.spec.output_limit_bytes,
        )
        return self._run_execution(build, sandbox, execution, CHECKOUT, request, resumed=resumed)

    def _unpack_archive(
        self, build: Build, sandbox: Sandbox, earlier: Complete | Error | None
    ) -> Complete | Error:
        """Unpacking twice does no harm, so a resumed build does it again where it is not noted."""
        running = Step(timestamp=timestamp(), name=CHECKOUT, status=StepStatus.RUNNING)
        if earlier is None:
            build.note(CHECKOUT, StepRecord(name=CHECKOUT, status=StepStatus.RUNNING))
        self._publisher.append(build.held, CHECKOUT, [NumberedEvent(1, running)], steps=build.steps)
        end = earlier or self._unpack(build, sandbox)
        build.note(CHECKOUT, _ended(CHECKOUT, end))
        self._publisher.append(
            build.held, CHECKOUT, [NumberedEvent(2, _step_end(CHECKOUT, end))], steps=build.steps
        )
        return end

    def _unpack(self, build: Build, sandbox: Sandbox) -> Complete | Error:
        started = time.monotonic()
        archive = self._publisher.patiently(
            build.held, lambda: self._jobs.archive(build.held.job.id)
        )
        if archive is None:
            return _error("archive_expired", "The uploaded archive is no longer kept.")
        unreachable_since: float | None = None
        while True:
            try:
                place = self._sandboxes.place(sandbox.id)
                place.client.unpack_archive([archive], SOURCE_DIR, ARCHIVE_TIMEOUT_S)
            except RuntimeUnreachable:
                unreachable_since = unreachable_since or time.monotonic()
                if time.monotonic() - unreachable_since > RUNTIME_PATIENCE_S:
                    return _sandbox_lost()
                time.sleep(RETRY_S)
            except RuntimeFault as fault:
                return _error(fault.code, fault.message, fault.hint)
            else:
                break
        duration_ms = int((time.monotonic() - started) * 1000)
        return Complete(
            timestamp=timestamp(), conclusion=Conclusion.SUCCESS, duration_ms=duration_ms
        )

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
            execution,
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
        # From here on a clock that jumps changes nothing.
        spent_s = _seconds_since(held.job.started_at or timestamp())
        self._deadline = time.monotonic() + spec.timeout_ms / 1000 - spent_s

    @property
    def commit(self) -> str | None:
        return self.steps[0].commit

    @property
    def has_begun(self) -> bool:
        return any(step.status is not StepStatus.QUEUED for step in self.steps)

    def execution(self, name: str) -> str:
        """The id that an execution of this build has in the runtime."""
        return f"{self.held.job.id}.{self.held.job.attempt}.{name}"

    def end(self) -> Complete | Error | None:
        """How the build ended, by its steps; None where one is yet to be run."""
        for step in self.steps:
            end = self.end_of(step.name)
            if end is None or not _succeeded(end):
                return end
        return end

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
        return max(1, int((self._deadline - time.monotonic()) * 1000))


def _seconds_since(started_at: str) -> float:
    started = datetime.fromisoformat(started_at)
    return max(0.0, (datetime.now(started.tzinfo) - started).total_seconds())


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


def _sandbox_lost() -> Error:
    return _error(
        "sandbox_lost", "The build's sandbox ended: it was removed or killed.", "Try again."
    )


def _error(code: str, message: str, hint: str = "") -> Error:
    return Error(timestamp=timestamp(), code=code, error=message, hint=hint)
