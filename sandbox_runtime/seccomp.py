"""Denies user code the system calls that no program in a sandbox needs.

The engine's own filter stays beneath, and each call has to pass both. That one is as old as the
engine, and lets through what has been the way out of containers since; under bubblewrap there is
none. So what is denied here is denied on every node: other kinds of sockets and of system calls
(32 bits, x32), namespaces and mounts, the keyring, and what looks into other programs.

A filter is a program for the kernel's packet filter (bpf): it is shown a call's number and
arguments, `struct seccomp_data`, jumps forward only, and returns what becomes of the call. Calls
that it allows by their number alone cost nothing: the kernel remembers them (since 5.11).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from typing import NamedTuple

DENIED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_secret": (447, 447),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}
"""Calls that answer EPERM: their numbers on x86_64 and on aarch64."""

SOCKET_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Others answer EAFNOSUPPORT, as where the kernel has no such sockets."""

NEW_NAMESPACES = 0x7E020000
"""The flags of `clone` that make one: of mounts, cgroups, names, IPC, users, pids, networks."""

X32 = 0x40000000
"""The bit that tells x32's calls from those of x86_64."""

_SOCKET = (41, 198)
_SOCKETPAIR = (53, 199)
_CLONE = (56, 220)
# Its flags lie in memory, where a filter cannot look. Libraries fall back to `clone`.
_CLONE3 = (435, 435)

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Where a call's number is in the tables above, and what the kernel calls the machine."""

_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`; of an argument its lower half, which is all that counts."""

_LOAD, _RETURN = 0x20, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_libc = ctypes.CDLL(None, use_errno=True)


class _Step(NamedTuple):
    """An instruction. A jump names the label to go to, or goes on where the name is empty."""

    code: int
    value: int
    then: str = ""
    otherwise: str = ""


class _Program(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


class SystemCallFilter:
    """A filter that is ready to be installed, also between fork and exec."""

    def __init__(self, machine: str | None = None) -> None:
        """Raises `OSError` for a machine whose system calls we do not know."""
        machine = machine or platform.machine()
        if machine not in _MACHINES:
            raise OSError(errno.ENOSYS, f"no filter of system calls is known for {machine}")
        self.code = _assembled(_filter(*_MACHINES[machine]))
        self._program = _Program(len(self.code) // 8, self.code)

    def install(self) -> None:
        """Filters the calling thread and all that it starts, for good, upon what filters it now.

        No-new-privileges has to be set before. Raises `OSError`.
        """
        if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(self._program), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "system calls cannot be filtered")


def _filter(column: int, machine: int) -> list[_Step | str]:
    """The program; a string is the label of what follows it."""
    denied = [numbers[column] for numbers in DENIED.values()]
    return [
        _Step(_LOAD, _MACHINE),
        _Step(_IF_EQUAL, machine, otherwise="unknown"),
        _Step(_LOAD, _NUMBER),
        _Step(_IF_AT_LEAST, X32, then="unknown"),
        _Step(_IF_EQUAL, _CLONE3[column], then="unknown"),
        _Step(_IF_EQUAL, _CLONE[column], then="clone"),
        _Step(_IF_EQUAL, _SOCKET[column], then="socket"),
        _Step(_IF_EQUAL, _SOCKETPAIR[column], then="socket"),
        *(_Step(_IF_EQUAL, number, then="denied") for number in denied if number is not None),
        _Step(_RETURN, _ALLOW),
        "clone",
        _Step(_LOAD, _FIRST_ARGUMENT),
        _Step(_IF_ANY_BIT, NEW_NAMESPACES, then="denied"),
        _Step(_RETURN, _ALLOW),
        "socket",
        _Step(_LOAD, _FIRST_ARGUMENT),
        *(_Step(_IF_EQUAL, family, then="known family") for family in SOCKET_FAMILIES),
        _Step(_RETURN, _FAIL | errno.EAFNOSUPPORT),
        "known family",
        _Step(_RETURN, _ALLOW),
        "denied",
        _Step(_RETURN, _FAIL | errno.EPERM),
        "unknown",
        _Step(_RETURN, _FAIL | errno.ENOSYS),
    ]


def _assembled(program: list[_Step | str]) -> bytes:
    steps: list[_Step] = []
    places: dict[str, int] = {}
    for line in program:
        if isinstance(line, str):
            places[line] = len(steps)
        else:
            steps.append(line)
    code = b""
    for index, (operation, value, then, otherwise) in enumerate(steps):
        jumps = [places[label] - index - 1 if label else 0 for label in (then, otherwise)]
        code += struct.pack("=HBBI", operation, *jumps, value)
    return code
