"""Decides when a sandbox of this node is made, kept and removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import SimpleQueue
from weakref import WeakValueDictionary

import msgspec
import structlog

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.events import Error
from workers.contract.clock import timestamp
from workers.contract.errors import JobNotFound, SandboxNotFound, StoreUnavailable
from workers.contract.jobs import ExecSpec, Job, JobError, Status, line_of, new_id
from workers.contract.networks import Network
from workers.contract.sandbox_events import REQUESTED, SandboxEventType
from workers.contract.sandboxes import (
    Sandbox,
    SandboxSpec,
    SandboxState,
    pool_kind,
)
from workers.contract.store import (
    THERE,
    JobStore,
    NodeStore,
    PoolStore,
    SandboxStore,
    ready_of,
)
from workers.contract.stream import EventStream, NumberedEvent, Writer
from workers.drivers.driver import (
    CreateFailed,
    Driver,
    DriverFault,
    DriverUnavailable,
    EgressUnavailable,
)
from workers.held import HeldJobs
from workers.publisher import LOST_HINT, SANDBOX_LOST, Place
from workers.sandbox_directory import SandboxDirectory, existing
from workers.sandbox_directory import SandboxState as SavedState

START_DEADLINE_S = 30.0
FIRST_PING_S = 0.005
CLOSE = "close"
"""The execution that the terminal event of a job closed from outside is counted in."""

log = structlog.get_logger(__name__)


class UnknownSandbox(Exception):
    """No such sandbox lives on this node."""


class Sandboxes:
    """The sandboxes of this node. Safe to share between the threads of a worker."""

    def __init__(
        self,
        *,
        node_id: str,
        root: Path,
        driver: Driver,
        records: SandboxStore,
        nodes: NodeStore,
        jobs: JobStore,
        stream: EventStream,
        held: HeldJobs,
        pool: PoolStore,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_id = node_id
        self._root = root
        self._driver = driver
        self._records = records
        self._nodes = nodes
        self._jobs = jobs
        self._stream = stream
        self._held = held
        self._pool = pool
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Sandbox, Place | None]] = {}
        """Without a place: it is stopped."""
        self._turns: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()
        """One thread at a time changes a sandbox; there is a turn for as long as one has it."""
        self._pooled: dict[str, tuple[Sandbox, Place]] = {}
        """Made before they were asked for; nobody's yet, as far as we know."""
        self.asked_for: SimpleQueue[SandboxSpec] = SimpleQueue()
        """Of every new sandbox, for the pool to learn from."""
        self.proven = threading.Event()
        """Set once the node has passed its self-test; until then it makes no sandbox."""
        self.has_room = True
        """Whether a new sandbox from `placement` is to be made here."""
        self.why_no_egress = "the node has not tried its network yet"
        """Empty once it has tried that such a sandbox reaches nothing that it must not."""
        self.adopted = threading.Event()
        """Set once it is known what lives here; until then no sandbox counts as missing."""

    def __len__(self) -> int:
        return len(self._known)

    def find(self, sandbox_id: str) -> Sandbox | None:
        with self._lock:
            known = self._known.get(sandbox_id)
        return known[0] if known else None

    def place(self, sandbox_id: str) -> Place:
        """Where to run an execution. Raises `UnknownSandbox`."""
        with self._lock:
            _, place = self._known.get(sandbox_id, (None, None))
            is_unconfirmed = sandbox_id in self._pooled
        if place is None and is_unconfirmed:
            try:
                self.confirm(self._records.get(sandbox_id))
            except SandboxNotFound as error:
                raise UnknownSandbox(sandbox_id) from error
            return self.place(sandbox_id)
        if place is None:
            raise UnknownSandbox(sandbox_id)
        return place

    def place_for(self, sandbox: Sandbox) -> Place:
        """As `place`, for what is this owner's alone. Raises `UnknownSandbox`."""
        place = self.place(sandbox.id)
        known = self.find(sandbox.id)
        if known is None or known.owner != sandbox.owner:
            raise UnknownSandbox(sandbox.id)
        return place

    def undisturbed(self, sandbox_id: str) -> AbstractContextManager[object]:
        """While it is entered, no other thread changes this sandbox, or removes it as left over."""
        return self._turn(sandbox_id)

    def is_changing(self, sandbox_id: str) -> bool:
        """Whether a thread starts, stops or removes it just now."""
        with self._turn_if_free(sandbox_id) as is_free:
            return not is_free

    def remember(self, sandbox: Sandbox) -> None:
        """Notes what was changed on its record, lest Redis forget it."""
        with self._turn(sandbox.id):
            with self._lock:
                known, place = self._known.get(sandbox.id, (None, None))
            if known is not None:
                changed = msgspec.structs.replace(
                    known,
                    env=sandbox.env,
                    idle_timeout_ms=sandbox.idle_timeout_ms,
                    expires_at=sandbox.expires_at,
                )
                self._note(changed, place)

    def places(self) -> list[Place]:
        """Where executions can be run now."""
        with self._lock:
            return [place for _, place in self._known.values() if place and place.awake.is_set()]

    def pooled(self) -> list[Sandbox]:
        with self._lock:
            return [sandbox for sandbox, _ in self._pooled.values()]

    def is_pooled(self, sandbox_id: str) -> bool:
        with self._lock:
            return sandbox_id in self._pooled

    def make_for_pool(self, spec: SandboxSpec) -> tuple[Sandbox, Place]:
        """Makes a sandbox that has neither owner nor name. Raises `DriverFault`."""
        sandbox = Sandbox(
            id=new_id(), name="", owner="", spec=spec, created_at=timestamp(), node=self._node_id
        )
        with self._turn(sandbox.id):
            made, place = self._make_container(sandbox)
            with self._lock:
                self._pooled[made.id] = (made, place)
        return made, place

    def confirm(self, sandbox: Sandbox) -> None:
        """Gives one of the pool what its new owner asked for; fine where that was done."""
        with self._turn(sandbox.id):
            with self._lock:
                _, place = self._pooled.get(sandbox.id, (None, None))
            if place is None:
                return
            if not self._hand_over(sandbox, place):
                return
            with self._lock:
                self._known[sandbox.id] = (sandbox, place)
                del self._pooled[sandbox.id]
        self.asked_for.put(sandbox.spec)
        log.info("sandbox claimed", sandbox_id=sandbox.id, name=sandbox.name)

    def _hand_over(self, sandbox: Sandbox, place: Place) -> bool:
        """False where that failed: then it is lost."""
        try:
            if limits := self._driver.limits(sandbox.spec):
                self._driver.set_limits(sandbox.id, limits)
            if sandbox.spec.env:
                place.client.have_spares([])  # They were started without it.
        except (CreateFailed, RuntimeFault) as fault:
            log.warning("claim failed", sandbox_id=sandbox.id, reason=str(fault))
            self.declare_lost(sandbox)
            return False
        self._save(sandbox)
        return True

    def discard(self, sandbox_id: str) -> None:
        """Removes one of the pool, which nobody can claim any more."""
        self._dispose(sandbox_id)

    def all(self) -> list[Sandbox]:
        with self._lock:
            return [sandbox for sandbox, _ in self._known.values()]

    def default_network(self, wanted: Network) -> Network:
        """`wanted`, where this node can give it; as is known once it has tried."""
        self.proven.wait(START_DEADLINE_S)
        return Network.NONE if self.why_no_egress else wanted

    def take(self, sandbox_id: str) -> bool:
        """Claims a new sandbox from `placement` and makes it; False where another node did.

        Also where this one is not ready: who asked for the sandbox asks again.
        """
        if not self.proven.wait(START_DEADLINE_S):
            return False
        if not self.has_room:
            # It was on its way when we stopped reading.
            self._records.send_to_placement(self._records.get(sandbox_id))
            return False
        # The turn comes before its record names this node: till it is over, nobody misses it here.
        with self._turn_if_free(sandbox_id) as is_free:
            sandbox = is_free and self._records.claim_for_node(sandbox_id, self._node_id)
            if not sandbox:
                return False
            if sandbox.state is SandboxState.CREATING:
                self.asked_for.put(sandbox.spec)
                self._try_to_make(sandbox)
            else:
                self._note_removed(sandbox)
            return True

    def make_for_build(self, sandbox: Sandbox) -> Sandbox:
        """Makes a sandbox that is this node's from the first, or finds it. Raises `DriverFault`.

        May be called again after any error.
        """
        with self._turn(sandbox.id):
            known = self.find(sandbox.id)
            if known is not None:
                self._note_running(known)
                return known
            created, _ = self._records.find_or_create(sandbox, may_be_ready=False)
            self._records.claim_for_node(created.id, self._node_id)
            try:
                return self._make(msgspec.structs.replace(created, node=self._node_id))
            except DriverFault as fault:
                self._note_failed(created, fault)
                raise

    def remove(self, sandbox: Sandbox, reason: str = REQUESTED) -> None:
        """Ends its jobs, then removes it with all that it held. Fine where it is gone."""
        with self._turn(sandbox.id):
            self._records.move(sandbox, to=SandboxState.REMOVING, since=THERE, reason=reason)
            message = "The sandbox was removed."
            self._close_jobs(sandbox.id, "sandbox_removed", message)
            self._dispose(sandbox.id)
            self._note_removed(sandbox, reason)
        log.info("sandbox removed", sandbox_id=sandbox.id, name=sandbox.name, reason=reason)

    def stop(self, sandbox: Sandbox, reason: str = REQUESTED) -> None:
        """Ends its jobs and its container; its volume stays. Only where it is `stopping`.

        Raises `DriverUnavailable`, after which it is still `stopping`.
        """
        if self.find(sandbox.id) is None:
            return  # It is gone, or is not adopted yet: then the reaper stops it.
        with self._turn(sandbox.id):
            if self._records.get(sandbox.id).state is not SandboxState.STOPPING:
                return
            self._close_jobs(sandbox.id, "sandbox_stopped", "The sandbox was stopped.")
            self._driver.remove(sandbox.id)
            self._note_place(sandbox.id, SandboxState.STOPPED, None)
            self._records.move(
                sandbox, to=SandboxState.STOPPED, since=(SandboxState.STOPPING,), reason=reason
            )
        log.info("sandbox stopped", sandbox_id=sandbox.id, name=sandbox.name, reason=reason)

    def start(self, sandbox: Sandbox) -> None:
        """Starts what was stopped, on the volume that it had; else it is stopped again."""
        if not self.adopted.is_set():
            return  # The reaper starts it, once it is known what lives here.
        with self._turn(sandbox.id):
            if self._records.get(sandbox.id).state is not SandboxState.CREATING:
                return
            if self.find(sandbox.id) is None:
                self.declare_lost(sandbox)  # Its volume is gone.
                return
            try:
                self._make(sandbox)
            except DriverFault as fault:
                log.warning("sandbox not started", sandbox_id=sandbox.id, reason=str(fault))
                self._note_place(sandbox.id, SandboxState.STOPPED, None)
                self._records.move(
                    sandbox,
                    to=SandboxState.STOPPED,
                    since=(SandboxState.CREATING,),
                    reason="not_started",
                    error=_error_of(fault),
                )

    def pause(self, sandbox: Sandbox) -> None:
        """Freezes all that runs in it. Raises `UnknownSandbox`, `DriverFault`."""
        with self._turn(sandbox.id):
            place = self.place(sandbox.id)
            if self._records.get(sandbox.id).state is not SandboxState.RUNNING:
                return
            place.awake.clear()
            # Before it is frozen: a worker that starts here would take its silence for its end.
            self._note_place(sandbox.id, SandboxState.PAUSED, place)
            self._driver.pause(sandbox.id)
            self._records.move(sandbox, to=SandboxState.PAUSED, since=(SandboxState.RUNNING,))
        log.info("sandbox paused", sandbox_id=sandbox.id, name=sandbox.name)

    def resume(self, sandbox: Sandbox) -> None:
        """Lets what was frozen go on. Raises `UnknownSandbox`, `DriverFault`."""
        with self._turn(sandbox.id):
            place = self.place(sandbox.id)
            if self._records.get(sandbox.id).state is not SandboxState.PAUSED:
                return
            self._wake(sandbox, place)
            self._note_running(sandbox, since=SandboxState.PAUSED)
        log.info("sandbox resumed", sandbox_id=sandbox.id, name=sandbox.name)

    def end_session(self, sandbox_id: str, name: str) -> None:
        """Ends a session's shell, what it left running, and the jobs that wait for it.

        Raises `UnknownSandbox`, `RuntimeFault`.
        """
        line = line_of(sandbox_id, ExecSpec(command="", session=name))
        for job in self._open_jobs(sandbox_id):
            if job.line == line and job.status is Status.QUEUED:
                self._close(job, "session_deleted", "The session was deleted.", expect=job.status)
        self.place(sandbox_id).client.end_session(name)

    def tell_out_of_memory(self, sandbox: Sandbox) -> None:
        """A program in it was ended for want of memory."""
        try:
            self._records.tell(sandbox, SandboxEventType.OUT_OF_MEMORY)
        except StoreUnavailable as fault:
            log.warning("event not told", sandbox_id=sandbox.id, reason=fault.message)

    def give_up(self, sandbox_id: str, place: Place) -> None:
        """Declares a sandbox lost whose container has gone, or whose runtime does not answer."""
        with self._turn(sandbox_id):
            with self._lock:
                sandbox, place_now = self._known.get(sandbox_id, (None, None))
            # Else it was stopped, removed, or started anew, since that was seen.
            if sandbox is not None and place_now is place:
                self.declare_lost(sandbox)

    def declare_lost(self, sandbox: Sandbox) -> None:
        """Ends the jobs of a sandbox that died by itself or behind our back."""
        log.warning("sandbox lost", sandbox_id=sandbox.id, name=sandbox.name)
        message = "The sandbox ended: it was killed, or its runtime died."
        open_jobs = list(self._open_jobs(sandbox.id))
        # Before its jobs end: who is told so by one asks at once for a sandbox that works.
        self._records.move(
            sandbox,
            to=SandboxState.FAILED,
            since=THERE,
            node=self._node_id,
            error=JobError(code=SANDBOX_LOST, message=message, hint=LOST_HINT),
        )
        self._close_all(open_jobs, SANDBOX_LOST, message, hint=LOST_HINT)
        self._dispose(sandbox.id)

    def adopt(self) -> None:
        """Takes back, at the worker's start, what an earlier start of it made.

        Whatever lives is kept, and told to Redis again where Redis has lost it; what has died is
        declared lost. Raises `DriverUnavailable`.
        """
        for directory in existing(self._root):
            saved = directory.load()
            if saved is None:
                # It was being made: its record, if any, says so and nobody waits for it any more.
                self._dispose(directory.sandbox_id)
                continue
            self._adopt_one(directory, saved)
        for sandbox_id in self._driver.sandboxes().keys() - self._known.keys():
            self._dispose(sandbox_id)
        self._compare_with_records()
        self.adopted.set()

    def look_after(self) -> None:
        """One round of the reaper. Raises `DriverUnavailable`."""
        # Known before the driver is asked: what is made meanwhile is not missed by it.
        with self._lock:
            known = [(sandbox, place) for sandbox, place in self._known.values() if place]
        there = self._driver.sandboxes()
        found = there.keys() | {directory.sandbox_id for directory in existing(self._root)}
        for sandbox_id in found - self._known.keys() - self._pooled.keys():
            with self._turn_if_free(sandbox_id) as is_free:
                if is_free and sandbox_id not in self._known.keys() | self._pooled.keys():
                    log.warning("orphan removed", sandbox_id=sandbox_id)
                    self._dispose(sandbox_id)
        for sandbox, place in known:
            if not there.get(sandbox.id):
                self.give_up(sandbox.id, place)
        self._compare_with_records()
        for sandbox in self.pooled():
            if not there.get(sandbox.id):
                self._forget_pooled(sandbox)

    def _forget_pooled(self, sandbox: Sandbox) -> None:
        """One of the pool that has died: whoever has taken it is told so."""
        self._pool.withdraw(pool_kind(sandbox.spec), ready_of(sandbox))
        try:
            record = self._records.get(sandbox.id)
        except SandboxNotFound:
            self.discard(sandbox.id)
            return
        self.declare_lost(record)

    def _adopt_pooled(self, directory: SandboxDirectory, saved: SavedState) -> SavedState | None:
        """As its record has it, where it was taken meanwhile; else it is not kept: None."""
        sandbox = saved.sandbox
        if not self._pool.withdraw(pool_kind(sandbox.spec), ready_of(sandbox)):
            try:
                record = self._records.get(sandbox.id)
            except SandboxNotFound:
                pass
            else:
                place = Place.of(RuntimeClient(directory.socket, saved.token), record.boot_id)
                if not self._hand_over(record, place):
                    return None
                return SavedState(sandbox=record, token=saved.token)
        self._dispose(sandbox.id)
        return None

    def _adopt_one(self, directory: SandboxDirectory, saved: SavedState) -> None:
        if not saved.sandbox.name:
            claimed = self._adopt_pooled(directory, saved)
            if claimed is None:
                return
            saved = claimed
        sandbox = saved.sandbox
        place = self._place_of(directory, saved)
        is_there = place is not None or sandbox.state is SandboxState.STOPPED
        try:
            record = self._records.get(sandbox.id)
        except SandboxNotFound:
            record = sandbox
            if is_there:
                self._records.restore(sandbox)
        self._know(sandbox, place)
        log.info("sandbox adopted", sandbox_id=sandbox.id, state=sandbox.state, there=is_there)
        match record.state:
            case SandboxState.REMOVING | SandboxState.REMOVED | SandboxState.FAILED:
                self.remove(sandbox)
            case SandboxState.STOPPING:
                self.stop(sandbox)
            case _ if not is_there:
                self.declare_lost(sandbox)
            case _:
                pass  # What its record lacks, the comparison tells it.

    def _place_of(self, directory: SandboxDirectory, saved: SavedState) -> Place | None:
        """Where its runtime answers; None where it does not, or is not to."""
        sandbox = saved.sandbox
        if sandbox.state is SandboxState.STOPPED or not self._driver.is_alive(sandbox.id):
            return None
        place = Place.of(RuntimeClient(directory.socket, saved.token), sandbox.boot_id)
        if sandbox.state is SandboxState.PAUSED:
            place.awake.clear()  # Frozen, it answers nobody.
            return place
        try:
            return place if place.client.ping().boot_id == sandbox.boot_id else None
        except RuntimeFault:
            return None

    def _compare_with_records(self) -> None:
        """Carries out what the records say of this node's sandboxes and nobody has done.

        A message may have been lost, and Redis may have been away at any step of a change.
        """
        for sandbox_id in self._nodes.sandboxes_of(self._node_id) | self._known.keys():
            with self._turn_if_free(sandbox_id) as is_free:
                if is_free:
                    self._compare_with_record(sandbox_id)

    def _compare_with_record(self, sandbox_id: str) -> None:
        with self._lock:
            known, place = self._known.get(sandbox_id, (None, None))
        try:
            record = self._records.get(sandbox_id)
        except SandboxNotFound:
            if known is None:
                self._forget(sandbox_id)
            elif not self._restore(known):
                self._rename(known, place)
            return
        if self.is_pooled(sandbox_id):  # Taken, and nobody told us so.
            self.confirm(record)
            return
        match record.state:
            case SandboxState.REMOVING:
                self.remove(record)
            case SandboxState.REMOVED | SandboxState.FAILED:
                self._forget(sandbox_id)
            case _ if known is None:
                self.declare_lost(record)
            case SandboxState.CREATING | SandboxState.PAUSED if place and place.awake.is_set():
                self._note_running(known, since=record.state)
            case SandboxState.RUNNING if place and not place.awake.is_set():
                self._wake(known, place)  # It was to be paused, and nobody was told so.

    def _restore(self, sandbox: Sandbox) -> bool:
        log.warning("redis forgot a sandbox", sandbox_id=sandbox.id, name=sandbox.name)
        return self._records.restore(sandbox)

    def _rename(self, sandbox: Sandbox, place: Place | None) -> None:
        """Keeps one whose name went to another while Redis had forgotten it."""
        name = f"{sandbox.name[:50].rstrip('-')}-{sandbox.id[:8]}"
        log.warning("sandbox renamed", sandbox_id=sandbox.id, name=sandbox.name, new_name=name)
        renamed = msgspec.structs.replace(sandbox, name=name)
        self._note(renamed, place)
        self._restore(renamed)

    def _forget(self, sandbox_id: str) -> None:
        self._dispose(sandbox_id)
        self._records.drop_from_node(sandbox_id, self._node_id)

    def _wake(self, sandbox: Sandbox, place: Place) -> None:
        self._driver.resume(sandbox.id)
        place.awake.set()
        self._note_place(sandbox.id, SandboxState.RUNNING, place)

    def _try_to_make(self, sandbox: Sandbox) -> None:
        try:
            self._make(sandbox)
        except DriverFault as fault:
            log.warning("sandbox not made", sandbox_id=sandbox.id, reason=str(fault))
            self._note_failed(sandbox, fault)

    def _make(self, sandbox: Sandbox) -> Sandbox:
        """Raises `DriverFault`, after which nothing of it is left but the volume that it had."""
        started = self._monotonic()
        made, place = self._make_container(sandbox)
        self._know(made, place)
        duration_ms = int((self._monotonic() - started) * 1000)
        log.info("sandbox made", sandbox_id=made.id, name=made.name, duration_ms=duration_ms)
        if not self._note_running(made) and self._is_unwanted(made.id):
            self.remove(made)
        return made

    def _is_unwanted(self, sandbox_id: str) -> bool:
        """Whether somebody has removed it. A lost answer, or a lost record, does not mean that."""
        try:
            state = self._records.get(sandbox_id).state
        except SandboxNotFound:
            return False
        return state in (SandboxState.REMOVING, SandboxState.REMOVED)

    def _make_container(self, sandbox: Sandbox) -> tuple[Sandbox, Place]:
        """As it is once its runtime answers. The caller has its turn, and makes it known."""
        if not self.proven.wait(START_DEADLINE_S):
            raise DriverUnavailable("the node has not passed its self-test")
        if sandbox.spec.network is not Network.NONE and self.why_no_egress:
            raise EgressUnavailable(self.why_no_egress)
        directory = SandboxDirectory(self._root, sandbox.id)
        had_volume = self.find(sandbox.id) is not None
        try:
            volume_bytes = self._driver.volume_bytes(sandbox.spec)
            if directory.path.exists():
                # What an attempt that was cut short has left, as by an engine that went away.
                self._driver.remove(sandbox.id)
            token = directory.prepare(self._driver.user_id, volume_bytes)
            self._driver.create(sandbox, directory)
            client = RuntimeClient(directory.socket, token)
            boot_id = self._first_ping(sandbox.id, client)
            made = msgspec.structs.replace(sandbox, boot_id=boot_id, state=SandboxState.RUNNING)
            directory.save(SavedState(sandbox=made, token=token))
        except (DriverFault, OSError) as error:
            if had_volume:
                self._driver.remove(sandbox.id)
            else:
                self._dispose(sandbox.id)
            if isinstance(error, DriverFault):
                raise
            raise CreateFailed(f"the sandbox's directory: {error}") from error
        return made, Place.of(client, boot_id)

    def _first_ping(self, sandbox_id: str, client: RuntimeClient) -> str:
        deadline = self._monotonic() + START_DEADLINE_S
        pause_s = FIRST_PING_S
        while True:
            try:
                return client.ping(timeout_s=2.0).boot_id
            except RuntimeFault as fault:
                if self._monotonic() > deadline or (
                    pause_s > 0.1 and not self._driver.is_alive(sandbox_id)
                ):
                    raise CreateFailed(f"its runtime did not start: {fault.message}") from fault
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, 0.2)

    def _close_jobs(self, sandbox_id: str, code: str, message: str) -> None:
        # A build removes its own sandbox, and ends by itself.
        jobs = [job for job in self._open_jobs(sandbox_id) if job.build_sandbox != sandbox_id]
        self._close_all(jobs, code, message)

    def _close_all(self, jobs: Iterable[Job], code: str, message: str, *, hint: str = "") -> None:
        for job in jobs:
            self._close(job, code, message, hint=hint)
            if held := self._held.get(job.id):
                held.release()

    def _open_jobs(self, sandbox_id: str) -> Iterator[Job]:
        for job_id in self._records.open_jobs(sandbox_id):
            try:
                yield self._jobs.get(job_id)
            except JobNotFound:
                pass

    def _close(
        self, job: Job, code: str, message: str, *, hint: str = "", expect: str = ""
    ) -> None:
        error = Error(timestamp=timestamp(), code=code, error=message, hint=hint)
        writer = Writer(job.id, job.line, job.sandbox_id, None)
        self._stream.append(writer, CLOSE, [NumberedEvent(1, error)], expect=expect)

    def _know(self, sandbox: Sandbox, place: Place | None) -> None:
        with self._lock:
            self._known[sandbox.id] = (sandbox, place)

    def _note_place(self, sandbox_id: str, state: SandboxState, place: Place | None) -> None:
        """Writes down, here and on disk, what has become of a sandbox that is known."""
        with self._lock:
            sandbox, former = self._known[sandbox_id]
        if former is not None and place is None:
            _leave(former)
        self._note(msgspec.structs.replace(sandbox, state=state), place)

    def _note(self, sandbox: Sandbox, place: Place | None) -> None:
        self._save(sandbox)
        self._know(sandbox, place)

    def _save(self, sandbox: Sandbox) -> None:
        directory = SandboxDirectory(self._root, sandbox.id)
        saved = directory.load()
        directory.save(SavedState(sandbox=sandbox, token=saved.token if saved else ""))

    def _turn(self, sandbox_id: str) -> threading.RLock:
        """To be taken with `with`, and again by the thread that has it."""
        with self._lock:
            return self._turns.setdefault(sandbox_id, threading.RLock())

    @contextmanager
    def _turn_if_free(self, sandbox_id: str) -> Iterator[bool]:
        """False where another thread changes it just now."""
        turn = self._turn(sandbox_id)
        is_free = turn.acquire(blocking=False)
        try:
            yield is_free
        finally:
            if is_free:
                turn.release()

    def _dispose(self, sandbox_id: str) -> None:
        with self._lock:
            forgotten = (self._pooled.pop(sandbox_id, None), self._known.pop(sandbox_id, None))
        for known in forgotten:
            if known is not None and known[1] is not None:
                _leave(known[1])
        try:
            self._driver.remove(sandbox_id)
        except DriverUnavailable as fault:
            # The directory stays, so that the next start or the reaper tries again.
            log.warning("sandbox not removed yet", sandbox_id=sandbox_id, reason=str(fault))
            return
        SandboxDirectory(self._root, sandbox_id).delete()

    def _note_running(self, made: Sandbox, *, since: SandboxState = SandboxState.CREATING) -> bool:
        return self._records.move(
            made,
            to=SandboxState.RUNNING,
            since=(since,),
            event=SandboxEventType.RESUMED if since is SandboxState.PAUSED else None,
            node=self._node_id,
            boot_id=made.boot_id,
        )

    def _note_removed(self, sandbox: Sandbox, reason: str = REQUESTED) -> None:
        self._records.move(
            sandbox,
            to=SandboxState.REMOVED,
            since=(SandboxState.REMOVING,),
            reason=reason,
            node=self._node_id,
        )

    def _note_failed(self, sandbox: Sandbox, fault: DriverFault) -> None:
        self._records.move(
            sandbox,
            to=SandboxState.FAILED,
            since=(SandboxState.CREATING,),
            node=self._node_id,
            error=_error_of(fault),
        )


def _leave(place: Place) -> None:
    """Nothing is to be run there any more; whoever waits for it to wake sees that itself."""
    place.client.close()
    place.awake.set()


def _error_of(fault: DriverFault) -> JobError:
    return JobError(code=fault.code, message=str(fault), hint=fault.hint)
