"""Does short work on files with the rights of the sandbox's user, in threads of the runtime.

The kernel asks for the rights of a thread, not of a process: what a thread here may open, list or
change is what the user may. It is still a thread of ours (see `opened`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.settings import Settings

THREADS = 4

_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159}

_NOBODY_NEW = 2**32 - 1
"""To setfsuid and setfsgid, which tell of an error by nothing else than the id that stays."""

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


class UserThreads:
    def __init__(self, settings: Settings, programs: UserPrograms) -> None:
        self._programs = programs
        self._gid = settings.gid
        self._switches_user = settings.uid != os.getuid()
        self._pool = ThreadPoolExecutor(
            THREADS, "files", _leave_groups if self._switches_user else None
        )

    async def run(self, user: int, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._as, user, work)

    def close(self) -> None:
        self._pool.shutdown()

    def _as(self, user: int, work: Callable[[], T]) -> T:
        if self._switches_user:
            uid = self._programs.uid_of(user)
            _libc.setfsgid(self._gid)
            _libc.setfsuid(uid)
            ids = (_libc.setfsuid(_NOBODY_NEW), _libc.setfsgid(_NOBODY_NEW))
            if ids != (uid, self._gid):
                raise RuntimeError("the thread did not take on the user's rights")
        return work()


def _leave_groups() -> None:
    """By the bare system call: libc's function would do it for all threads."""
    if _libc.syscall(_SYS_SETGROUPS[os.uname().machine], 0, None) != 0:
        raise OSError(ctypes.get_errno(), "setgroups")
