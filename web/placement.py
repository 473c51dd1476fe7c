"""Changes the state of sandboxes: writes what is wanted and waits until a node has done it."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from web.admission import Admission
from web.errors import SandboxStarting
from web.readers import Reader, Readers
from workers.contract.errors import (
    EgressUnavailable,
    ImageNotFound,
    NoCapacity,
    NoNode,
    SandboxFailed,
    SandboxNotFound,
    SandboxNotRunning,
    UnsupportedByDriver,
)
from workers.contract.networks import Network, NetworkPolicy
from workers.contract.owners import Limits
from workers.contract.queue import (
    ControlChannel,
    ControlMessage,
    PauseSandbox,
    RemoveSandbox,
    ResumeSandbox,
    StartSandbox,
    StopSandbox,
)
from workers.contract.sandbox_events import REQUESTED
from workers.contract.sandboxes import NodeRecord, Sandbox, SandboxState
from workers.contract.store import THERE, NodeStore, SandboxStore

LOOK_S = 1.0
"""A waiting request looks at the record so often, even if nothing is published."""

SEND_AGAIN_S = 5.0
"""After which a sandbox that no node has claimed is sent to `placement` once more."""

FULL_DRIVER = "docker"

DRIVER_UNAVAILABLE = "driver_unavailable"
"""What a node says of a sandbox that it could not make because its engine was away."""


NO_EGRESS = "egress_unavailable"
"""The same, of one whose network it could not give."""


class Placement:
    """Safe to share between threads."""

    def __init__(
        self,
        *,
        sandboxes: SandboxStore,
        nodes: NodeStore,
        control: ControlChannel,
        readers: Readers,
        admission: Admission,
        create_limit_s: float,
        remove_limit_s: float,
        capacity_limit_s: float,
        limits: Callable[[], Limits],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sandboxes = sandboxes
        self._nodes = nodes
        self._control = control
        self._readers = readers
        self._admission = admission
        self._create_limit_s = create_limit_s
        self._remove_limit_s = remove_limit_s
        self._capacity_limit_s = capacity_limit_s
        self._limits = limits
        self._monotonic = monotonic

    def nodes(self) -> list[NodeRecord]:
        """Those whose heartbeat is fresh. Raises `StoreUnavailable`."""
        return self._nodes.all()

    def check_nodes(
        self, image: str | None = None, network: NetworkPolicy | None = None
    ) -> NetworkPolicy:
        """The network that a sandbox gets on the nodes that are ready; None: what they can give.

        Also whether one of them has `image`; None: any image. Raises `ImageNotFound`,
        `EgressUnavailable`, or `NoNode` with what the nodes say of themselves.
        """
        nodes = self._nodes.all()
        ready = [node for node in nodes if node.ready and not node.drained]
        if not ready:
            problems = [f"{node.id}: {_problem_of(node)}" for node in nodes]
            raise NoNode("; ".join(problems) if problems else "No worker is running.")
        images = sorted({name for node in ready for name in node.images})
        if image is not None and image not in images:
            raise ImageNotFound(
                f"No node that is ready has an image named {image}; there are: {', '.join(images)}."
            )
        has_egress = any(node.egress for node in ready)
        if network is None:
            return Network.EGRESS if has_egress else Network.NONE
        if network is not Network.NONE and not has_egress:
            problems = [f"{node.id}: {node.egress_problem or 'no egress'}" for node in ready]
            raise EgressUnavailable("; ".join(problems))
        return network

    def find(self, owner: str, name: str) -> Sandbox | None:
        """The sandbox of this name that is there, or on its way; None where there is none."""
        try:
            found = self._sandboxes.by_name(owner, name)
        except SandboxNotFound:
            return None
        gone = (SandboxState.FAILED, SandboxState.REMOVED)
        return None if found.state in gone else found

    def find_or_make(self, wanted: Sandbox, network: NetworkPolicy | None) -> tuple[Sandbox, bool]:
        """The sandbox of this name, running or paused, and whether it is the new one.

        One that is stopped is started. A new one gets this `network`; None: what the nodes can
        give. Raises `NoNode`, `ImageNotFound`, `EgressUnavailable`, `TooManySandboxes`,
        `NoCapacity`, `SandboxFailed`, `SandboxStarting`.
        """
        deadline = self._create_deadline()
        while True:
            found = self.find(wanted.owner, wanted.name)
            created = False
            if found is None:
                self._admission.check()
                given = self.check_nodes(wanted.spec.image, network)
                spec = msgspec.structs.replace(wanted.spec, network=given)
                found, created = self._sandboxes.find_or_create(
                    msgspec.structs.replace(wanted, spec=spec), limits=self._limits()
                )
            match found.state:
                case SandboxState.RUNNING | SandboxState.PAUSED:
                    return found, created
                case SandboxState.REMOVING:
                    # Its name is free again once it is gone.
                    self._wait(found, deadline, SandboxState.REMOVED, SandboxState.FAILED)
                case SandboxState.STOPPING:
                    self._wait(found, deadline, SandboxState.STOPPED, SandboxState.FAILED)
                case SandboxState.STOPPED:
                    self._send(found, StartSandbox(found.id), SandboxState.CREATING)
                case _:
                    return self._made(found, deadline), created

    def start(self, sandbox: Sandbox) -> Sandbox:
        """Starts what is stopped; fine where it runs. Raises as `find_or_make`."""
        if sandbox.state is SandboxState.RUNNING:
            return sandbox
        deadline = self._create_deadline()
        if sandbox.state is SandboxState.STOPPED:
            self._send(sandbox, StartSandbox(sandbox.id), SandboxState.CREATING)
        elif sandbox.state is not SandboxState.CREATING:
            raise SandboxNotRunning(sandbox.name, sandbox.state)
        return self._made(sandbox, deadline)

    def stop(self, sandbox: Sandbox) -> Sandbox:
        """Ends what runs in it; fine where it is stopped. Raises `SandboxNotRunning`, `NoNode`."""
        deadline = self._create_deadline()
        if sandbox.state in (SandboxState.RUNNING, SandboxState.PAUSED):
            self._send(sandbox, StopSandbox(sandbox.id), SandboxState.STOPPING)
        elif sandbox.state not in (SandboxState.STOPPING, SandboxState.STOPPED):
            raise SandboxNotRunning(sandbox.name, sandbox.state)
        return self._wait(sandbox, deadline, SandboxState.STOPPED, SandboxState.FAILED)

    def pause(self, sandbox: Sandbox) -> Sandbox:
        """Fine where it is paused. Raises `UnsupportedByDriver`, `SandboxNotRunning`, `NoNode`."""
        self.check_driver(sandbox, "pause a sandbox")
        return self._switch(
            sandbox, PauseSandbox(sandbox.id), SandboxState.RUNNING, SandboxState.PAUSED
        )

    def check_driver(self, sandbox: Sandbox, what: str) -> None:
        """Raises `UnsupportedByDriver` where the driver of its node is not the full one."""
        drivers = {node.id: node.driver for node in self._nodes.all()}
        driver = drivers.get(sandbox.node or "", FULL_DRIVER)
        if driver != FULL_DRIVER:
            raise UnsupportedByDriver(f"The driver {driver} of the node cannot {what}.")

    def resume(self, sandbox: Sandbox) -> Sandbox:
        """Fine where it is not paused. Raises `SandboxNotRunning`, `NoNode`."""
        return self._switch(
            sandbox, ResumeSandbox(sandbox.id), SandboxState.PAUSED, SandboxState.RUNNING
        )

    def remove(self, sandbox: Sandbox) -> bool:
        """Whether it is gone; False where its node has not said so in time."""
        deadline = self._monotonic() + self._remove_limit_s
        # What no node has claimed, or what was never made, has nothing to be taken down.
        unmade = [SandboxState.FAILED]
        if sandbox.node is None:
            unmade.append(SandboxState.CREATING)
        if self._sandboxes.move(sandbox, to=SandboxState.REMOVED, since=unmade):
            node = self._node_of(sandbox)
            if node is not None and sandbox.state is SandboxState.CREATING:
                self._control.send(node, RemoveSandbox(sandbox.id))
            return True
        self._sandboxes.move(
            sandbox,
            to=SandboxState.REMOVING,
            since=THERE,
            reason=REQUESTED,
        )
        node = self._node_of(sandbox)
        if node is not None:
            self._control.send(node, RemoveSandbox(sandbox.id))
        try:
            self._wait(sandbox, deadline, SandboxState.REMOVED, SandboxState.FAILED)
        except SandboxStarting:
            return False
        return True

    def _made(self, sandbox: Sandbox, deadline: float) -> Sandbox:
        with self._readers.open_sandbox(sandbox.id) as reader:
            if sandbox.node is None:
                # Also for one that is found: the message for it may not have been sent.
                self._sandboxes.send_to_placement(sandbox)
                self._wait_for_room(reader, sandbox)
            made = self._wait_with(
                reader,
                sandbox,
                deadline,
                *(SandboxState.RUNNING, SandboxState.STOPPED, SandboxState.FAILED),
            )
        if made is None or made.state is SandboxState.REMOVED:
            raise SandboxFailed(f"The sandbox {sandbox.name} was removed while it was made.")
        if made.state in (SandboxState.FAILED, SandboxState.STOPPED):
            message = made.error.message if made.error else "No reason is known."
            if made.error and made.error.code == DRIVER_UNAVAILABLE:
                raise NoNode(message)
            if made.error and made.error.code == NO_EGRESS:
                raise EgressUnavailable(message)
            raise SandboxFailed(f"The sandbox {sandbox.name} could not be started: {message}")
        return made

    def _wait_for_room(self, reader: Reader, sandbox: Sandbox) -> None:
        """Until a node has it, or has room for it. Raises `NoCapacity`; then it is given up."""
        deadline = self._monotonic() + self._capacity_limit_s
        needs_egress = sandbox.spec.network is not Network.NONE
        while not any(
            node.has_room and (node.egress or not needs_egress) for node in self._nodes.all()
        ):
            if self._sandboxes.get(sandbox.id).node is not None:
                return
            if self._monotonic() > deadline:
                break
            reader.wait_for_message(LOOK_S)
        else:
            return
        if self._sandboxes.move(sandbox, to=SandboxState.FAILED, since=[SandboxState.CREATING]):
            lacking = [f"{node.id}: {_problem_of(node)}" for node in self._nodes.all()]
            raise NoCapacity(f"No node has room for a sandbox. {'; '.join(lacking)}")

    def _switch(
        self, sandbox: Sandbox, message: ControlMessage, since: SandboxState, to: SandboxState
    ) -> Sandbox:
        deadline = self._create_deadline()
        if sandbox.state is since:
            self._send(sandbox, message)
        elif sandbox.state is not to:
            raise SandboxNotRunning(sandbox.name, sandbox.state)
        return self._wait(sandbox, deadline, to, SandboxState.FAILED)

    def _create_deadline(self) -> float:
        return self._monotonic() + self._create_limit_s

    def _send(
        self, sandbox: Sandbox, message: ControlMessage, to: SandboxState | None = None
    ) -> None:
        """Tells the sandbox's node, if it is there, after the record. Raises `NoNode`."""
        if not any(node.id == sandbox.node and node.ready for node in self._nodes.all()):
            raise NoNode(f"The node {sandbox.node} of the sandbox {sandbox.name} is not ready.")
        if to is None or self._sandboxes.move(
            sandbox, to=to, since=(sandbox.state,), reason=REQUESTED
        ):
            self._control.send(sandbox.node or "", message)

    def _wait(self, sandbox: Sandbox, deadline: float, *states: SandboxState) -> Sandbox:
        with self._readers.open_sandbox(sandbox.id) as reader:
            found = self._wait_with(reader, sandbox, deadline, *states)
        if found is None:
            raise SandboxNotFound(f"No sandbox is named {sandbox.name!r}.")
        return found

    def _wait_with(
        self, reader: Reader, sandbox: Sandbox, deadline: float, *states: SandboxState
    ) -> Sandbox | None:
        """The sandbox in one of the states, or removed; None where its record is gone.

        Raises `SandboxStarting`.
        """
        sent = self._monotonic()
        while True:
            try:
                current = self._sandboxes.get(sandbox.id)
            except SandboxNotFound:
                return None
            if current.state in (*states, SandboxState.REMOVED):
                return current
            now = self._monotonic()
            if current.node is None and now - sent > SEND_AGAIN_S:
                # A node that hangs, or is cut off, may have swallowed the message.
                self._sandboxes.send_to_placement(sandbox)
                sent = now
            left_s = deadline - now
            if left_s <= 0:
                raise SandboxStarting(f"The sandbox {sandbox.name} is {current.state.value}.")
            reader.wait_for_message(min(left_s, LOOK_S))

    def _node_of(self, sandbox: Sandbox) -> str | None:
        """As it is now: a node may have claimed it since it was read."""
        try:
            return self._sandboxes.get(sandbox.id).node
        except SandboxNotFound:
            return None


def _problem_of(node: NodeRecord) -> str:
    return node.problem or node.full or ("drained" if node.drained else "not ready")
