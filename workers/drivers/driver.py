"""What a node needs of a driver, and how drivers fail.

DriverFault
├── DriverUnavailable   the engine does not answer, or lacks what sandboxes need
├── EgressUnavailable   the node cannot give a sandbox a network and keep it from its own
└── CreateFailed        this one sandbox could not be started
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from workers.contract import node_files
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.drivers.rules import Reach
from workers.sandbox_directory import SandboxDirectory
from workers.settings import SandboxDefaults
from workers.user_blocks import HOME, UserBlock


class DriverFault(Exception):
    """Base of what drivers raise."""

    code: ClassVar[str] = "driver_fault"
    hint: ClassVar[str] = ""


class DriverUnavailable(DriverFault):
    """The engine does not answer, or lacks what sandboxes need."""

    code = "driver_unavailable"
    hint = "Start the engine on the node (make engine), then try again."


class EgressUnavailable(DriverFault):
    """The node cannot give a sandbox a network and keep it from its own."""

    code = "egress_unavailable"
    hint = "Mend what the node says (GET /v1/nodes), or ask for `network: none`."


class CreateFailed(DriverFault):
    """This one sandbox could not be started."""

    code = "sandbox_failed"
    hint = "The worker's log has the reason."


@dataclass(frozen=True)
class Limits:
    """The most that programs may use together."""

    cpus: float
    memory_bytes: int
    """Swap included, so there is none."""
    pids: int

    def with_those_of(self, other: Limits) -> Limits:
        return Limits(
            cpus=self.cpus + other.cpus,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            pids=self.pids + other.pids,
        )


RUNTIME_LIMITS = Limits(cpus=0.25, memory_bytes=128 * 1024 * 1024, pids=64)
"""What the runtime has beside its user's code: 80 MB at the most were seen, with 32 MiB of output
that nobody had read yet."""


@dataclass(frozen=True)
class Promise:
    """What a driver says of a sandbox, for the node to try."""

    limits: Limits | None
    """User code's own; None: it shares its container's."""
    volume_bytes: int | None


class Driver(Protocol):
    """Makes sandboxes and removes them; knows nothing of jobs. Its methods may take seconds."""

    name: str
    user_id: int | None
    """Owner of all sandboxes' volumes; None: each has users of its own."""

    engine: str
    """What makes the sandboxes, with its version, for a person; empty until `check` has passed."""

    def check(self) -> list[str]:
        """What an operator should know, one warning each. Raises `DriverUnavailable`."""

    def promise(self, spec: SandboxSpec) -> Promise | None:
        """None: it isolates nothing. Raises as `volume_bytes`."""

    def volume_bytes(self, spec: SandboxSpec) -> int | None:
        """How much a sandbox's volume is to hold; None: it is a plain directory, without a bound.

        Raises `DriverUnavailable` where the node's disk is nearly full.
        """

    def why_no_egress(self) -> str:
        """Why no sandbox can be given a network, as `check` has found; empty where one can."""

    def reach(self) -> Reach | None:
        """What is reached besides the internet; None: it filters nothing.

        Raises `EgressUnavailable`.
        """

    def address_of(self, sandbox_id: str) -> str:
        """On the network that it was given. Raises `DriverFault`."""

    def images(self) -> list[str]:
        """Names of the images that sandboxes can start from. Raises `DriverUnavailable`."""

    def image_id(self, name: str) -> str:
        """What an image's name stands for now. Raises `DriverFault`."""

    def create(self, sandbox: Sandbox, directory: SandboxDirectory) -> None:
        """Starts the runtime of a sandbox whose directory is prepared. Raises `DriverFault`.

        It need not answer yet when this returns. Where it raises, nothing is left.
        """

    def limits(self, spec: SandboxSpec) -> Limits | None:
        """User code's own, which can be changed; None: it has none."""

    def set_limits(self, sandbox_id: str, limits: Limits) -> None:
        """Gives the user code of a running sandbox other limits. Raises `DriverFault`."""

    def is_alive(self, sandbox_id: str) -> bool:
        """Raises `DriverUnavailable` where that cannot be known now."""

    def pause(self, sandbox_id: str) -> None:
        """Freezes all that runs in it; fine where it is frozen. Raises `DriverFault`."""

    def resume(self, sandbox_id: str) -> None:
        """Lets it go on; fine where it does. Raises `DriverFault`."""

    def remove(self, sandbox_id: str) -> None:
        """Ends all that runs in a sandbox and removes what `create` made; fine where it is gone."""

    def sandboxes(self) -> Mapping[str, bool]:
        """All sandboxes that exist on this node, by id: whether each is alive.

        Raises `DriverUnavailable`.
        """

    def wait_for_death(self, timeout_s: float) -> None:
        """Returns when a sandbox may have died, at the latest after `timeout_s`.

        Also of one that died since the last call. Raises `DriverUnavailable`.
        """

    def leave(self) -> None:
        """Removes what the node's sandboxes shared, once there are none."""


class RuntimeEnvironment:
    """The runtime's settings, which are the same for every driver."""

    def __init__(self, *, python: str, user_env: str, kernel_idle_s: int) -> None:
        self._python = python
        self._kernel_idle_s = kernel_idle_s
        self._user_env = user_env

    def variables(
        self, users: UserBlock, cgroup: str, *, limits: Iterable[str] = ()
    ) -> dict[str, str]:
        """`cgroup`: below which the runtime makes groups; `limits`: those it puts user code in."""
        return {
            "COLDFRAME_RUNTIME_SOCKET": "/run/coldframe/runtime.sock",
            "COLDFRAME_RUNTIME_TOKEN_FILE": "/run/coldframe/token",
            "COLDFRAME_RUNTIME_UID": str(users.first),
            "COLDFRAME_RUNTIME_GID": str(users.group),
            "COLDFRAME_RUNTIME_USERS": str(users.size),
            "COLDFRAME_RUNTIME_HOME": HOME,
            "COLDFRAME_RUNTIME_USER_ENV": self._user_env,
            "COLDFRAME_RUNTIME_CGROUP": cgroup,
            "COLDFRAME_RUNTIME_LIMITS": ":".join(limits),
            "COLDFRAME_RUNTIME_SCRATCH": "/run/coldframe-scratch",
            "COLDFRAME_RUNTIME_WORKSPACE": "/workspace",
            "COLDFRAME_RUNTIME_PYTHON": self._python,
            "COLDFRAME_RUNTIME_KERNEL_IDLE_S": str(self._kernel_idle_s),
        }


def limits_of(spec: SandboxSpec, defaults: SandboxDefaults) -> Limits:
    """What the user code of a sandbox may use."""
    return Limits(
        cpus=spec.cpus or defaults.cpus,
        memory_bytes=(spec.memory_mb or defaults.memory_mb) * 1024 * 1024,
        pids=spec.pids or defaults.pids,
    )


def owner_of(state_dir: Path, node_id: str) -> str:
    """Tells this node's sandboxes from those of another, or of another checkout, on one machine."""
    return hashlib.sha256(f"{state_dir}\0{node_id}".encode()).hexdigest()[:16]


def sandboxes_root(state_dir: Path) -> Path:
    return state_dir / node_files.SANDBOXES
