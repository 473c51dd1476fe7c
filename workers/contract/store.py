"""The records of jobs, sandboxes and nodes in Redis.

    cf:job:<id>                  hash    a job, its lease, and `n:<execution>`
    cf:job:<id>:archive          string  what was uploaded for a build, until it is unpacked
    cf:line:<line>               list    ids of a line's jobs; the head is sent or running
    placement…, node.<id>        list    Celery's queues; see `queue.py`
    cf:nudges                    counter messages sent to them
    cf:sent-jobs                 zset    jobs that run or were sent, by when
    cf:jobs:<owner>              zset    an owner's jobs, by time of submission
    cf:open-jobs:<owner>         set     those that are not completed
    cf:queue-places              hash    queue → how many of its jobs can run at a time
    cf:places:<queue>            hash    job that was sent → owner
    cf:places-taken              hash    owner, `<owner> <queue>` → how many places they have
    cf:waiting:<queue>           list    owners whose jobs wait for a place; the next one first
    cf:waiting:<queue>:<owner>   list    these jobs
    cf:waiting-in:<owner>        set     the queues in which an owner's jobs wait
    cf:idempotency:<owner>:<key> hash    job, digest
    cf:sandbox:<id>              hash    a sandbox
    cf:sandbox:<id>:jobs         set     its jobs that are not completed
    cf:sandbox:<id>:sessions     hash    name → session, as JSON
    cf:sandbox:<id>:contexts     hash    id → code context, as JSON
    cf:sandbox:<id>:ports        hash    its exposed ports; see `ports.py`
    cf:sandbox:<id>:terminals    hash    its terminals' tokens; see `terminals.py`
    cf:sandbox:<id>:events       stream  what happened to it, and the channel that tells it; see
                                         `sandbox_events.py`
    cf:sandbox-names:<owner>     hash    name → id
    cf:pool:<kind>               list    `<id> <node> <bootId>` of sandboxes that are ready
    cf:pools                     set     the kinds that there ever were
    cf:nodes                     set     ids of all nodes ever seen and not removed
    cf:drained-nodes             set     those that are to take nothing new
    cf:removed-nodes             set     those that the leader is to forget
    cf:node:<id>                 string  the node's heartbeat, as JSON; gone when it stops
    cf:node:<id>:holder          string  the worker that has this name; expires with the heartbeat
    cf:node:<id>:sandboxes       set     sandboxes that it owns
    cf:node:<id>:control         stream  what it is told; see `queue.py`
    cf:counts                    hash    what happened so far; see `counts.py`
    cf:leader                    string  the worker that looks after the open jobs of all

Events and their keys are in `stream.py`. What changes several keys at once is in `scripts/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from sandbox_runtime.protocol.events import Conclusion
from sandbox_runtime.protocol.requests import USERS
from workers.contract.clock import timestamp
from workers.contract.connection import RedisClient, load_script, store_errors
from workers.contract.errors import (
    ContextNotFound,
    IdempotencyConflict,
    JobNotFound,
    LineFull,
    NodeTaken,
    SandboxNotFound,
    SandboxNotRunning,
    SessionExists,
    SessionNotFound,
    TooManyIsolatedSessions,
    TooManyJobs,
    TooManySandboxes,
)
from workers.contract.jobs import (
    BuildSpec,
    CodeSpec,
    ExecSpec,
    Job,
    JobError,
    JobKind,
    Spec,
    Status,
    StepRecord,
)
from workers.contract.owners import NO_LIMITS, Limits
from workers.contract.queue import (
    EGRESS_QUEUE,
    PLACE_TASK,
    PLACEMENT_QUEUE,
    node_queue,
    placement_queue,
    task_name,
)
from workers.contract.sandbox_events import EVENT_OF_STATE, SandboxEvent, SandboxEventType
from workers.contract.sandboxes import (
    DEFAULT_SESSION,
    ContextRecord,
    NodeRecord,
    Sandbox,
    SandboxSpec,
    SandboxState,
    SessionRecord,
    pool_kind,
)

THERE = tuple(
    state
    for state in SandboxState
    if state not in (SandboxState.REMOVING, SandboxState.REMOVED, SandboxState.FAILED)
)
"""The states of a sandbox that is there, and stays."""

IDEMPOTENCY_KEY_LIFE_S = 24 * 3600
MAX_LINE_JOBS = 10_000
MAX_SANDBOX_EVENTS = 1000
"""Of one sandbox; the oldest go first."""
ARCHIVE_LIFE_S = 24 * 3600

Fields = Mapping[bytes, bytes]

# Made here and not where they are used: msgspec readies a type when a decoder of it is made, and
# two threads that do so at once crash the process.
_context_decoder = msgspec.json.Decoder(ContextRecord)
_env_decoder = msgspec.json.Decoder(dict[str, str | None])
_error_decoder = msgspec.json.Decoder(JobError)
_node_decoder = msgspec.json.Decoder(NodeRecord)
_sandbox_spec_decoder = msgspec.json.Decoder(SandboxSpec)
_session_decoder = msgspec.json.Decoder(SessionRecord)
_spec_decoder: msgspec.json.Decoder[Spec] = msgspec.json.Decoder(Spec)
_steps_decoder = msgspec.json.Decoder(list[StepRecord])


class Submitted(NamedTuple):
    """A job was accepted, and sent if it was the first of its line."""

    job_id: str
    repeated: bool
    """The idempotency key had been used for this very request: `job_id` is the first one's."""


class Claim(NamedTuple):
    """The right to run a job, for as long as the lease is renewed."""

    job: Job
    resumed: bool
    """Another worker, or this one before it was restarted, had begun."""
    sandbox: Sandbox | None
    seat: SessionRecord | ContextRecord | None
    """The session or code context, as it was created; None: the implicit one."""


class Lease(NamedTuple):
    held: bool
    cancel: str | None = None
    is_over: bool = False
    """It has ended without us, or runs elsewhere; or Redis was emptied, and has no record of it."""


class Cancelled(NamedTuple):
    """Where a job was when its end was asked for."""

    status: Status
    node: str | None


class Ready(NamedTuple):
    """A sandbox of the pool, as it is listed."""

    id: str
    node: str
    boot_id: str


class Activity(NamedTuple):
    """What a node needs to know of a sandbox to see whether its time is over."""

    state: SandboxState
    used: str
    """Counts its jobs and renewals."""
    open_jobs: int
    idle_timeout_ms: int | None
    expires_at: str | None


class SentJob(NamedTuple):
    """What the leader needs to know of a job that runs, or is the first of its line."""

    id: str
    kind: JobKind
    status: Status
    node: str | None
    sent_ms: int
    lease_until_ms: int
    placement: str = PLACEMENT_QUEUE
    """The queue of a build that no node has."""


class JobStore:
    """Job records and lines. Events are `EventStream`'s."""

    def __init__(self, client: RedisClient, *, retention_s: int) -> None:
        self._client = client
        self._retention_s = retention_s
        self._submit = load_script(client, "submit")
        self._claim = load_script(client, "claim")
        self._renew = load_script(client, "renew")
        self._cancel = load_script(client, "cancel")
        self._send = load_script(client, "send")
        self._release = load_script(client, "release")
        self._retry = load_script(client, "retry")

    def submit(
        self,
        job: Job,
        *,
        idempotency_key: str | None = None,
        digest: str = "",
        archive: bytes | None = None,
        limits: Limits = NO_LIMITS,
        queue: str = PLACEMENT_QUEUE,
    ) -> Submitted:
        """Accepts a job, all of it or nothing. `queue` is a build's.

        Raises `SandboxNotRunning`, `LineFull`, `TooManyJobs`, `IdempotencyConflict`,
        `StoreUnavailable`, `StoreFull`.
        """
        fields: list[str | bytes] = []
        for name, value in _job_fields(job).items():
            fields += (name, value)
        keys = [
            f"cf:job:{job.id}",
            f"cf:line:{job.line}" if job.line else "",
            f"cf:jobs:{job.owner}",
            f"cf:sandbox:{job.sandbox_id}" if job.sandbox_id else "",
            f"cf:sandbox:{job.sandbox_id}:jobs" if job.sandbox_id else "",
            f"cf:idempotency:{job.owner}:{idempotency_key}" if idempotency_key else "",
            f"cf:open-jobs:{job.owner}",
        ]
        with store_errors():
            if archive is not None:
                self._client.set(f"cf:job:{job.id}:archive", archive, ex=ARCHIVE_LIFE_S)
            answer = self._submit(
                keys,
                [
                    job.id,
                    _now_ms(),
                    MAX_LINE_JOBS,
                    digest,
                    IDEMPOTENCY_KEY_LIFE_S,
                    task_name(job.kind),
                    job.owner,
                    _or_empty(limits.open_jobs),
                    _or_empty(limits.jobs_at_once),
                    queue,
                    *fields,
                ],
            )
        match answer[0]:
            case b"accepted":
                return Submitted(job.id, repeated=False)
            case b"repeated":
                return Submitted(answer[1].decode(), repeated=True)
            case b"conflict":
                raise IdempotencyConflict("This Idempotency-Key was used for another request.")
            case b"full":
                raise LineFull(f"{MAX_LINE_JOBS} jobs wait in this session already.")
            case b"many":
                raise TooManyJobs(
                    f"{limits.open_jobs} jobs are open, as many as this key may have."
                )
            case _:
                raise SandboxNotRunning(job.sandbox, answer[1].decode())

    def get(self, job_id: str) -> Job:
        """Raises `JobNotFound`."""
        with store_errors():
            fields = self._client.hgetall(f"cf:job:{job_id}")
        if b"id" not in fields:
            raise JobNotFound(f"No job {job_id}.")
        return _job(fields)

    def list_of(self, owner: str, *, before_ms: int | None, limit: int) -> list[tuple[Job, int]]:
        """The owner's newest jobs, newest first, each with its place (ms) to go on before."""
        newest = "+inf" if before_ms is None else f"({before_ms}"
        with store_errors():
            entries = self._client.zrevrangebyscore(
                f"cf:jobs:{owner}", newest, "-inf", start=0, num=limit, withscores=True
            )
            pipeline = self._client.pipeline(transaction=False)
            for job_id, _ in entries:
                pipeline.hgetall(f"cf:job:{job_id.decode()}")
            records = pipeline.execute()
        return [
            (_job(fields), int(score))
            for (_, score), fields in zip(entries, records, strict=True)
            if b"id" in fields
        ]

    def archive(self, job_id: str) -> bytes | None:
        with store_errors():
            archive: bytes | None = self._client.get(f"cf:job:{job_id}:archive")
        return archive

    def drop_archive(self, job_id: str) -> None:
        with store_errors():
            self._client.delete(f"cf:job:{job_id}:archive")

    def claim(self, job_id: str, *, node: str, now: str, lease_ms: int) -> Claim | None:
        """None where the job is another node's, has ended, or is not due.

        The caller must not hold the job: a running one of its node it takes over.
        """
        with store_errors():
            answer = self._claim([f"cf:job:{job_id}"], [node, lease_ms, now, job_id])
        if answer[0] != b"claimed":
            return None
        fields = _pairs(answer[1])
        job = _job(fields)
        sandbox_fields = _pairs(answer[2])
        sandbox = _sandbox(sandbox_fields) if b"id" in sandbox_fields else None
        return Claim(job, job.fence > 1, sandbox, _seat(job.kind, answer[3]))

    def renew(self, job: Job, lease_ms: int) -> Lease:
        """By the node that the job's claim is for."""
        with store_errors():
            answer = self._renew([f"cf:job:{job.id}"], [job.fence, lease_ms, job.node or ""])
        if answer[0] != b"held":
            return Lease(False, is_over=answer[0] == b"over")
        return Lease(True, answer[1].decode() or None)

    def set_cancel(self, job_id: str, why: str) -> Cancelled:
        """Writes down that the job is to end. Raises `JobNotFound`."""
        with store_errors():
            status, node = self._cancel([f"cf:job:{job_id}"], [why])
        if not status:
            raise JobNotFound(f"No job {job_id}.")
        return Cancelled(Status(status.decode()), node.decode() or None)

    def last_n(self, job_id: str, execution: str) -> int:
        """The number of the last event that the stream has of an execution; 0 for none."""
        with store_errors():
            return int(self._client.hget(f"cf:job:{job_id}", f"n:{execution}") or 0)

    def last_ns(self, executions: Iterable[tuple[str, str]]) -> list[int]:
        """As `last_n`, for many pairs of job and execution at once."""
        with store_errors():
            pipeline = self._client.pipeline(transaction=False)
            for job_id, execution in executions:
                pipeline.hget(f"cf:job:{job_id}", f"n:{execution}")
            return [int(n or 0) for n in pipeline.execute()]

    def set_sandbox(self, job_id: str, sandbox_id: str) -> None:
        """Counts a build among the open jobs of the sandbox that it got."""
        with store_errors():
            self._client.sadd(f"cf:sandbox:{sandbox_id}:jobs", job_id)

    def sent_jobs(self) -> list[SentJob]:
        """All that run or were sent."""
        names = ("kind", "status", "node", "sandbox_id", "lease_until_ms", "queue")
        with store_errors():
            sent = self._client.zrange("cf:sent-jobs", 0, -1, withscores=True)
            pipeline = self._client.pipeline(transaction=False)
            for job_id, _ in sent:
                pipeline.hmget(f"cf:job:{job_id.decode()}", names)
            records = pipeline.execute()
            found = [
                (job_id.decode(), int(score), record)
                for (job_id, score), record in zip(sent, records, strict=True)
                if record[0] is not None and record[1] is not None
            ]
            if len(found) < len(sent):
                there = {job_id for job_id, _, _ in found}
                self._release(args=sorted({raw.decode() for raw, _ in sent} - there))
            pipeline = self._client.pipeline(transaction=False)
            for _, _, record in found:
                pipeline.hget(f"cf:sandbox:{record[3].decode() if record[3] else ''}", "node")
            nodes = pipeline.execute()
        return [
            SentJob(
                id=job_id,
                kind=JobKind(kind.decode()),
                status=Status(status.decode()),
                node=(node or its_sandboxes).decode() if node or its_sandboxes else None,
                sent_ms=sent_ms,
                lease_until_ms=int(lease_until_ms or 0),
                placement=queue.decode(),
            )
            for (
                job_id,
                sent_ms,
                (kind, status, node, _, lease_until_ms, queue),
            ), its_sandboxes in zip(found, nodes, strict=True)
        ]

    def now_ms(self) -> int:
        """By Redis' clock, which sending and leases go by: machines differ."""
        with store_errors():
            seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def send(self, job: SentJob) -> None:
        """Sends a job to its queue again; a nudge too many does no harm."""
        queue = node_queue(job.node) if job.node else job.placement
        with store_errors():
            self._send(args=[job.id, task_name(job.kind), queue])

    def retry(self, job: Job, lost_node: str, *, most_attempts: int) -> bool:
        """Has a job run again that ran on a node that is lost. False where it may not."""
        steps = [StepRecord(name=step.name) for step in job.steps]
        with store_errors():
            answer = self._retry(
                [f"cf:job:{job.id}"],
                [job.id, lost_node, most_attempts, msgspec.json.encode(steps)],
            )
        return bool(answer)

    def release(self) -> None:
        """Sends what waits for a place that there is: nodes and limits may have changed."""
        with store_errors():
            self._release()

    def waiting(self) -> int:
        """How many jobs wait for a place, in all queues."""
        with store_errors():
            queues = [raw.decode() for raw in self._client.hkeys("cf:queue-places")]
            pipeline = self._client.pipeline(transaction=False)
            for queue in queues:
                pipeline.lrange(f"cf:waiting:{queue}", 0, -1)
            owners = pipeline.execute()
            pipeline = self._client.pipeline(transaction=False)
            for queue, theirs in zip(queues, owners, strict=True):
                for owner in theirs:
                    pipeline.llen(f"cf:waiting:{queue}:{owner.decode()}")
            return sum(pipeline.execute())

    def send_to_node(self, job: Job, node: str) -> bool:
        """Sends a running job to the node that had it. False where there is no such job."""
        with store_errors():
            return bool(self._send(args=[job.id, task_name(job.kind), node_queue(node)]))

    def is_queue_empty(self, job: SentJob) -> bool:
        """Whether no nudge waits where the job's would."""
        queue = node_queue(job.node) if job.node else job.placement
        with store_errors():
            return int(self._client.llen(queue)) == 0

    def prune(self, owners: Iterable[str]) -> int:
        """Forgets, in the owners' lists, jobs whose records have expired; how many."""
        oldest_ms = _now_ms() - self._retention_s * 1000
        dropped = 0
        with store_errors():
            for owner in owners:
                key = f"cf:jobs:{owner}"
                for raw in self._client.zrangebyscore(key, "-inf", oldest_ms, start=0, num=10_000):
                    if not self._client.exists(f"cf:job:{raw.decode()}"):
                        dropped += int(self._client.zrem(key, raw))
        return dropped

    def owners(self) -> list[str]:
        with store_errors():
            keys = self._client.scan_iter("cf:jobs:*", count=1000)
            names = {key.decode().removeprefix("cf:jobs:") for key in keys}
        return sorted(names)


class SandboxStore:
    """Sandbox records, by id and by their owner's names."""

    def __init__(self, client: RedisClient, *, retention_s: int) -> None:
        self._client = client
        self._retention_s = retention_s
        self._create = load_script(client, "create_sandbox")
        self._claim = load_script(client, "claim_sandbox")
        self._move = load_script(client, "move_sandbox")
        self._restore = load_script(client, "restore_sandbox")
        self._send = load_script(client, "send")
        self._set_env = load_script(client, "set_env")
        self._prune_names = load_script(client, "prune_names")
        self._add_session = load_script(client, "add_session")

    def find_or_create(
        self, sandbox: Sandbox, *, may_be_ready: bool = True, limits: Limits = NO_LIMITS
    ) -> tuple[Sandbox, bool]:
        """The owner's sandbox of this name, and whether it is the new one.

        `may_be_ready`: a new one can be one of the pool, which has an id of its own and runs.
        Raises `TooManySandboxes`.
        """
        keys = [
            f"cf:sandbox-names:{sandbox.owner}",
            f"cf:sandbox:{sandbox.id}",
            sandbox_events_key(sandbox.id),
            _pool_key(pool_kind(sandbox.spec)) if may_be_ready else "",
        ]
        events = [
            _event(sandbox, kind) for kind in (SandboxEventType.CREATED, SandboxEventType.STARTED)
        ]
        with store_errors():
            most = _or_empty(limits.sandboxes)
            answer = self._create(keys, [sandbox.name, sandbox.id, *events, most, *_flat(sandbox)])
        if answer[0] == b"created":
            return sandbox, True
        if answer[0] == b"many":
            raise TooManySandboxes(
                f"{limits.sandboxes} sandboxes are there, as many as this key may have."
            )
        return self.get(answer[1].decode()), answer[0] == b"ready"

    def get(self, sandbox_id: str) -> Sandbox:
        """Raises `SandboxNotFound`."""
        with store_errors():
            fields = self._client.hgetall(f"cf:sandbox:{sandbox_id}")
        if b"id" not in fields:
            raise SandboxNotFound(f"No sandbox {sandbox_id}.")
        return _sandbox(fields)

    def state(self, sandbox_id: str) -> SandboxState:
        """Raises `SandboxNotFound`."""
        with store_errors():
            state = self._client.hget(f"cf:sandbox:{sandbox_id}", "state")
        if state is None:
            raise SandboxNotFound(f"No sandbox {sandbox_id}.")
        return SandboxState(state.decode())

    def by_name(self, owner: str, name: str) -> Sandbox:
        """Raises `SandboxNotFound`."""
        with store_errors():
            sandbox_id = self._client.hget(f"cf:sandbox-names:{owner}", name)
        if sandbox_id is None:
            raise SandboxNotFound(f"No sandbox is named {name!r}.")
        try:
            return self.get(sandbox_id.decode())
        except SandboxNotFound as error:
            raise SandboxNotFound(f"No sandbox is named {name!r}.") from error

    def list_of(self, owner: str) -> list[Sandbox]:
        """All sandboxes of the owner that are not removed, by name."""
        with store_errors():
            names = self._client.hgetall(f"cf:sandbox-names:{owner}")
            pipeline = self._client.pipeline(transaction=False)
            for sandbox_id in names.values():
                pipeline.hgetall(f"cf:sandbox:{sandbox_id.decode()}")
            records = pipeline.execute()
        found = [_sandbox(fields) for fields in records if b"id" in fields]
        return sorted(found, key=lambda sandbox: sandbox.name)

    def move(
        self,
        sandbox: Sandbox,
        *,
        to: SandboxState,
        since: Iterable[SandboxState],
        event: SandboxEventType | None = None,
        reason: str = "",
        node: str | None = None,
        boot_id: str | None = None,
        error: JobError | None = None,
        unless_used_since: str = "",
    ) -> bool:
        """Sets the state where the present one is in `since`, and tells so as an event.

        False where it is not; also where a job is open, or was accepted since `unless_used_since`
        (`Activity.used`).
        """
        fields: list[str] = ["moved_ms", str(_now_ms())]
        if node is not None:
            fields += ("node", node)
        if boot_id is not None:
            fields += ("boot_id", boot_id)
        if error is not None:
            fields += ("error", msgspec.json.encode(error).decode())
        kind = event or EVENT_OF_STATE[to]
        told = _event(sandbox, kind, reason, error)
        moved = self._change(
            sandbox, since, to.value, kind, told, fields, unless_used_since=unless_used_since
        )
        if moved and to in (SandboxState.REMOVED, SandboxState.FAILED):
            with store_errors():
                self._forget_parts(sandbox, node)
        return moved

    def renew(
        self, sandbox: Sandbox, *, idle_timeout_ms: int | None, expires_at: str | None
    ) -> None:
        """Counts as use; None leaves what there is. Nothing where the sandbox is not there."""
        fields = []
        if idle_timeout_ms is not None:
            fields += ["idle_timeout_ms", str(idle_timeout_ms)]
        if expires_at is not None:
            fields += ["expires_at", expires_at]
        kind = SandboxEventType.RENEWED
        self._change(sandbox, THERE, "", kind, _event(sandbox, kind), fields)

    def tell(self, sandbox: Sandbox, kind: SandboxEventType) -> None:
        """Adds an event that is no change of state."""
        self._change(sandbox, THERE, "", kind, _event(sandbox, kind), ())

    def set_env(self, sandbox_id: str, env: Mapping[str, str | None]) -> None:
        """Adds to the variables that were set since a sandbox was made; None unsets.

        Raises `SandboxNotFound`.
        """
        with store_errors():
            is_set = self._set_env([f"cf:sandbox:{sandbox_id}"], [msgspec.json.encode(env)])
        if not is_set:
            raise SandboxNotFound(f"No sandbox {sandbox_id}.")

    def activities(self, ids: Sequence[str]) -> list[Activity | None]:
        """Of each sandbox; None where Redis has no record of it."""
        names = ("state", "used", "idle_timeout_ms", "expires_at")
        with store_errors():
            pipeline = self._client.pipeline(transaction=False)
            for sandbox_id in ids:
                pipeline.hmget(f"cf:sandbox:{sandbox_id}", names)
                pipeline.scard(f"cf:sandbox:{sandbox_id}:jobs")
            answers = pipeline.execute()
        found: list[Activity | None] = []
        for (state, used, idle, expires), jobs in zip(answers[::2], answers[1::2], strict=True):
            found.append(
                Activity(
                    state=SandboxState(state.decode()),
                    used=(used or b"0").decode(),
                    open_jobs=jobs,
                    idle_timeout_ms=int(idle) if idle else None,
                    expires_at=expires.decode() if expires else None,
                )
                if state
                else None
            )
        return found

    def send_to_placement(self, sandbox: Sandbox) -> None:
        """Tells the nodes that a new sandbox waits to be made."""
        with store_errors():
            self._send(args=[sandbox.id, PLACE_TASK, placement_queue(sandbox.spec.network)])

    def claim_for_node(self, sandbox_id: str, node: str) -> Sandbox | None:
        """Makes a new sandbox this node's own; None where another node has it, or it is gone."""
        keys = [f"cf:sandbox:{sandbox_id}", f"cf:node:{node}:sandboxes"]
        with store_errors():
            answer = self._claim(keys, [node, sandbox_id])
        return _sandbox(_pairs(answer[1])) if answer[0] == b"claimed" else None

    def drop_from_node(self, sandbox_id: str, node: str) -> None:
        """Of a sandbox that is no more, or of which nothing is known."""
        with store_errors():
            self._client.srem(f"cf:node:{node}:sandboxes", sandbox_id)

    def restore(self, sandbox: Sandbox) -> bool:
        """Writes a record that Redis has lost, from what its node knows of it.

        False where another sandbox has been given its name meanwhile.
        """
        keys = [
            f"cf:sandbox-names:{sandbox.owner}",
            f"cf:sandbox:{sandbox.id}",
            f"cf:node:{sandbox.node}:sandboxes",
            sandbox_events_key(sandbox.id),
        ]
        with store_errors():
            answer = self._restore(keys, [sandbox.name, sandbox.id, *_flat(sandbox)])
        return bool(answer[0] == b"restored")

    def open_jobs(self, sandbox_id: str) -> list[str]:
        with store_errors():
            return [raw.decode() for raw in self._client.smembers(f"cf:sandbox:{sandbox_id}:jobs")]

    def prune_names(self) -> int:
        """Forgets names whose sandboxes failed so long ago that nothing is known of them."""
        with store_errors():
            keys = list(self._client.scan_iter("cf:sandbox-names:*", count=1000))
            return sum(int(self._prune_names([key])) for key in keys)

    def add_session(
        self, sandbox_id: str, session: SessionRecord, *, isolated: bool = False
    ) -> SessionRecord:
        """With a user of its own where it is isolated.

        Raises `SessionExists`, `TooManyIsolatedSessions`.
        """
        if session.name == DEFAULT_SESSION:
            raise SessionExists(f"The session {DEFAULT_SESSION!r} is always there.")
        with store_errors():
            answer = self._add_session(
                [f"cf:sandbox:{sandbox_id}:sessions"],
                [session.name, msgspec.json.encode(session), USERS if isolated else ""],
            )
        if answer[0] == b"exists":
            raise SessionExists(f"The session {session.name!r} exists.")
        if answer[0] == b"full":
            raise TooManyIsolatedSessions(f"The sandbox has {USERS - 1} isolated sessions.")
        return _session_decoder.decode(answer[1])

    def sessions(self, sandbox_id: str) -> list[SessionRecord]:
        with store_errors():
            records = self._client.hvals(f"cf:sandbox:{sandbox_id}:sessions")
        return [_session_decoder.decode(record) for record in records]

    def session(self, sandbox_id: str, name: str) -> SessionRecord | None:
        """None for the implicit one. Raises `SessionNotFound`."""
        if name == DEFAULT_SESSION:
            return None
        with store_errors():
            record = self._client.hget(f"cf:sandbox:{sandbox_id}:sessions", name)
        if record is None:
            raise SessionNotFound(f"The sandbox has no session {name!r}.")
        return _session_decoder.decode(record)

    def drop_session(self, sandbox_id: str, name: str) -> None:
        """Raises `SessionNotFound`."""
        with store_errors():
            if not self._client.hdel(f"cf:sandbox:{sandbox_id}:sessions", name):
                raise SessionNotFound(f"The sandbox has no session {name!r}.")

    def add_context(self, sandbox_id: str, context: ContextRecord) -> None:
        key = f"cf:sandbox:{sandbox_id}:contexts"
        with store_errors():
            self._client.hsetnx(key, context.id, msgspec.json.encode(context))

    def contexts(self, sandbox_id: str) -> list[ContextRecord]:
        with store_errors():
            records = self._client.hvals(f"cf:sandbox:{sandbox_id}:contexts")
        return [_context_decoder.decode(record) for record in records]

    def context(self, sandbox_id: str, context_id: str) -> ContextRecord:
        """Raises `ContextNotFound`."""
        with store_errors():
            record = self._client.hget(f"cf:sandbox:{sandbox_id}:contexts", context_id)
        if record is None:
            raise ContextNotFound(f"The sandbox has no code context {context_id!r}.")
        return _context_decoder.decode(record)

    def drop_context(self, sandbox_id: str, context_id: str) -> None:
        """Raises `ContextNotFound`."""
        with store_errors():
            if not self._client.hdel(f"cf:sandbox:{sandbox_id}:contexts", context_id):
                raise ContextNotFound(f"The sandbox has no code context {context_id!r}.")

    def _change(
        self,
        sandbox: Sandbox,
        since: Iterable[SandboxState],
        to: str,
        kind: SandboxEventType,
        event: bytes,
        fields: Iterable[str],
        *,
        unless_used_since: str = "",
    ) -> bool:
        key = f"cf:sandbox:{sandbox.id}"
        events = sandbox_events_key(sandbox.id)
        with store_errors():
            answer = self._move(
                [key, f"cf:sandbox-names:{sandbox.owner}", events, f"{key}:jobs"],
                [
                    events,
                    " ".join(state.value for state in since),
                    to,
                    sandbox.id,
                    sandbox.name,
                    self._retention_s,
                    MAX_SANDBOX_EVENTS,
                    kind.value,
                    event,
                    unless_used_since,
                    *fields,
                ],
            )
        return bool(answer[0] == b"moved")

    def _forget_parts(self, sandbox: Sandbox, node: str | None) -> None:
        pipeline = self._client.pipeline(transaction=True)
        pipeline.delete(
            f"cf:sandbox:{sandbox.id}:sessions",
            f"cf:sandbox:{sandbox.id}:contexts",
            f"cf:sandbox:{sandbox.id}:jobs",
            f"cf:sandbox:{sandbox.id}:ports",
            f"cf:sandbox:{sandbox.id}:terminals",
        )
        owner_node = node or sandbox.node
        if owner_node:
            pipeline.srem(f"cf:node:{owner_node}:sandboxes", sandbox.id)
        pipeline.execute()


class PoolStore:
    """Sandboxes that are ready before they are asked for; `create_sandbox.lua` takes them."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def add(self, kind: str, ready: Ready) -> None:
        with store_errors():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.sadd("cf:pools", kind)
            # The client asks again where an answer was lost: it must not be listed twice.
            pipeline.lrem(_pool_key(kind), 0, " ".join(ready))
            pipeline.rpush(_pool_key(kind), " ".join(ready))
            pipeline.execute()

    def kinds(self) -> list[str]:
        with store_errors():
            return [raw.decode() for raw in self._client.smembers("cf:pools")]

    def list_of(self, kind: str) -> list[Ready]:
        with store_errors():
            entries = self._client.lrange(_pool_key(kind), 0, -1)
        return [Ready(*entry.decode().split(" ")) for entry in entries]

    def withdraw(self, kind: str, ready: Ready) -> bool:
        """False where it is not there: somebody has taken it, or Redis has forgotten it."""
        with store_errors():
            return int(self._client.lrem(_pool_key(kind), 0, " ".join(ready))) > 0


class NodeStore:
    """Who is there: nodes tell it with a heartbeat that expires."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._beat = load_script(client, "beat")

    def beat(self, node: NodeRecord, life_s: float, *, holder: str) -> bool:
        """Says that a node is there, for so long; whether it is to be drained.

        `holder` is who has the node's name, the same after a restart. Raises `NodeTaken`.
        """
        record, life_ms = msgspec.json.encode(node), int(life_s * 1000)
        with store_errors():
            answer = self._beat(
                [f"cf:node:{node.id}", f"cf:node:{node.id}:holder"],
                [node.id, record, life_ms, holder, node.job_limit],
            )
        if answer[0] == b"taken":
            raise NodeTaken(f"Another worker is the node {node.id}.")
        return bool(answer[1])

    def leave(self, node_id: str) -> None:
        with store_errors():
            self._client.delete(f"cf:node:{node_id}", f"cf:node:{node_id}:holder")

    def missing(self) -> set[str]:
        """The nodes that were there, and whose heartbeat has expired."""
        there = {node.id for node in self.all()}
        with store_errors():
            return {raw.decode() for raw in self._client.smembers("cf:nodes")} - there

    def set_drained(self, node_id: str, drained: bool) -> None:
        """Whether the node is to take nothing new. It finds out with its next heartbeat."""
        with store_errors():
            if drained:
                self._client.sadd("cf:drained-nodes", node_id)
            else:
                self._client.srem("cf:drained-nodes", node_id)

    def set_removed(self, node_id: str) -> None:
        """Asks the leader to forget a node, with all that it had."""
        with store_errors():
            self._client.sadd("cf:removed-nodes", node_id)

    def to_be_removed(self) -> set[str]:
        with store_errors():
            return {raw.decode() for raw in self._client.smembers("cf:removed-nodes")}

    def exists(self, node_id: str) -> bool:
        """Whether there ever was a node of this name that was not removed."""
        with store_errors():
            return bool(self._client.sismember("cf:nodes", node_id))

    def forget(self, node_id: str) -> None:
        with store_errors():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.srem("cf:nodes", node_id)
            pipeline.srem("cf:drained-nodes", node_id)
            pipeline.srem("cf:removed-nodes", node_id)
            pipeline.hdel("cf:queue-places", node_queue(node_id))
            pipeline.delete(
                node_queue(node_id), f"cf:node:{node_id}:sandboxes", f"cf:node:{node_id}:control"
            )
            pipeline.execute()

    def find(self, node_id: str) -> NodeRecord | None:
        """None where its heartbeat has expired."""
        with store_errors():
            record = self._client.get(f"cf:node:{node_id}")
        return _node_decoder.decode(record) if record else None

    def all(self) -> list[NodeRecord]:
        """The nodes whose heartbeat has not expired."""
        with store_errors():
            ids = sorted(raw.decode() for raw in self._client.smembers("cf:nodes"))
            if not ids:
                return []
            records = self._client.mget([f"cf:node:{node_id}" for node_id in ids])
        return [_node_decoder.decode(record) for record in records if record]

    def count_places(self) -> None:
        """Notes how many jobs the nodes together can run that read the queues of placement."""
        nodes = [node for node in self.all() if node.has_room]
        places = {
            PLACEMENT_QUEUE: sum(node.job_limit for node in nodes),
            EGRESS_QUEUE: sum(node.job_limit for node in nodes if node.egress),
        }
        with store_errors():
            self._client.hset("cf:queue-places", mapping=places)

    def sandboxes_of(self, node_id: str) -> set[str]:
        with store_errors():
            return {raw.decode() for raw in self._client.smembers(f"cf:node:{node_id}:sandboxes")}

    def lead(self, who: str, life_s: float) -> bool:
        """Whether `who` leads now; a leader keeps the lead by asking again in time."""
        with store_errors():
            if self._client.set("cf:leader", who, nx=True, px=int(life_s * 1000)):
                return True
            if self._client.get("cf:leader") != who.encode():
                return False
            return bool(self._client.pexpire("cf:leader", int(life_s * 1000)))


def ready_of(sandbox: Sandbox) -> Ready:
    """How one that runs on its node is listed in the pool."""
    return Ready(sandbox.id, sandbox.node or "", sandbox.boot_id or "")


def sandbox_events_key(sandbox_id: str) -> str:
    """Of the stream, and of the channel that tells what is added to it."""
    return f"cf:sandbox:{sandbox_id}:events"


class _SeatKind(StrEnum):
    SESSIONS = "sessions"
    CONTEXTS = "contexts"


def _pool_key(kind: str) -> str:
    return f"cf:pool:{kind}"


def _event(
    sandbox: Sandbox,
    kind: SandboxEventType,
    reason: str = "",
    error: JobError | None = None,
) -> bytes:
    event = SandboxEvent(
        type=kind,
        timestamp=timestamp(),
        sandbox=sandbox.name,
        sandbox_id=sandbox.id,
        reason=reason,
        error=error,
    )
    return msgspec.json.encode(event)


def _or_empty(limit: int | None) -> str | int:
    """As scripts take a limit."""
    return "" if limit is None else limit


def _now_ms() -> int:
    return int(time.time() * 1000)


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _job_fields(job: Job) -> dict[str, str | bytes]:
    fields: dict[str, str | bytes] = {
        "id": job.id,
        "kind": job.kind.value,
        "owner": job.owner,
        "spec": msgspec.json.encode(job.spec),
        "created_at": job.created_at,
        "sandbox_id": job.sandbox_id or "",
        "sandbox": job.sandbox or "",
        "line": job.line or "",
        "steps": msgspec.json.encode(job.steps),
    }
    match job.spec:
        case ExecSpec(session=session):
            fields |= {"seat_kind": _SeatKind.SESSIONS, "seat": session}
        case CodeSpec(context=context):
            fields |= {"seat_kind": _SeatKind.CONTEXTS, "seat": context}
        case BuildSpec():
            pass
    return fields


def _job(fields: Fields) -> Job:
    def text(name: bytes) -> str | None:
        return fields[name].decode() if fields.get(name) else None

    conclusion, exit_code, error = text(b"conclusion"), text(b"exit_code"), fields.get(b"error")
    return Job(
        id=fields[b"id"].decode(),
        kind=JobKind(fields[b"kind"].decode()),
        owner=fields[b"owner"].decode(),
        spec=_spec_decoder.decode(fields[b"spec"]),
        created_at=fields[b"created_at"].decode(),
        status=Status(fields[b"status"].decode()),
        sandbox_id=text(b"sandbox_id"),
        sandbox=text(b"sandbox"),
        line=text(b"line"),
        attempt=int(fields[b"attempt"]),
        fence=int(fields[b"fence"]),
        node=text(b"node"),
        conclusion=Conclusion(conclusion) if conclusion else None,
        exit_code=int(exit_code) if exit_code else None,
        error=_error_decoder.decode(error) if error else None,
        steps=_steps_decoder.decode(fields[b"steps"]),
        cancel=text(b"cancel"),
        started_at=text(b"started_at"),
        completed_at=text(b"completed_at"),
    )


def _flat(sandbox: Sandbox) -> list[str | bytes]:
    """Names and values of a record's fields, as scripts take them."""
    return [part for field in _sandbox_fields(sandbox).items() for part in field]


def _sandbox_fields(sandbox: Sandbox) -> dict[str, str | bytes]:
    fields: dict[str, str | bytes] = {
        "id": sandbox.id,
        "name": sandbox.name,
        "owner": sandbox.owner,
        "spec": msgspec.json.encode(sandbox.spec),
        "created_at": sandbox.created_at,
        "state": sandbox.state.value,
    }
    if sandbox.node is not None:
        fields["node"] = sandbox.node
    if sandbox.boot_id is not None:
        fields["boot_id"] = sandbox.boot_id
    if sandbox.env:
        fields["env"] = msgspec.json.encode(sandbox.env)
    if sandbox.idle_timeout_ms is not None:
        fields["idle_timeout_ms"] = str(sandbox.idle_timeout_ms)
    if sandbox.expires_at is not None:
        fields["expires_at"] = sandbox.expires_at
    return fields


def _sandbox(fields: Fields) -> Sandbox:
    def text(name: bytes) -> str | None:
        return fields[name].decode() if fields.get(name) else None

    error = fields.get(b"error")
    return Sandbox(
        id=fields[b"id"].decode(),
        name=fields[b"name"].decode(),
        owner=fields[b"owner"].decode(),
        spec=_sandbox_spec_decoder.decode(fields[b"spec"]),
        created_at=fields[b"created_at"].decode(),
        state=SandboxState(fields[b"state"].decode()),
        node=text(b"node"),
        boot_id=text(b"boot_id"),
        error=_error_decoder.decode(error) if error else None,
        env=_env_decoder.decode(fields.get(b"env") or b"{}"),
        idle_timeout_ms=int(fields[b"idle_timeout_ms"]) if fields.get(b"idle_timeout_ms") else None,
        expires_at=text(b"expires_at"),
    )


def _seat(kind: JobKind, record: bytes) -> SessionRecord | ContextRecord | None:
    if not record:
        return None
    if kind is JobKind.CODE:
        return _context_decoder.decode(record)
    return _session_decoder.decode(record)
