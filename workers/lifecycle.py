"""Decides when a sandbox of this node is made, kept and removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import structlog

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.events import Error
from workers.clock import timestamp
from workers.contract.errors import JobNotFound, SandboxNotFound
from workers.contract.jobs import ExecSpec, Job, JobError, Status, line_of
from workers.contract.sandboxes import Sandbox, SandboxState
from workers.contract.store import JobStore, NodeStore, SandboxStore
from workers.contract.stream import EventStream, NumberedEvent, Writer
from workers.drivers.driver import CreateFailed, Driver, DriverFault, DriverUnavailable
from workers.held import HeldJobs
from workers.publisher import Place
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
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Sandbox, Place]] = {}
        self._in_the_making: set[str] = set()
        self.proven = threading.Event()
        """Set once the node has passed its self-test; until then it makes no sandbox."""
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
            known = self._known.get(sandbox_id)
        if known is None:
            raise UnknownSandbox(sandbox_id)
        return known[1]

    def all(self) -> list[Sandbox]:
        with self._lock:
            return [sandbox for sandbox, _ in self._known.values()]

    def take(self, sandbox_id: str) -> bool:
        """Claims a new sandbox from `placement` and makes it; False where another node did.

        Also where this one is not ready: who asked for the sandbox asks again.
        """
        if not self.proven.wait(START_DEADLINE_S):
            return False
        sandbox = self._records.claim_for_node(sandbox_id, self._node_id)
        if sandbox is None:
            return False
        if sandbox.state is not SandboxState.CREATING:
            self._note_removed(sandbox)
            return True
        try:
            self._make(msgspec.structs.replace(sandbox, node=self._node_id))
        except DriverFault as fault:
            log.warning("sandbox not made", sandbox_id=sandbox_id, reason=str(fault))
            self._note_failed(sandbox, fault)
        return True

    def make_for_build(self, sandbox: Sandbox) -> Sandbox:
        """Makes a sandbox that is this node's from the first. Raises `DriverFault`."""
        created, _ = self._records.find_or_create(sandbox)
        self._records.claim_for_node(created.id, self._node_id)
        try:
            return self._make(msgspec.structs.replace(created, node=self._node_id))
        except DriverFault as fault:
            self._note_failed(created, fault)
            raise

    def remove(self, sandbox: Sandbox) -> None:
        """Ends its jobs, then removes it with all that it held. Fine where it is gone."""
        self._records.move(
            sandbox,
            to=SandboxState.REMOVING,
            since=(SandboxState.CREATING, SandboxState.RUNNING, SandboxState.REMOVING),
        )
        self._close_jobs(sandbox.id, "sandbox_removed", "The sandbox was removed.", but=sandbox.id)
        self._dispose(sandbox.id)
        self._note_removed(sandbox)
        log.info("sandbox removed", sandbox_id=sandbox.id, name=sandbox.name)

    def end_session(self, sandbox_id: str, name: str) -> None:
        """Ends a session's shell, what it left running, and the jobs that wait for it.

        Raises `UnknownSandbox`, `RuntimeFault`.
        """
        line = line_of(sandbox_id, ExecSpec(command="", session=name))
        for job in self._open_jobs(sandbox_id):
            if job.line == line and job.status is Status.QUEUED:
                self._close(job, "session_deleted", "The session was deleted.", expect=job.status)
        self.place(sandbox_id).client.end_session(name)

    def declare_lost(self, sandbox: Sandbox) -> None:
        """Ends the jobs of a sandbox that died by itself or behind our back."""
        log.warning("sandbox lost", sandbox_id=sandbox.id, name=sandbox.name)
        message = "The sandbox ended: it was killed, or its runtime died."
        self._close_jobs(sandbox.id, "sandbox_lost", message)
        self._dispose(sandbox.id)
        self._records.move(
            sandbox,
            to=SandboxState.FAILED,
            since=(SandboxState.CREATING, SandboxState.RUNNING),
            node=self._node_id,
            error=JobError(code="sandbox_lost", message=message, hint="Create it anew."),
        )

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
        for sandbox_id in self._driver.sandboxes() - {sandbox.id for sandbox in self.all()}:
            self._dispose(sandbox_id)
        self._finish_what_was_begun()
        self.adopted.set()

    def look_after(self) -> None:
        """One round of the reaper. Raises `DriverUnavailable`."""
        # Known before the driver is asked: what is made meanwhile is not missed by it.
        known = self.all()
        there = self._driver.sandboxes()
        with self._lock:
            unknown = there - self._known.keys() - self._in_the_making
        for sandbox_id in unknown:
            log.warning("orphan removed", sandbox_id=sandbox_id)
            self._dispose(sandbox_id)
        for sandbox in known:
            is_gone = sandbox.id not in there or not self._driver.is_alive(sandbox.id)
            if is_gone and self.find(sandbox.id) is not None:
                self.declare_lost(sandbox)

    def _adopt_one(self, directory: SandboxDirectory, saved: SavedState) -> None:
        sandbox = saved.sandbox
        client = RuntimeClient(directory.socket, saved.token)
        try:
            alive = self._driver.is_alive(sandbox.id) and client.ping().boot_id == sandbox.boot_id
        except RuntimeFault:
            alive = False
        try:
            record = self._records.get(sandbox.id)
        except SandboxNotFound:
            record = sandbox
            if alive:
                self._records.restore(sandbox)
        if not alive:
            self.declare_lost(sandbox)
        elif record.state is SandboxState.RUNNING:
            self._know(sandbox, Place(client, sandbox.boot_id))
            log.info("sandbox adopted", sandbox_id=sandbox.id, name=sandbox.name)
        else:
            self.remove(sandbox)

    def _finish_what_was_begun(self) -> None:
        """Records that name this node, for which it has nothing."""
        for sandbox_id in self._nodes.sandboxes_of(self._node_id):
            if self.find(sandbox_id) is not None:
                continue
            try:
                record = self._records.get(sandbox_id)
            except SandboxNotFound:
                continue
            if record.state is SandboxState.REMOVING:
                self.remove(record)
            elif record.state in (SandboxState.CREATING, SandboxState.RUNNING):
                self.declare_lost(record)

    def _make(self, sandbox: Sandbox) -> Sandbox:
        if not self.proven.wait(START_DEADLINE_S):
            raise DriverUnavailable("the node has not passed its self-test")
        directory = SandboxDirectory(self._root, sandbox.id)
        started = self._monotonic()
        with self._lock:
            self._in_the_making.add(sandbox.id)
        try:
            volume_bytes = self._driver.volume_bytes(sandbox.spec)
            token = directory.prepare(self._driver.user_id, volume_bytes)
            self._driver.create(sandbox, directory)
            client = RuntimeClient(directory.socket, token)
            boot_id = self._first_ping(sandbox.id, client)
            made = msgspec.structs.replace(sandbox, boot_id=boot_id, state=SandboxState.RUNNING)
            directory.save(SavedState(sandbox=made, token=token))
            self._know(made, Place(client, boot_id))
        except (DriverFault, OSError) as error:
            self._dispose(sandbox.id)
            if isinstance(error, DriverFault):
                raise
            raise CreateFailed(f"the sandbox's directory: {error}") from error
        finally:
            with self._lock:
                self._in_the_making.discard(sandbox.id)
        wanted = self._records.move(
            made,
            to=SandboxState.RUNNING,
            since=(SandboxState.CREATING,),
            node=self._node_id,
            boot_id=boot_id,
        )
        duration_ms = int((self._monotonic() - started) * 1000)
        log.info("sandbox made", sandbox_id=made.id, name=made.name, duration_ms=duration_ms)
        if not wanted:  # Somebody removed it meanwhile.
            self.remove(made)
        return made

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

    def _close_jobs(self, sandbox_id: str, code: str, message: str, *, but: str = "") -> None:
        for job in self._open_jobs(sandbox_id):
            if job.id == but:
                continue  # A build removes its own sandbox, and ends by itself.
            self._close(job, code, message)
            if held := self._held.get(job.id):
                held.release()

    def _open_jobs(self, sandbox_id: str) -> Iterator[Job]:
        for job_id in self._records.open_jobs(sandbox_id):
            try:
                yield self._jobs.get(job_id)
            except JobNotFound:
                pass

    def _close(self, job: Job, code: str, message: str, *, expect: str = "") -> None:
        error = Error(timestamp=timestamp(), code=code, error=message)
        writer = Writer(job.id, job.line, job.sandbox_id, None)
        self._stream.append(writer, CLOSE, [NumberedEvent(1, error)], expect=expect)

    def _know(self, sandbox: Sandbox, place: Place) -> None:
        with self._lock:
            self._known[sandbox.id] = (sandbox, place)

    def _dispose(self, sandbox_id: str) -> None:
        with self._lock:
            known = self._known.pop(sandbox_id, None)
        if known is not None:
            known[1].client.close()
        try:
            self._driver.remove(sandbox_id)
        except DriverUnavailable as fault:
            # The directory stays, so that the next start or the reaper tries again.
            log.warning("sandbox not removed yet", sandbox_id=sandbox_id, reason=str(fault))
            return
        SandboxDirectory(self._root, sandbox_id).delete()

    def _note_removed(self, sandbox: Sandbox) -> None:
        self._records.move(
            sandbox,
            to=SandboxState.REMOVED,
            since=(SandboxState.REMOVING,),
            node=self._node_id,
        )

    def _note_failed(self, sandbox: Sandbox, fault: DriverFault) -> None:
        self._records.move(
            sandbox,
            to=SandboxState.FAILED,
            since=(SandboxState.CREATING,),
            node=self._node_id,
            error=JobError(code=fault.code, message=str(fault), hint=fault.hint),
        )
