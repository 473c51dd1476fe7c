"""Makes sandboxes as Docker containers: the product's driver, and the only caller of Docker."""

from __future__ import annotations

import os
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests
from docker.types import LogConfig, Mount, Ulimit

from workers import mounts
from workers.contract.networks import AllowedNetwork, Network, NetworkPolicy
from workers.contract.node_files import RUN_MOUNT
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.drivers import advice
from workers.drivers.bridges import Bridges
from workers.drivers.cgroups import JOBS, SandboxCgroups, find_hierarchies
from workers.drivers.driver import (
    RUNTIME_LIMITS,
    CreateFailed,
    DriverUnavailable,
    EgressUnavailable,
    Limits,
    Promise,
    RuntimeEnvironment,
    limits_of,
    owner_of,
)
from workers.drivers.resolver import find_reach
from workers.drivers.rules import Bridge, Plan, Reach
from workers.drivers.user_environment import (
    CA_BUNDLE_MOUNT,
    MOUNTED,
    parse_image_environment,
    user_environment,
    write_user_environment,
)
from workers.sandbox_directory import VOLUME_MOUNTS, SandboxDirectory
from workers.settings import EgressSettings, SandboxDefaults

MIB = 1024 * 1024
ENGINE_TIMEOUT_S = 30
CHECK_TIMEOUT_S = 2
API_VERSION = "1.41"
"""Docker Engine 20.10 and later."""
REMOVE_DEADLINE_S = 30.0
RESOLV_CONF_MOUNT = "/etc/resolv.conf"
ALLOW_LABEL = "coldframe.allow"
"""The ranges that a sandbox may reach, which the rules are made of again whenever they are."""
RUNTIME_MOUNT = "/opt/coldframe"
RUNTIME_COMMAND = [
    *(f"{RUNTIME_MOUNT}/bin/python3", "-I", "-B", "-X", "utf8"),
    *("-m", "sandbox_runtime"),
]
CGROUP_MOUNT = "/cg"
RUNTIME_CPU_SHARES = 1024

CAPABILITIES = ["SETUID", "SETGID", "KILL", "CHOWN"]
"""The runtime's. User code has none."""

ALIVE = ("running", "paused")
"""The states of a container whose processes are there."""

SHARED_BYTES = 64 * MIB
"""The most that /tmp and /dev/shm hold, each. It counts as user code's memory."""

MEMORY_MOUNT = "/sys/fs/cgroup/memory"

ULIMITS = {
    "nofile": 4096,
    "core": 0,
    "msgqueue": 0,
    "memlock": 65536,
    "sigpending": 1024,
}


class DockerDriver:
    """Talks to the engine that the environment names (`DOCKER_HOST`), or the local one."""

    name = "docker"
    user_id: int | None = None

    def __init__(
        self,
        *,
        node_id: str,
        state_dir: Path,
        defaults: SandboxDefaults,
        egress: EgressSettings,
        ca_bundle: Path | None,
    ) -> None:
        self._node_id = node_id
        self._state_dir = state_dir
        self._defaults = defaults
        self._egress = egress
        self._ca_bundle = ca_bundle
        self._owner = owner_of(state_dir, node_id)
        self._bridges = Bridges(
            self._owner, [self._bridge_name("egress"), self._bridge_name("allow")]
        )
        self._network_lock = threading.RLock()
        self._why_no_egress = "the node has not made its networks yet"
        self._reach: Reach | None = None
        self._runtime = RuntimeEnvironment(
            python="python3", user_env=MOUNTED, kernel_idle_s=defaults.kernel_idle_s
        )
        self._cgroups = SandboxCgroups(find_hierarchies(), self._owner)
        self._cgroup_driver: str | None = None
        self._image_environments: dict[str, dict[str, str]] = {}
        self.engine = ""
        self._deaths_seen_at = 0.0
        self._advice: list[str] = []
        self._why_plain: str | None = None
        """Why volumes are plain directories; empty where they are not, None: not known yet."""
        self._docker = docker.DockerClient.from_env(timeout=ENGINE_TIMEOUT_S, version=API_VERSION)
        self._probe = docker.DockerClient.from_env(timeout=CHECK_TIMEOUT_S, version=API_VERSION)

    def check(self) -> list[str]:
        try:
            with _engine_errors():
                self._probe.ping()
                if not self.engine:
                    self._ask_engine()
        except DriverUnavailable:
            self.engine = ""  # It may come back as another version.
            self._hold_on()  # Its sandboxes live on.
            raise
        self._hold_networks()
        self.image_id("default")
        self._runtime_tree()
        warnings = [*self._advice, *advice.of_kernel()]
        if self._why_no_egress:
            warnings.append(f"no sandbox can have a network: {self._why_no_egress}")
        if not self._cgroups.kills:
            warnings.append(
                "cgroup v2 cannot be written: what a job leaves behind in a session of its own "
                "(setsid) ends with its sandbox, not with the job"
            )
        if not self._cgroups.limits:
            warnings.append(
                "control groups cannot be written: a sandbox's user code shares its limits with "
                "its runtime, and can end it by using them up"
            )
        if reason := self._why_plain_volumes():
            warnings.append(
                f"volumes are plain directories, without a bound on what user code writes: {reason}"
            )
        return warnings

    def promise(self, spec: SandboxSpec) -> Promise | None:
        return Promise(
            limits=self.limits(spec),
            volume_bytes=self.volume_bytes(spec),
        )

    def volume_bytes(self, spec: SandboxSpec) -> int | None:
        if self._why_plain_volumes():
            return None
        disk = os.statvfs(self._state_dir)
        free_mb = disk.f_bavail * disk.f_frsize // MIB
        if free_mb < self._defaults.disk_reserve_mb:
            raise DriverUnavailable(
                f"the node's disk is nearly full: {free_mb} MiB are free, of which "
                f"{self._defaults.disk_reserve_mb} MiB are kept"
            )
        return (spec.disk_mb or self._defaults.disk_mb) * MIB

    def why_no_egress(self) -> str:
        return self._why_no_egress

    def reach(self) -> Reach:
        if self._reach is None:
            self._reach = find_reach(self._egress)
        return self._reach

    def address_of(self, sandbox_id: str) -> str:
        with _engine_errors():
            container = self._docker.containers.get(_container_name(sandbox_id))
        return _address(container.attrs["NetworkSettings"])

    def images(self) -> list[str]:
        return sorted(self._images())

    def image_id(self, name: str) -> str:
        """The image's id, pinned when it was built; never a tag that can move."""
        images = self._images()
        if name not in images:
            raise CreateFailed(f"no image is named {name!r}; there are {', '.join(images)}")
        return images[name]

    def create(self, sandbox: Sandbox, directory: SandboxDirectory) -> None:
        limits = limits_of(sandbox.spec, self._defaults)
        image_id = self.image_id(sandbox.spec.image)
        image_environment = self._image_environment(image_id)
        network = sandbox.spec.network
        if network is not Network.NONE and self._why_no_egress:
            raise EgressUnavailable(self._why_no_egress)
        write_user_environment(
            directory,
            user_environment(
                image_environment,
                with_certificates=self._ca_bundle is not None,
                # It would reach for `allow` whatever is asked of it.
                proxy=self._egress.proxy if network is Network.EGRESS else "",
            ),
        )
        users = directory.users
        # Memory that a file in them takes is not given back: both full, half of it is left.
        shared_bytes = min(SHARED_BYTES, limits.memory_bytes // 4)
        mounts = [_bind(directory.run, RUN_MOUNT)]
        mounts.append(_bind(self._runtime_tree(), RUNTIME_MOUNT, read_only=True))
        mounts += [_bind(directory.volume / name, at) for name, at in VOLUME_MOUNTS.items()]
        for name, content in (("passwd", users.passwd()), ("group", users.group_file())):
            # Not beside the socket, where a runtime that was taken over could put a link.
            mounts.append(_bind(directory.write(name, content), f"/etc/{name}", read_only=True))
        if self._ca_bundle:
            mounts.append(_bind(self._ca_bundle.resolve(), CA_BUNDLE_MOUNT, read_only=True))
        if network is not Network.NONE:
            # The engine's own resolver knows the names of others; theirs is the only one.
            conf = directory.write("resolv.conf", f"nameserver {self.reach().resolver}\n")
            mounts.append(_bind(conf, RESOLV_CONF_MOUNT, read_only=True))
        try:
            with _engine_errors():
                groups = self._make_groups(sandbox.id, limits)
                mounts += [_bind(group, _group_mount(name)) for name, group in groups.items()]
                if "memory" in groups:
                    # Where Node.js, Java and others look for how much memory they may use; what
                    # the engine shows there is the runtime's little.
                    mounts.append(_bind(groups["memory"], MEMORY_MOUNT, read_only=True))
                container = self._docker.containers.create(
                    image_id,
                    RUNTIME_COMMAND,
                    entrypoint=[],
                    name=_container_name(sandbox.id),
                    hostname="sandbox",
                    user="0:0",
                    working_dir="/",
                    init=True,
                    cap_drop=["ALL"],
                    cap_add=CAPABILITIES,
                    security_opt=["no-new-privileges:true"],
                    ipc_mode="private",
                    shm_size=shared_bytes,
                    **self._network(network),
                    read_only=True,
                    tmpfs=_tmpfs(shared_bytes),
                    mounts=mounts,
                    **self._container_limits(sandbox.id, limits),
                    log_config=LogConfig(type="none"),
                    healthcheck={"test": ["NONE"]},
                    labels={
                        "coldframe.owner": self._owner,
                        "coldframe.node": self._node_id,
                        "coldframe.sandbox": sandbox.id,
                        **_allow_label(network),
                    },
                    environment=_only(
                        self._runtime.variables(
                            users,
                            _group_mount(JOBS) if JOBS in groups else "",
                            limits=[_group_mount(name) for name in groups if name != JOBS],
                        ),
                        image_environment,
                    ),
                )
                with self._listed(network):
                    container.start()
        except Exception as error:
            self.remove(sandbox.id)
            if "bind source path does not exist" in str(error) and directory.volume.is_mount():
                self._why_plain = "the engine does not see what the worker mounts"
                raise DriverUnavailable(f"{self._why_plain}; without it from now on") from error
            raise

    def limits(self, spec: SandboxSpec) -> Limits | None:
        return limits_of(spec, self._defaults) if self._cgroups.limits else None

    def set_limits(self, sandbox_id: str, limits: Limits) -> None:
        try:
            self._cgroups.set_limits(sandbox_id, limits)
        except OSError as error:
            raise CreateFailed(f"its limits could not be set: {error}") from error

    def is_alive(self, sandbox_id: str) -> bool:
        with _engine_errors():
            try:
                container = self._docker.containers.get(_container_name(sandbox_id))
            except docker.errors.NotFound:
                return False
            return container.status in ALIVE

    def pause(self, sandbox_id: str) -> None:
        with _engine_errors():
            container = self._docker.containers.get(_container_name(sandbox_id))
            if container.status != "paused":
                container.pause()
            self._cgroups.freeze(sandbox_id, frozen=True)

    def resume(self, sandbox_id: str) -> None:
        with _engine_errors():
            self._cgroups.freeze(sandbox_id, frozen=False)
            container = self._docker.containers.get(_container_name(sandbox_id))
            if container.status == "paused":
                container.unpause()

    def remove(self, sandbox_id: str) -> None:
        self._remove_container(sandbox_id)
        # After its runtime, which makes groups in it.
        self._cgroups.remove(sandbox_id)

    def sandboxes(self) -> Mapping[str, bool]:
        with _engine_errors():
            containers = self._docker.api.containers(
                all=True, filters={"label": f"coldframe.owner={self._owner}"}
            )
        there = dict.fromkeys(self._cgroups.sandboxes(), False)
        for container in containers:
            there[container["Labels"]["coldframe.sandbox"]] = container["State"] in ALIVE
        return there

    def wait_for_death(self, timeout_s: float) -> None:
        now = time.time()
        since, self._deaths_seen_at = self._deaths_seen_at or now, now
        with _engine_errors():
            deaths = self._docker.api.events(
                since=int(since),
                until=int(now + timeout_s),
                filters={"event": "die", "label": f"coldframe.owner={self._owner}"},
            )
            try:
                next(deaths, None)
            finally:
                deaths.close()

    def leave(self) -> None:
        """Removes what all sandboxes of the node shared."""
        self._cgroups.leave()
        with self._network_lock:
            self._why_no_egress = "the node has left"
            for network in self._docker.networks.list(filters={"label": self._label()}):
                try:
                    network.remove()
                except docker.errors.APIError:
                    pass  # A sandbox that could not be removed is still there, behind its rules.
            if not self._docker.networks.list(filters={"label": self._label()}):
                self._bridges.remove()

    def _ask_engine(self) -> None:
        components = self._probe.version().get("Components", [])
        versions = {component["Name"]: component["Version"] for component in components}
        self._advice = list(advice.of_engine(self._probe.info(), versions))
        runc = versions.get("runc", "of no known version")
        self.engine = f"Docker {versions.get('Engine', '')}, runc {runc}"

    def _why_plain_volumes(self) -> str:
        if self._why_plain is None:
            self._why_plain = mounts.why_not(self._state_dir)
        return self._why_plain

    def _make_groups(self, sandbox_id: str, limits: Limits) -> dict[str, Path]:
        try:
            return self._cgroups.create(sandbox_id, limits)
        except OSError as error:
            raise CreateFailed(f"its control groups: {error}") from error

    def _container_limits(self, sandbox_id: str, limits: Limits) -> dict[str, Any]:
        """The runtime's own, where user code is not in the container's group; else all limits."""
        others: dict[str, Any]
        ulimits = ULIMITS
        if self._cgroups.limits:
            own = RUNTIME_LIMITS
            # Of processors the two have a quota together, in which the runtime comes first.
            others = {"cpu_shares": RUNTIME_CPU_SHARES}
            if self._uses_cgroupfs():
                others["cgroup_parent"] = self._cgroups.parent(sandbox_id)
        else:
            own = limits.with_those_of(RUNTIME_LIMITS)
            others = {"nano_cpus": int(own.cpus * 1e9)}
            # Of each user, and none of root: what is left of the container's is the runtime's.
            ulimits = {**ULIMITS, "nproc": limits.pids}
        return {
            "mem_limit": own.memory_bytes,
            "memswap_limit": own.memory_bytes,
            "pids_limit": own.pids,
            # v2: else the kernel lets nothing leave the container's own group.
            "cgroupns": "host",
            "ulimits": [Ulimit(name=name, soft=most, hard=most) for name, most in ulimits.items()],
            **others,
        }

    def _uses_cgroupfs(self) -> bool:
        """Else systemd keeps the containers' groups, in a tree that is not for us to write to."""
        if self._cgroup_driver is None:
            self._cgroup_driver = self._docker.info()["CgroupDriver"]
        return self._cgroup_driver == "cgroupfs"

    def _remove_container(self, sandbox_id: str) -> None:
        deadline = time.monotonic() + REMOVE_DEADLINE_S
        while True:
            try:
                with _engine_errors():
                    self._docker.api.remove_container(
                        _container_name(sandbox_id), force=True, v=True
                    )
            except _Gone:
                return
            except CreateFailed:
                # 409: another caller is removing it; it is done when it is gone.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def _images(self) -> dict[str, str]:
        """Names and ids."""
        try:
            images = tomllib.loads((self._state_dir / "images.toml").read_text())["images"]
            return {name: str(image_id) for name, image_id in images.items()}
        except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
            raise DriverUnavailable("no sandbox image was built here yet (make up)") from error

    def _image_environment(self, image_id: str) -> dict[str, str]:
        """What the image names for its programs; an id stands for one image for good."""
        if image_id not in self._image_environments:
            with _engine_errors():
                config = self._docker.images.get(image_id).attrs["Config"]
            # An image that was imported may have none at all.
            lines = (config or {}).get("Env") or []
            self._image_environments[image_id] = parse_image_environment(lines)
        return self._image_environments[image_id]

    def _runtime_tree(self) -> Path:
        """What `current` leads to now: a sandbox keeps its own when there is a newer one."""
        try:
            return (self._state_dir / "runtime" / "current").resolve(strict=True)
        except OSError as error:
            raise DriverUnavailable("no runtime was made here yet (make up)") from error

    def _label(self) -> str:
        return f"coldframe.owner={self._owner}"

    def _network(self, network: NetworkPolicy) -> dict[str, Any]:
        if network is Network.NONE:
            return {"network": "none"}
        kind = "allow" if isinstance(network, AllowedNetwork) else "egress"
        return {"network": self._network_name(kind), "dns": [str(self.reach().resolver)]}

    def _network_name(self, kind: str) -> str:
        return f"coldframe-{self._owner}-{kind}"

    def _bridge_name(self, kind: str) -> str:
        """An interface's: 15 characters at the most."""
        return f"cf-{self._owner[:10]}-{kind[0]}"

    def _hold_on(self) -> None:
        """Notes why not, where the rules cannot be held; then nothing passes."""
        try:
            with self._network_lock:
                self._bridges.hold_on()
        except EgressUnavailable as fault:
            self._why_no_egress = str(fault)

    def _hold_networks(self) -> None:
        """Has the networks there, and in front of them the rules; else notes why not."""
        try:
            with self._network_lock:
                self._bridges.check_machine()
                reach = self.reach()
                with _engine_errors():
                    egress, allow = self._bridge("egress"), self._bridge("allow")
                    listed = self._listed_ranges()
                self._bridges.hold(Plan(self._owner, egress, allow, reach, listed))
                self._why_no_egress = ""
        except (EgressUnavailable, CreateFailed) as fault:
            self._bridges.shut()
            self._why_no_egress = str(fault)

    @contextmanager
    def _listed(self, network: NetworkPolicy) -> Iterator[None]:
        """What starts within gets its rules with its address: it has none before."""
        if not isinstance(network, AllowedNetwork):
            yield
            return
        with self._network_lock:
            self._hold_networks()  # An address's former holder is listed no more.
            yield
            self._hold_networks()
            if self._why_no_egress:
                raise EgressUnavailable(self._why_no_egress)

    def _listed_ranges(self) -> dict[str, tuple[str, ...]]:
        filters = {"label": [self._label(), ALLOW_LABEL]}
        return {
            _address(container["NetworkSettings"]): tuple(container["Labels"][ALLOW_LABEL].split())
            for container in self._docker.api.containers(filters=filters)
            if container["State"] in ALIVE
        }

    def _bridge(self, kind: str) -> Bridge:
        name, bridge = self._network_name(kind), self._bridge_name(kind)
        found = self._docker.networks.list(names=[name])
        if not found:
            network = self._docker.networks.create(
                name,
                driver="bridge",
                check_duplicate=True,
                labels=dict([self._label().split("=")]),
                options={
                    # Sandboxes do not reach each other.
                    "com.docker.network.bridge.enable_icc": "false",
                    "com.docker.network.bridge.name": bridge,
                },
            )
            network.reload()
            found = [network]
        (config,) = found[0].attrs["IPAM"]["Config"][:1]
        return Bridge(bridge, IPv4Network(config["Subnet"]))


class _Gone(CreateFailed):
    """The container is not there."""


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Translates what the SDK raises into the driver's errors."""
    try:
        yield
    except docker.errors.NotFound as error:
        raise _Gone(str(error.explanation or error)) from error
    except docker.errors.APIError as error:
        raise CreateFailed(f"the engine refused: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise DriverUnavailable("the Docker engine does not answer") from error


def _bind(source: Path, target: str, *, read_only: bool = False) -> Mount:
    return Mount(target=target, source=str(source), type="bind", read_only=read_only)


def _tmpfs(shared_bytes: int) -> dict[str, str]:
    return {
        # Docker adds noexec unless exec is said.
        "/tmp": f"rw,nosuid,nodev,exec,size={shared_bytes},nr_inodes=16384,mode=1777",
        # Commands and their standard input on their way to a shell.
        "/run": "rw,nosuid,nodev,noexec,size=32m,nr_inodes=16384,mode=755",
    }


def _address(network_settings: Mapping[str, Any]) -> str:
    """A sandbox has one network at most."""
    (network,) = network_settings["Networks"].values()
    return str(network["IPAddress"])


def _allow_label(network: NetworkPolicy) -> dict[str, str]:
    if isinstance(network, AllowedNetwork):
        return {ALLOW_LABEL: " ".join(network.allow)}
    return {}


def _group_mount(name: str) -> str:
    return f"{CGROUP_MOUNT}/{name}"


def _only(variables: dict[str, str], image: dict[str, str]) -> list[str]:
    """`variables`, and nothing of the image's: it could name a library for the runtime to load.

    But for PATH, which serves who looks into a container with `docker exec`.
    """
    unset = [name for name in image if name not in variables and name != "PATH"]
    return [*(f"{name}={value}" for name, value in variables.items()), *unset]


def _container_name(sandbox_id: str) -> str:
    return f"coldframe-{sandbox_id}"
