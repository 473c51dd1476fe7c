"""A node for the web's tests: it claims jobs and tells their events, but runs nothing.

What it does with a command is in the command's words: `say X`, `fail`, `count N`, `hold` (until
it is cancelled or let go), `bytes`, `lose` (an error), `picture` (for cells).
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import redis

from sandbox_runtime.protocol.events import (
    CellException,
    Complete,
    Conclusion,
    Error,
    Result,
    Start,
    Stderr,
    Stdout,
    Truncated,
)
from tests.redis_server import RedisServer
from workers.contract.connection import connect
from workers.contract.errors import Fault
from workers.contract.events import JobEvent, Step
from workers.contract.jobs import BuildSpec, CodeSpec, ExecSpec, JobError, StepRecord, StepStatus
from workers.contract.queue import (
    PLACE_TASK,
    PLACEMENT_QUEUES,
    ControlChannel,
    ControlMessage,
    PauseSandbox,
    RemoveSandbox,
    ResumeSandbox,
    SandboxMessage,
    StartSandbox,
    StopSandbox,
    node_queue,
)
from workers.contract.sandboxes import NodeRecord, Sandbox, SandboxState
from workers.contract.settings import StoreSettings
from workers.contract.store import Claim, JobStore, NodeStore, SandboxStore
from workers.contract.stream import EventStream, NumberedEvent, Writer

NODE = "node-1"
NOW = "2026-01-01T00:00:00.000Z"
SOON = "2026-01-01T00:00:01.500Z"
LEASE_MS = 30_000

CHANGES: dict[type, tuple[SandboxState, SandboxState]] = {
    RemoveSandbox: (SandboxState.REMOVING, SandboxState.REMOVED),
    StopSandbox: (SandboxState.STOPPING, SandboxState.STOPPED),
    StartSandbox: (SandboxState.CREATING, SandboxState.RUNNING),
    PauseSandbox: (SandboxState.RUNNING, SandboxState.PAUSED),
    ResumeSandbox: (SandboxState.PAUSED, SandboxState.RUNNING),
}


class FakeNode:
    """Ready from the moment it is entered, until it is left."""

    def __init__(
        self,
        server: RedisServer,
        *,
        ready: bool = True,
        problem: str = "",
        egress_problem: str = "",
    ) -> None:
        settings = StoreSettings(server.url, retention_s=600)
        self._client = connect(settings, max_connections=64)
        self.jobs = JobStore(self._client, retention_s=600)
        self.sandboxes = SandboxStore(self._client, retention_s=600)
        self.stream = EventStream(self._client, retention_s=600, now=lambda: NOW)
        self.nodes = NodeStore(self._client)
        self.control = ControlChannel(self._client)
        self.told: list[ControlMessage] = []
        self.let_go = threading.Event()
        self._ready = ready
        self._problem = problem
        self._egress_problem = egress_problem
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._forever, args=(step,), daemon=True)
            for step in (self._take_messages, self._beat, self._hear)
        ]
        self._pool = ThreadPoolExecutor(48)

    def __enter__(self) -> FakeNode:
        self._beat_once()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self.let_go.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._pool.shutdown()
        self._client.close()

    def append(
        self,
        claim: Claim,
        events: Sequence[JobEvent],
        *,
        first: int = 1,
        steps: Sequence[StepRecord] | None = None,
    ) -> None:
        job = claim.job
        numbered = [NumberedEvent(first + i, event) for i, event in enumerate(events)]
        writer = Writer(job.id, job.line, job.sandbox_id, job.fence)
        while not self._stopped.is_set():
            try:
                self.stream.append(writer, "run", numbered, steps=steps)
                return
            except Fault:
                time.sleep(0.05)

    def _forever(self, step: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            try:
                step()
            except (Fault, redis.exceptions.RedisError):
                time.sleep(0.05)

    def _beat(self) -> None:
        self._beat_once()
        self._stopped.wait(0.5)

    def _beat_once(self) -> None:
        record = NodeRecord(
            id=NODE,
            driver="docker",
            ready=self._ready,
            problem=self._problem,
            images=["default", "slim"],
            job_limit=64,
            heartbeat_at=NOW,
            egress=not self._egress_problem,
            egress_problem=self._egress_problem,
        )
        self.nodes.beat(record, life_s=5, holder=NODE)

    def _hear(self) -> None:
        for message in self.control.receive(NODE, 0.1):
            self.told.append(message)
            change = CHANGES.get(type(message))
            if change is not None and isinstance(message, SandboxMessage):
                sandbox = self.sandboxes.get(message.sandbox_id)
                since, to = change
                self.sandboxes.move(sandbox, to=to, since=(since,), node=NODE)

    def _take_messages(self) -> None:
        found = self._client.brpop([node_queue(NODE), *PLACEMENT_QUEUES], timeout=0.1)
        if found is None or self._stopped.is_set():
            return
        headers = json.loads(found[1])["headers"]
        if headers["task"] == PLACE_TASK:
            self._pool.submit(self._place, headers["id"])
        else:
            self._pool.submit(self._run, headers["id"])

    def _place(self, sandbox_id: str) -> None:
        sandbox = self.sandboxes.claim_for_node(sandbox_id, NODE)
        if sandbox is None:
            return
        if sandbox.name.startswith("broken"):
            codes = {"engine": "driver_unavailable", "network": "egress_unavailable"}
            found = [code for word, code in codes.items() if word in sandbox.name]
            error = JobError(code=(*found, "sandbox_failed")[0], message="No disk left.")
            self._move(sandbox, SandboxState.FAILED, error)
        elif not sandbox.name.startswith("slow"):
            self._move(sandbox, SandboxState.RUNNING, None)

    def _move(self, sandbox: Sandbox, to: SandboxState, error: JobError | None) -> None:
        self.sandboxes.move(
            sandbox, to=to, since=(SandboxState.CREATING,), node=NODE, boot_id="boot", error=error
        )

    def _run(self, job_id: str) -> None:
        claim = self.jobs.claim(job_id, node=NODE, now=NOW, lease_ms=LEASE_MS)
        if claim is not None:
            self._run_claimed(claim)

    def _run_claimed(self, claim: Claim) -> None:
        match claim.job.spec:
            case ExecSpec() as spec:
                words = (spec.command or " ".join(spec.argv or [])).split(" ", 1)
                start = Start(timestamp=NOW, command=spec.command, attempt=1)
                self._act(claim, start, words[0], words[-1])
            case CodeSpec() as spec:
                start = Start(timestamp=NOW, language=spec.language, attempt=1)
                word, _, rest = spec.code.partition(" ")
                self._act(claim, start, word, rest)
            case BuildSpec() as spec:
                self._build(claim, spec)

    def _act(self, claim: Claim, start: Start, word: str, rest: str) -> None:
        match word:
            case "say":
                self.append(claim, [start, _stdout(f"{rest}\n"), _complete()])
            case "fail":
                err = Stderr(timestamp=NOW, data="no\n")
                self.append(claim, [start, _stdout("out\n"), err, _complete(exit_code=3)])
            case "count":
                self.append(claim, [start])
                for n in range(int(rest)):
                    self.append(claim, [_stdout(f"{n}\n")], first=n + 2)
                self.append(claim, [_complete()], first=int(rest) + 2)
            case "hold":
                self.append(claim, [start, _stdout("holding\n")])
                self.append(claim, [self._hold(claim)], first=3)
            case "bytes":
                parts = [_stdout(base64.b64encode(part).decode()) for part in (b"\xff", b"\x00A")]
                self.append(claim, [start, *parts, _complete()])
            case "lose":
                error = Error(timestamp=SOON, code="sandbox_lost", error="It is gone.", hint="Ok.")
                self.append(claim, [start, _stdout("half"), error])
            case "flood":
                cut = Truncated(timestamp=NOW, stream="stdout", dropped_bytes=7)
                self.append(claim, [start, _stdout("1234"), cut, _complete()])
            case "picture":
                result = Result(timestamp=NOW, text="<fig>", png="iVBORw0=", is_main=True)
                self.append(claim, [start, _stdout("drawn\n"), result, _complete(count=4)])
            case "raise":
                raised = CellException(timestamp=NOW, name="ValueError", value="no", traceback="t")
                self.append(claim, [start, raised, _complete(exit_code=1, count=5)])
            case _:
                self.append(claim, [start, _complete()])

    def _hold(self, claim: Claim) -> JobEvent:
        while not self.let_go.wait(0.02):
            try:
                lease = self.jobs.renew(claim.job, LEASE_MS)
            except Fault:
                continue
            if lease.cancel:
                return Error(timestamp=SOON, code=lease.cancel, error="Cancelled.")
        return _complete()

    def _build(self, claim: Claim, spec: BuildSpec) -> None:
        records = [
            StepRecord(name=name, status=StepStatus.COMPLETED, conclusion=Conclusion.SUCCESS)
            for name in ("checkout", *(step.name for step in spec.steps))
        ]
        steps = [Step(timestamp=NOW, name=r.name, status=r.status) for r in records]
        start = Start(timestamp=NOW, attempt=1)
        self.append(claim, [start, *steps, _complete()], steps=records)


def _stdout(text: str) -> Stdout:
    return Stdout(timestamp=NOW, data=text)


def _complete(exit_code: int = 0, count: int | None = None) -> Complete:
    return Complete(
        timestamp=SOON,
        conclusion=Conclusion.FAILURE if exit_code else Conclusion.SUCCESS,
        duration_ms=12,
        exit_code=exit_code,
        execution_count=count,
    )
