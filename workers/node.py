"""One node at work: what it is made of, in the order in which it starts and stops."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from sandbox_runtime.protocol.requests import CancelReason
from workers import egress_test, recovery, self_test
from workers.capacity import Room, capacity_of
from workers.contract.clock import timestamp
from workers.contract.connection import connect
from workers.contract.errors import Fault, NodeTaken, StoreUnavailable
from workers.contract.jobs import new_id
from workers.contract.queue import EGRESS_QUEUE, PLACEMENT_QUEUES, ControlChannel
from workers.contract.sandboxes import NodeRecord
from workers.contract.store import JobStore, NodeStore, PoolStore, SandboxStore
from workers.contract.stream import EventStream
from workers.control import Control
from workers.drivers.docker import DockerDriver
from workers.drivers.driver import (
    Driver,
    DriverFault,
    DriverUnavailable,
    EgressUnavailable,
    sandboxes_root,
)
from workers.drivers.local import LocalDriver
from workers.held import HeldJobs
from workers.lifecycle import Sandboxes
from workers.lost_nodes import LostNodes
from workers.pool import Pool
from workers.publisher import Publisher
from workers.reaper import Reaper
from workers.run_build import BuildRunner
from workers.runner import Runner
from workers.settings import Settings

HEARTBEATS = 5
"""As many may be missing before a node counts as not there."""

LOCK_PATIENCE_S = 15.0
LOCK_LOOK_S = 0.5
REAP_ROUND_S = 10.0
DEATHS_PAUSE_S = 0.5
"""Many sandboxes that die at once are looked at once."""

IDLE_ROUND_S = 1.0
POOL_ROUND_S = 0.5
RECOVER_ROUND_S = 2.0
CHECK_ROUND_S = 2.0
SELF_TEST_PAUSE_S = 5.0
EGRESS_TEST_PAUSE_S = 30.0
SPARE_CONNECTIONS = 16

log = structlog.get_logger(__name__)


class Node:
    """The composition root of a worker. Nothing starts before `start`."""

    def __init__(
        self, settings: Settings, *, read_placement: Callable[[set[str]], None] = lambda _: None
    ) -> None:
        """`read_placement`: has this worker read these queues of placement, and no other."""
        self._settings = settings
        self._read_placement = read_placement
        client = connect(settings.store, max_connections=settings.job_limit + SPARE_CONNECTIONS)
        retention_s = settings.store.retention_s
        self._jobs = JobStore(client, retention_s=retention_s)
        self._records = SandboxStore(client, retention_s=retention_s)
        self._nodes = NodeStore(client)
        self._driver = make_driver(settings)
        self._held = HeldJobs()
        stream = EventStream(client, retention_s=retention_s, now=timestamp)
        channel = ControlChannel(client)
        pool = PoolStore(client)
        self.sandboxes = Sandboxes(
            node_id=settings.node_id,
            root=sandboxes_root(settings.state_dir),
            driver=self._driver,
            records=self._records,
            nodes=self._nodes,
            jobs=self._jobs,
            stream=stream,
            held=self._held,
            pool=pool,
        )
        self._reaper = Reaper(
            sandboxes=self.sandboxes,
            records=self._records,
            idle_timeout_s=settings.defaults.idle_timeout_s,
        )
        self._pool = Pool(
            node_id=settings.node_id,
            sandboxes=self.sandboxes,
            driver=self._driver,
            records=self._records,
            store=pool,
            at_least=settings.pool_min,
            at_most=settings.pool_max,
            languages=settings.pool_languages,
        )
        self._publisher = Publisher(
            jobs=self._jobs,
            stream=stream,
            node_id=settings.node_id,
            settle_s=settings.settle_s,
        )
        builds = BuildRunner(
            jobs=self._jobs,
            publisher=self._publisher,
            sandboxes=self.sandboxes,
            default_network=settings.defaults.build_network,
        )
        self.runner = Runner(
            node_id=settings.node_id,
            lease_s=settings.lease_s,
            jobs=self._jobs,
            held=self._held,
            sandboxes=self.sandboxes,
            publisher=self._publisher,
            builds=builds,
        )
        self._control = Control(
            node_id=settings.node_id,
            channel=channel,
            held=self._held,
            sandboxes=self.sandboxes,
            records=self._records,
        )
        self._lost = LostNodes(
            nodes=self._nodes,
            jobs=self._jobs,
            records=self._records,
            stream=stream,
            missing_s=max(0.0, settings.node_lost_s - settings.heartbeat_s * HEARTBEATS),
        )
        self._room = Room(
            sandboxes=settings.sandbox_limit,
            memory_reserve_mb=settings.memory_reserve_mb,
            disk_reserve_mb=settings.defaults.disk_reserve_mb,
        )
        self._epoch = new_id()
        self._holder = ""
        self._drained = False
        self._problem = "starting"
        self._next_self_test_s = 0.0
        self._next_egress_test_s = 0.0
        self._is_egress_proven = False
        self._warnings: list[str] = []
        self._images: list[str] = []
        self._stopped = threading.Event()
        self._lock_file: int | None = None

    def start(self) -> None:
        """Takes the node, then starts its threads. Raises `NodeTaken`."""
        self._lock_file = take_node_lock(self._settings.state_dir)
        self._holder = holder_of(self._settings.state_dir)
        self._take_name()
        self._check_driver()
        for name, body in (
            ("control", self._control.run),
            ("settle", self._publisher.run_settling),
            ("heartbeat", self._every(self._settings.heartbeat_s, self._beat_or_leave)),
            ("check", self._every(CHECK_ROUND_S, self._check)),
            ("lease", self._every(self._settings.renew_s, self._renew)),
            ("orphans", self._every(DEATHS_PAUSE_S, self._look_after)),
            ("reaper", self._every(IDLE_ROUND_S, self._reap)),
            ("pool", self._every(POOL_ROUND_S, self._tend_pool)),
            ("recovery", self._every(RECOVER_ROUND_S, self._recover)),
        ):
            threading.Thread(target=body, name=name, daemon=True).start()
        log.info("node started", node=self._settings.node_id, driver=self._driver.name)

    def _take_name(self) -> None:
        """Raises `NodeTaken` where a worker elsewhere has it, and goes on having it."""
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                self._beat()  # What an earlier start of this node said of itself holds no longer.
            except StoreUnavailable:
                pass
            except NodeTaken:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_LOOK_S)
                continue
            return

    def stop(self) -> None:
        """Lets all jobs go, for the next worker to resume; sandboxes stay."""
        self._stopped.set()
        self._control.stop()
        self._publisher.stop()
        self._held.release_all()
        try:
            self._nodes.leave(self._settings.node_id)
        except StoreUnavailable:
            pass  # The heartbeat expires by itself.
        log.info("node stopped", node=self._settings.node_id)

    def _every(self, pause_s: float, act: Callable[[], None]) -> Callable[[], None]:
        def body() -> None:
            while True:
                try:
                    act()
                except (Fault, DriverFault) as fault:
                    log.warning("node waits", doing=act.__name__, reason=str(fault))
                except Exception:
                    log.exception("node thread failed", doing=act.__name__)
                if self._stopped.wait(pause_s):
                    return

        return body

    def _check(self) -> None:
        before = self._problem, self.sandboxes.why_no_egress
        self._check_driver()
        if (self._problem, self.sandboxes.why_no_egress) != before:
            self._beat()

    def _check_driver(self) -> None:
        try:
            self._warnings = self._driver.check()
            self._images = self._driver.images()
            if not self.sandboxes.adopted.is_set():
                self.sandboxes.adopt()
                recovery.resume_own(self._jobs, self._settings.node_id)
                for place in self.sandboxes.places():
                    self._publisher.settle_left_over(place)
                return  # Its jobs do not wait for the self-test, which the next round is for.
            if not self.sandboxes.proven.is_set():
                self._test_itself()
            self._look_at_egress()
            # With its network known: who is told of none asks for none.
            self.sandboxes.proven.set()
            self._problem = ""
        except DriverFault as fault:
            self._problem = str(fault)
        except Fault as fault:
            self._problem = fault.message

    def _test_itself(self) -> None:
        """Raises `DriverUnavailable`; the same as before where it is too early to try again."""
        if time.monotonic() < self._next_self_test_s:
            raise DriverUnavailable(self._problem)
        self._next_self_test_s = time.monotonic() + SELF_TEST_PAUSE_S
        started_s = time.monotonic()
        root = sandboxes_root(self._settings.state_dir)
        self_test.run(self._driver, root, self.sandboxes.undisturbed)
        duration_ms = int((time.monotonic() - started_s) * 1000)
        log.info("self-test passed", engine=self._driver.engine, duration_ms=duration_ms)

    def _beat_or_leave(self) -> None:
        try:
            self._beat()
        except NodeTaken as fault:
            # It was started while we could not reach Redis: two of one name would both own all.
            log.critical("node's name is another's", node=self._settings.node_id)
            self._problem = fault.message
            os.kill(os.getpid(), signal.SIGTERM)

    def _look_at_egress(self) -> None:
        """Whether sandboxes can have a network, which a node is ready without."""
        before, why_not = self.sandboxes.why_no_egress, self._driver.why_no_egress()
        if why_not:
            self._is_egress_proven = False
            self._next_egress_test_s = 0.0
        elif not self._is_egress_proven:
            if time.monotonic() < self._next_egress_test_s:
                return
            self._next_egress_test_s = time.monotonic() + EGRESS_TEST_PAUSE_S
            try:
                root = sandboxes_root(self._settings.state_dir)
                egress_test.run(self._driver, root, self.sandboxes.undisturbed)
                self._is_egress_proven = True
            except EgressUnavailable as fault:
                why_not = str(fault)
        self.sandboxes.why_no_egress = why_not
        if why_not != before:
            log.info("egress looked at", available=not why_not, problem=why_not)

    def _beat(self) -> None:
        capacity = capacity_of(self._settings.state_dir)
        there = len(self.sandboxes) + len(self.sandboxes.pooled())
        full = self._room.lacking(capacity, there)
        self._drained = self._nodes.beat(
            NodeRecord(
                id=self._settings.node_id,
                driver=self._driver.name,
                ready=not self._problem,
                problem=self._problem,
                images=self._images,
                sandboxes=len(self.sandboxes),
                states=Counter(one.state.value for one in self.sandboxes.all()),
                pooled=len(self.sandboxes.pooled()),
                running_jobs=len(self._held),
                job_limit=self._settings.job_limit,
                heartbeat_at=timestamp(),
                warnings=self._warnings,
                drained=self._drained,
                full=full,
                sandbox_limit=self._settings.sandbox_limit,
                **capacity._asdict(),
                engine=self._driver.engine,
                relay=self._settings.relay,
                preview_url=self._settings.preview_url,
                egress=not self.sandboxes.why_no_egress,
                egress_problem=self.sandboxes.why_no_egress,
            ),
            life_s=self._settings.heartbeat_s * HEARTBEATS,
            holder=self._holder,
        )
        self.sandboxes.has_room = not full and not self._drained
        queues = set(PLACEMENT_QUEUES if self.sandboxes.has_room else ())
        if self.sandboxes.why_no_egress:
            queues.discard(EGRESS_QUEUE)
        self._read_placement(queues)

    def _renew(self) -> None:
        lease_ms = int(self._settings.lease_s * 1000)
        for held in self._held.all():
            lease = self._jobs.renew(held.job, lease_ms)
            if lease.is_over:
                held.cancel(CancelReason.SUPERSEDED)  # Nobody can read what it prints.
            if not lease.held:
                held.release()
            elif lease.cancel and held.cancelled is None:
                # The control message was lost; the record was not.
                held.cancel(CancelReason.CANCELLED)
            else:
                held.pass_on_cancel()

    def _look_after(self) -> None:
        if self.sandboxes.adopted.is_set() and not self._problem:
            self.sandboxes.look_after()
        self._driver.wait_for_death(REAP_ROUND_S)

    def _reap(self) -> None:
        if self.sandboxes.adopted.is_set() and not self._problem:
            self._reaper.look()

    def _tend_pool(self) -> None:
        if self.sandboxes.proven.is_set() and not self._problem:
            self._pool.tend()

    def _recover(self) -> None:
        if self._nodes.lead(self._epoch, life_s=RECOVER_ROUND_S * 3):
            recovery.send_lost(self._jobs)
            self._nodes.count_places()
            self._jobs.release()
            self._lost.look()
        else:
            self._lost.forget()

    def remove_all_sandboxes(self) -> int:
        """Removes every sandbox of this node, for good; how many. The node must not be running."""
        self._lock_file = take_node_lock(self._settings.state_dir)
        self.sandboxes.adopt()
        sandboxes = self.sandboxes.all()
        for sandbox in sandboxes:
            self.sandboxes.remove(sandbox)
        self._driver.leave()
        return len(sandboxes)


def make_driver(settings: Settings) -> Driver:
    if settings.driver == "local":
        return LocalDriver(
            node_id=settings.node_id,
            state_dir=settings.state_dir,
            python=settings.local_python,
            ca_bundle=settings.ca_bundle,
            kernel_idle_s=settings.defaults.kernel_idle_s,
            network=settings.local_network,
        )
    return DockerDriver(
        node_id=settings.node_id,
        state_dir=settings.state_dir,
        defaults=settings.defaults,
        egress=settings.egress,
        ca_bundle=settings.ca_bundle,
    )


def holder_of(state_dir: Path) -> str:
    """What tells this node's worker, whenever it is started, from another of the same name."""
    path = state_dir / "node.id"
    if not path.exists():
        path.write_text(new_id())
    return path.read_text()


def take_node_lock(state_dir: Path, *, patience_s: float = LOCK_PATIENCE_S) -> int:
    """One worker for a node: the lock falls with its process. Raises `NodeTaken`."""
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_dir / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise NodeTaken(f"another worker serves the node in {state_dir}") from error
            time.sleep(0.1)
        else:
            return descriptor
