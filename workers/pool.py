"""Keeps sandboxes ready before anybody asks for them: started, with a shell and spare kernels.

The web takes one in the very script that writes the record of a new sandbox, so nobody waits for a
container. A sandbox of the pool has no owner and no name, and one that was used never comes back.

How many are ready follows what was asked for in the last minute, between two bounds: what was asked
for once is not expected again, what was asked for more often is. The lower bound is kept of the
default kind alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import structlog

from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.requests import ExecRequest, Session
from workers.contract.errors import SandboxNotFound
from workers.contract.jobs import new_id
from workers.contract.networks import Network
from workers.contract.sandboxes import (
    DEFAULT_SESSION,
    Sandbox,
    SandboxSpec,
    pool_kind,
)
from workers.contract.store import PoolStore, SandboxStore, ready_of
from workers.drivers.driver import CreateFailed, Driver
from workers.lifecycle import Sandboxes
from workers.publisher import Place

DEMAND_WINDOW_S = 60.0
WARM_UP_TIMEOUT_MS = 30_000

log = structlog.get_logger(__name__)


class Pool:
    """One thread's: not to be shared."""

    def __init__(
        self,
        *,
        node_id: str,
        sandboxes: Sandboxes,
        driver: Driver,
        records: SandboxStore,
        store: PoolStore,
        at_least: int,
        at_most: int,
        languages: list[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_id = node_id
        self._sandboxes = sandboxes
        self._driver = driver
        self._records = records
        self._store = store
        self._at_least = at_least
        self._at_most = at_most
        self._languages = languages
        self._monotonic = monotonic
        self._asked: deque[tuple[float, SandboxSpec]] = deque()
        self._images: dict[str, str] = {}
        """By sandbox: the image that it was started from."""

    def tend(self) -> None:
        """One round: makes one that is missing, or lets one go that is too many.

        Raises `StoreUnavailable`, `DriverFault`.
        """
        self._compare_with_redis()
        wanted = self._wanted() if self._sandboxes.has_room else {}
        ready: dict[str, list[Sandbox]] = {}
        for sandbox in self._sandboxes.pooled():
            ready.setdefault(pool_kind(sandbox.spec), []).append(sandbox)
        for kind, sandboxes in ready.items():
            _, count = wanted.get(kind, (None, 0))
            stale = [one for one in sandboxes if self._is_out_of_date(one)]
            fresh = [one for one in sandboxes if one not in stale]
            # Of those that are wanted, one at a time is exchanged.
            too_many = max(len(sandboxes) - count, 1 if stale else 0)
            for sandbox in (*stale, *fresh)[:too_many]:
                self._let_go(sandbox)
        for kind, (spec, count) in wanted.items():
            # What is asked for is known at the claim alone: limits must be there to be rewritten.
            if len(ready.get(kind, ())) < count and self._driver.limits(spec) is not None:
                self._add(spec)
                return

    def _wanted(self) -> dict[str, tuple[SandboxSpec, int]]:
        """By kind: how many are to be ready."""
        now = self._monotonic()
        while not self._sandboxes.asked_for.empty():
            self._asked.append((now, self._sandboxes.asked_for.get()))
        while self._asked and self._asked[0][0] < now - DEMAND_WINDOW_S:
            self._asked.popleft()
        default = SandboxSpec(network=self._sandboxes.default_network(Network.EGRESS))
        wanted = {pool_kind(default): (default, self._at_least)}
        left = self._at_most - self._at_least
        once: set[str] = set()
        for _, spec in self._asked:
            if not isinstance(spec.network, Network):
                continue  # Its ranges are its own.
            kind = pool_kind(spec)
            if kind not in once:
                once.add(kind)
            elif left > 0:
                left -= 1
                plain, count = wanted.get(kind, (_plain(spec), 0))
                wanted[kind] = (plain, count + 1)
        return wanted

    def _is_out_of_date(self, sandbox: Sandbox) -> bool:
        image = self._images.get(sandbox.id)
        try:
            return image is not None and image != self._driver.image_id(sandbox.spec.image)
        except CreateFailed:
            return True  # The image was removed.

    def _add(self, spec: SandboxSpec) -> None:
        image = self._driver.image_id(spec.image)
        sandbox, place = self._sandboxes.make_for_pool(spec)
        _warm_up(place, self._languages)
        self._images[sandbox.id] = image
        self._store.add(pool_kind(spec), ready_of(sandbox))

    def _let_go(self, sandbox: Sandbox) -> None:
        """Unless somebody has just taken it."""
        if self._store.withdraw(pool_kind(sandbox.spec), ready_of(sandbox)):
            self._sandboxes.discard(sandbox.id)

    def _compare_with_redis(self) -> None:
        """Claims that nobody told us of are kept; what Redis has forgotten it is told again."""
        pooled = self._sandboxes.pooled()
        there = {sandbox.id for sandbox in pooled}
        listed: dict[str, set[str]] = {}
        for kind in self._store.kinds():
            for ready in self._store.list_of(kind):
                if ready.node == self._node_id and ready.id not in there:
                    self._store.withdraw(kind, ready)  # It was given away, or has died.
                listed.setdefault(kind, set()).add(ready.id)
        for sandbox in pooled:
            kind = pool_kind(sandbox.spec)
            if sandbox.id in listed.get(kind, ()):
                continue
            try:
                self._sandboxes.confirm(self._records.get(sandbox.id))
            except SandboxNotFound:
                if self._sandboxes.is_pooled(sandbox.id) and sandbox.id in self._images:
                    self._store.add(kind, ready_of(sandbox))
        there = {sandbox.id for sandbox in self._sandboxes.pooled()}
        self._images = {id_: image for id_, image in self._images.items() if id_ in there}


def _plain(spec: SandboxSpec) -> SandboxSpec:
    """What sandboxes of one kind have in common."""
    return SandboxSpec(image=spec.image, network=spec.network, disk_mb=spec.disk_mb)


def _warm_up(place: Place, languages: list[str]) -> None:
    """Starts the shell and the kernels that a first command and a first cell would wait for."""
    session = Session(name=DEFAULT_SESSION)
    command = ExecRequest(command=":", session=session, timeout_ms=WARM_UP_TIMEOUT_MS)
    execution, last_n = new_id(), 0
    try:
        with place.client.execution(execution, command, boot_id=place.boot_id) as reader:
            for batch in reader:
                last_n = batch[-1].n
        place.client.acknowledge({execution: last_n})
        place.client.have_spares(languages)
    except RuntimeFault as fault:
        log.warning("sandbox not warmed up", reason=fault.message)
