"""Makes sandboxes under bubblewrap, for trusted code on a machine without Docker.

The same runtime, in namespaces of its own, on the machine's own programs. It limits neither memory
nor processes, and what runs in it shares the machine's kernel and user ids: it is not the product's
isolation, and every start says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from workers.contract.networks import Network
from workers.contract.node_files import RUN_MOUNT
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.drivers.cgroups import JOBS, Hierarchies, SandboxCgroups, find_hierarchies
from workers.drivers.driver import (
    CreateFailed,
    DriverUnavailable,
    EgressUnavailable,
    Limits,
    Promise,
    RuntimeEnvironment,
    owner_of,
    sandboxes_root,
)
from workers.drivers.rules import Reach
from workers.drivers.user_environment import (
    DEFAULTS,
    MOUNTED,
    OWN_PROGRAMS,
    user_environment,
    write_user_environment,
)
from workers.sandbox_directory import VOLUME_MOUNTS, SandboxDirectory
from workers.user_blocks import UserBlock

WARNING = (
    "driver local: sandboxes run under bubblewrap on this machine's own programs. "
    "Run only code that you trust."
)
UNFILTERED = (
    "COLDFRAME_LOCAL_NETWORK=host: sandboxes with egress have this machine's own network, "
    "its services on loopback and its private ranges among it."
)
NO_FILTER = "driver local cannot filter what a sandbox reaches"
USER_ID = 1000
"""All sandboxes' one user, where the worker is root: their code is trusted."""

CGROUP_MOUNT = "/cg"
PID_FILE = "bubblewrap.json"
END_TIMEOUT_S = 10.0
LOOK_S = 2.0
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN")
SYSTEM_DIRECTORIES = ("/usr", "/etc", "/opt")
SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")


class LocalDriver:
    """One bubblewrap process for each sandbox, detached from the worker."""

    name = "local"
    engine = "bubblewrap"

    def __init__(
        self,
        *,
        node_id: str,
        state_dir: Path,
        python: Path | None,
        ca_bundle: Path | None,
        kernel_idle_s: int,
        network: str,
    ) -> None:
        self._has_network = network == "host"
        self._root = sandboxes_root(state_dir)
        self._is_root = os.geteuid() == 0
        user, group = (USER_ID, USER_ID) if self._is_root else (os.getuid(), os.getgid())
        self._users = UserBlock(user, group)
        self.user_id: int | None = user
        self._python = python or Path(sys.executable)
        self._ca_bundle = ca_bundle
        found = find_hierarchies() if self._is_root else Hierarchies()
        self._cgroups = SandboxCgroups(found, owner_of(state_dir, node_id))
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._runtime = RuntimeEnvironment(
            python=str(self._python), user_env=MOUNTED, kernel_idle_s=kernel_idle_s
        )

    def check(self) -> list[str]:
        if shutil.which("bwrap") is None:
            raise DriverUnavailable("bubblewrap is not installed (apt-get install bubblewrap)")
        return [WARNING, UNFILTERED] if self._has_network else [WARNING]

    def promise(self, spec: SandboxSpec) -> Promise | None:
        return None

    def volume_bytes(self, spec: SandboxSpec) -> int | None:
        return None

    def why_no_egress(self) -> str:
        return "" if self._has_network else NO_FILTER

    def reach(self) -> Reach | None:
        return None

    def address_of(self, sandbox_id: str) -> str:
        raise EgressUnavailable(NO_FILTER)

    def images(self) -> list[str]:
        return ["default"]

    def image_id(self, name: str) -> str:
        return name

    def create(self, sandbox: Sandbox, directory: SandboxDirectory) -> None:
        network = sandbox.spec.network
        if network is not Network.NONE and not (self._has_network and network is Network.EGRESS):
            raise EgressUnavailable(NO_FILTER)
        path = f"{self._python.parent}:{OWN_PROGRAMS}:{DEFAULTS['PATH']}"
        write_user_environment(directory, user_environment({"PATH": path}, with_certificates=False))
        directory.write("passwd", self._users.passwd())
        arguments = self._arguments(sandbox, directory)
        reading, writing = os.pipe()
        try:
            with (directory.path / "bubblewrap.log").open("wb") as output:
                self._children[sandbox.id] = subprocess.Popen(
                    [*arguments, "--info-fd", str(writing), *_runtime_command()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writing,),
                    start_new_session=True,
                    env={},
                )
        except OSError as error:
            os.close(reading)
            raise CreateFailed(f"bubblewrap does not start: {error}") from error
        finally:
            os.close(writing)
        with os.fdopen(reading, "rb") as info:
            answer = info.read()
        try:
            pid = int(json.loads(answer)["child-pid"])
        except (ValueError, KeyError) as error:
            said = (directory.path / "bubblewrap.log").read_text(errors="replace")[-500:]
            raise CreateFailed(f"bubblewrap failed: {said.strip()}") from error
        saved = {"pid": pid, "started": _start_time(pid)}
        (directory.path / PID_FILE).write_text(json.dumps(saved))

    def limits(self, spec: SandboxSpec) -> Limits | None:
        return None

    def set_limits(self, sandbox_id: str, limits: Limits) -> None:
        pass  # It has none, as its warning says.

    def is_alive(self, sandbox_id: str) -> bool:
        return self._pid(sandbox_id) is not None

    def pause(self, sandbox_id: str) -> None:
        raise CreateFailed("driver local cannot pause a sandbox")

    def resume(self, sandbox_id: str) -> None:
        raise CreateFailed("driver local cannot resume a sandbox")

    def remove(self, sandbox_id: str) -> None:
        # The first process of the PID namespace takes all others with it.
        if pid := self._pid(sandbox_id):
            os.kill(pid, signal.SIGKILL)
        # Bubblewrap ends with it; what an earlier worker started is not ours to wait for.
        if child := self._children.pop(sandbox_id, None):
            child.wait(timeout=END_TIMEOUT_S)
        self._cgroups.remove(sandbox_id)

    def sandboxes(self) -> Mapping[str, bool]:
        there = dict.fromkeys(self._cgroups.sandboxes(), False)
        if self._root.is_dir():
            there |= {path.name: True for path in self._root.iterdir() if self.is_alive(path.name)}
        return there

    def wait_for_death(self, timeout_s: float) -> None:
        time.sleep(min(timeout_s, LOOK_S))  # Nobody tells; looking costs little.

    def leave(self) -> None:
        self._cgroups.leave()

    def _arguments(self, sandbox: Sandbox, directory: SandboxDirectory) -> list[str]:
        arguments = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        arguments += ["--hostname", "sandbox", "--proc", "/proc", "--dev", "/dev"]
        if sandbox.spec.network is Network.NONE:
            arguments.append("--unshare-net")
        for path in SYSTEM_DIRECTORIES:
            arguments += ["--ro-bind-try", path, path]
        for path in SYSTEM_LINKS:
            if Path(path).is_symlink():
                arguments += ["--symlink", str(Path(path).readlink()), path]
            else:
                arguments += ["--ro-bind-try", path, path]
        arguments += ["--ro-bind", str(directory.path / "passwd"), "/etc/passwd"]
        arguments += ["--perms", "1777", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/var"]
        # Their first component lies outside what was bound, so bubblewrap makes the mount points.
        arguments += ["--bind", str(directory.run), RUN_MOUNT]
        for name, at in VOLUME_MOUNTS.items():
            arguments += ["--bind", str(directory.volume / name), at]
        # After the mounts that would hide them; bubblewrap makes parents for root alone (0700).
        programs = _program_directories(self._python)
        for parent in sorted({parent for program in programs for parent in program.parents}):
            if parent != Path("/"):
                arguments += ["--perms", "0755", "--dir", str(parent)]
        for program in programs:
            arguments += ["--ro-bind", str(program), str(program)]
        cgroup = ""
        if jobs := self._cgroups.create(sandbox.id, None).get(JOBS):
            arguments += ["--bind", str(jobs), CGROUP_MOUNT]
            cgroup = CGROUP_MOUNT
        if self._is_root:
            arguments += ["--cap-drop", "ALL"]
            for capability in CAPABILITIES:
                arguments += ["--cap-add", capability]
        arguments += ["--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]
        for name, value in self._runtime.variables(self._users, cgroup).items():
            arguments += ["--setenv", name, value]
        return [*arguments, "--setenv", "PYTHONPATH", "", "--chdir", "/"]

    def _pid(self, sandbox_id: str) -> int | None:
        """None where the sandbox's first process has ended, even if its pid lives again."""
        try:
            saved = json.loads((self._root / sandbox_id / PID_FILE).read_text())
            if _start_time(saved["pid"]) == saved["started"]:
                return int(saved["pid"])
        except (OSError, ValueError, KeyError):
            pass
        return None


def _runtime_command() -> list[str]:
    repository = Path(__file__).parents[2]
    start = (
        "import sys, runpy; "
        f"sys.path.insert(0, {str(repository)!r}); "
        "runpy.run_module('sandbox_runtime', run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-I", "-B", "-c", start]


def _program_directories(user_python: Path) -> list[Path]:
    """What Python needs to be seen at its own path: environments, their base, our packages."""
    repository = Path(__file__).parents[2]
    base = Path(user_python.resolve()).parents[1]
    wanted = [
        Path(sys.prefix),
        Path(sys.base_prefix),
        user_python.parent.parent,
        base,
        repository / "sandbox_runtime",
    ]
    return [
        path
        for path in dict.fromkeys(wanted)
        if not any(path.is_relative_to(system) for system in SYSTEM_DIRECTORIES)
    ]


def _start_time(pid: int) -> str:
    """The kernel's start time of a process: with the pid it names a process for good."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
