"""Starts programs as the sandbox's user and makes sure none outlives its job."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import itertools
import os
import signal
import subprocess
import termios
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sandbox_runtime.limits import UserLimits
from sandbox_runtime.protocol.requests import user_name
from sandbox_runtime.seccomp import SystemCallFilter
from sandbox_runtime.settings import Settings

KILL_TIMEOUT_S = 2.0
"""How long killed processes may take to be gone. One that hangs in the kernel takes longer."""

KILL_POLL_S = 0.005

KILL_ROUNDS = 50
"""Looks for processes that were started while their parents were being killed."""

MEMBERS_READ_BYTES = 4096
"""Enough to see whether a group has a second member."""

USER_UMASK = 0o022

SHARING_UMASK = 0o002
"""Where a sandbox has several users: what one makes, the others may change."""


DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


class JobGroup(ABC):
    """Processes that are killed together: those of a command with its shell, a kernel's."""

    @abstractmethod
    def join(self) -> None:
        """Makes the calling process, just forked, a member."""

    @abstractmethod
    def joined(self, pid: int) -> None:
        """Tells the parent's side that `pid` was started as a member."""

    @abstractmethod
    def adopt(self, pid: int) -> None:
        """Makes a process a member, and what it starts from now on; what it started before is not.

        A process that has ended is ignored.
        """

    @abstractmethod
    def release(self, pid: int) -> None:
        """Lets a process leave; what it started here stays. Then another group adopts it."""

    @abstractmethod
    def send(self, signal_number: int, *, except_pid: int | None = None) -> None:
        """Sends a signal to each member that is there now."""

    @abstractmethod
    def kill_all(self) -> None:
        """Sends SIGKILL to each member, those included that are being started meanwhile."""

    @abstractmethod
    def has_others(self, pid: int) -> bool:
        """Whether it has members besides `pid`. Cheap, so that each command can ask."""

    @abstractmethod
    def remove(self) -> bool:
        """Lets go of the group. False where it still has members, so stays; try again later."""

    async def close(self) -> None:
        """Kills all members, and returns when they are gone and the group is removed."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        self.kill_all()
        # The kernel has no event for "all members are gone" that a socket loop could wait for.
        while not self.remove() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(KILL_POLL_S)


class UserPrograms:
    """Starts the programs of the sandbox's user, and knows the groups that they are in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = UserLimits(settings)
        self._filter = SystemCallFilter()
        self._switches_user = settings.uid != os.getuid()
        self._base_environment = {
            "HOME": str(settings.home),
            "PATH": DEFAULT_PATH,
            **_read_environment(settings.user_env),
        }
        self._groups: set[JobGroup] = set()
        self._numbers = itertools.count(1)

    def environment(self, extra: Mapping[str, str | None], *, user: int = 0) -> dict[str, str]:
        """What a program of the user starts with: the base, changed by `extra`; None unsets."""
        of_other = {} if self.uid_of(user) == self._settings.uid else _environment_of_other(user)
        merged = {**self._base_environment, **of_other, **extra}
        return {name: value for name, value in merged.items() if value is not None}

    def uid_of(self, user: int) -> int:
        """The one that there is, where a sandbox has no others."""
        return self._settings.uid + min(user, self._settings.users - 1)

    @property
    def umask(self) -> int:
        return SHARING_UMASK if self._settings.users > 1 else USER_UMASK

    def give_to_user(self, file: str | int, user: int = 0) -> None:
        """Makes a user the owner of a file of ours, a path or a descriptor.

        From then on we may have no right to open it.
        """
        if self._switches_user:
            os.chown(file, self.uid_of(user), self._settings.gid)

    def share_with_user(self, path: str, mode: int) -> None:
        """Lets the user's group open a file of ours; we stay its owner, so keep our right to it."""
        if self._switches_user:
            os.chown(path, -1, self._settings.gid)
        os.chmod(path, mode)  # noqa: PTH101 - a string is enough

    def killed_by_limits(self) -> int:
        """How many programs of the user's were killed because memory ran out."""
        return self._limits.kills()

    def memory_room(self) -> int:
        """Bytes that the user's programs may still take; very many where nothing limits them."""
        return self._limits.memory_room()

    def new_group(self, name: str) -> JobGroup:
        """An empty group. `name` is for who looks at the tree of cgroups; it need not be unique."""
        group: JobGroup
        if self._settings.cgroup is None:
            group = _ProcessTree(self._groups.discard)
        else:
            printable = "".join(c if c.isalnum() and c.isascii() else "-" for c in name[:40])
            directory = self._settings.cgroup / f"{os.getpid()}-{next(self._numbers)}-{printable}"
            group = _Cgroup(directory, self._groups.discard)
        self._groups.add(group)
        return group

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        pass_fds: Sequence[int] = (),
        group: JobGroup | None,
        user: int = 0,
        as_user: bool = True,
        controlling_terminal: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a session (setsid) of its own. `cwd` is entered as the user.

        Where `cwd` cannot be entered, the program says so on its stderr and exits with 1. Raises
        `OSError` where it cannot be executed. `as_user=False` is for helpers of ours that become
        the user by themselves. `controlling_terminal`: its stdin is to be that. The caller awaits
        `wait`, or the process stays a zombie.
        """
        process = subprocess.Popen(
            argv,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            # Between fork and exec; safe because we fork from the loop's thread alone.
            preexec_fn=self._preparation(
                cwd, group, self.uid_of(user), as_user, controlling_terminal
            ),
        )
        if group is not None:
            group.joined(process.pid)
        return process

    async def wait(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code as a shell tells it: 128 + the signal's number where one ended it."""
        loop = asyncio.get_running_loop()
        if process.poll() is None:
            ended = asyncio.Event()
            descriptor = os.pidfd_open(process.pid)
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        code = process.wait()
        return code if code >= 0 else 128 - code

    async def close(self) -> None:
        """Ends every program that is left."""
        groups = list(self._groups)
        for group in groups:
            group.kill_all()
        await asyncio.gather(*(group.close() for group in groups))

    def _preparation(
        self,
        cwd: str,
        group: JobGroup | None,
        uid: int,
        as_user: bool,
        controlling_terminal: bool,
    ) -> Callable[[], None]:
        gid = self._settings.gid
        umask = self.umask
        switch = as_user and self._switches_user

        def prepare() -> None:
            self._limits.join()
            if group is not None:
                group.join()
            with suppress(OSError):
                _write("/proc/self/oom_score_adj", b"1000")
            if controlling_terminal:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if switch:
                os.setgroups([])
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            os.umask(umask)
            # What we ignore, the program would inherit as ignored.
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            if as_user:
                self._filter.install()
            try:
                os.chdir(cwd)
            except OSError as error:
                message = f"cannot change to directory '{cwd}': {error.strerror}\n"
                os.write(2, message.encode(errors="replace"))
                os._exit(1)

        return prepare


class _Cgroup(JobGroup):
    """A cgroup2 directory: nothing leaves it, whatever it forks and however it daemonizes."""

    def __init__(self, directory: Path, on_removed: Callable[[JobGroup], None]) -> None:
        self._directory = str(directory)
        self._on_removed = on_removed
        self._removed = False
        directory.mkdir(0o700)
        # Kept open: each command asks who is there.
        self._procs = os.open(f"{directory}/cgroup.procs", os.O_RDWR | os.O_CLOEXEC)

    def join(self) -> None:
        os.pwrite(self._procs, b"0", 0)

    def joined(self, pid: int) -> None:
        pass

    def adopt(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.pwrite(self._procs, b"%d" % pid, 0)

    def release(self, pid: int) -> None:
        pass  # It leaves by being adopted elsewhere.

    def send(self, signal_number: int, *, except_pid: int | None = None) -> None:
        members = Path(f"{self._directory}/cgroup.procs").read_text().split()
        _signal([int(pid) for pid in members], signal_number, except_pid)

    def kill_all(self) -> None:
        if not self._removed:
            _write(f"{self._directory}/cgroup.kill", b"1")

    def has_others(self, pid: int) -> bool:
        members = os.pread(self._procs, MEMBERS_READ_BYTES, 0).split()
        return any(member != b"%d" % pid for member in members)

    def remove(self) -> bool:
        if self._removed:
            return True
        try:
            os.rmdir(self._directory)  # noqa: PTH106 - a string is enough
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        self._removed = True
        os.close(self._procs)
        self._on_removed(self)
        return True


class _ProcessTree(JobGroup):
    """Without cgroups: the descendants of the member processes, and their POSIX sessions.

    A daemon that forks twice and calls setsid escapes it until the sandbox is removed.
    """

    def __init__(self, on_removed: Callable[[JobGroup], None]) -> None:
        self._on_removed = on_removed
        self._stays: dict[int, _Stay] = {}

    def join(self) -> None:
        pass  # `joined` does it.

    def joined(self, pid: int) -> None:
        self._stays[pid] = _Stay(since=0)

    def adopt(self, pid: int) -> None:
        if pid not in self._stays or self._stays[pid].until is not None:
            self._stays[pid] = _Stay(since=_ticks())

    def release(self, pid: int) -> None:
        if pid in self._stays:
            self._stays[pid] = _Stay(since=self._stays[pid].since, until=_ticks())

    def send(self, signal_number: int, *, except_pid: int | None = None) -> None:
        _signal(self._members(), signal_number, except_pid)

    def kill_all(self) -> None:
        for _ in range(KILL_ROUNDS):
            members = self._members()
            if not members:
                return
            _signal(members, signal.SIGKILL, except_pid=None)

    def has_others(self, pid: int) -> bool:
        # Its children alone: to read all of /proc takes as long as several commands.
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return True
        started = [process.started for child in children if (process := _process(int(child)))]
        return pid in self._stays and any(map(self._stays[pid].covers, started))

    def remove(self) -> bool:
        if self._members():
            return False
        self._on_removed(self)
        return True

    def _members(self) -> list[int]:
        processes = _processes()
        return [process.pid for process in processes.values() if self._has(process, processes)]

    def _has(self, process: _Process, processes: dict[int, _Process]) -> bool:
        if process.pid in self._stays:
            return self._stays[process.pid].until is None
        return any(
            self._stays[leader].covers(process.started)
            for leader in (process.session, *_ancestors(process, processes))
            if leader in self._stays
        )


class _Stay(NamedTuple):
    """From when to when a process was a member, in the kernel's clock ticks since boot."""

    since: int
    until: int | None = None

    def covers(self, moment: int) -> bool:
        return self.since <= moment and (self.until is None or moment <= self.until)


class _Process(NamedTuple):
    """What `/proc/<pid>/stat` says of a process that has not ended."""

    pid: int
    parent: int
    session: int
    started: int
    """In the kernel's clock ticks since boot."""


def _ticks() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _processes() -> dict[int, _Process]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid: process for pid in pids if (process := _process(pid)) is not None}


def _process(pid: int) -> _Process | None:
    """None where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, which may itself contain anything.
    state, parent, _group, session, *rest = stat.rpartition(")")[2].split()
    if state in "ZX":
        return None
    return _Process(pid, int(parent), int(session), started=int(rest[15]))


def _ancestors(process: _Process, processes: dict[int, _Process]) -> Iterator[int]:
    parent = process.parent
    while parent in processes:
        yield parent
        parent = processes[parent].parent


def _signal(pids: list[int], signal_number: int, except_pid: int | None) -> None:
    for pid in pids:
        if pid != except_pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal_number)


def _environment_of_other(user: int) -> dict[str, str]:
    """What differs where a program is not run by the sandbox's first user."""
    return {
        "USER": user_name(user),
        "LOGNAME": user_name(user),
        # Git takes a repository of another user's for a trap; here users share what is theirs.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }


def _read_environment(path: Path) -> dict[str, str]:
    """The `KEY=VALUE` lines of a file; none where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
