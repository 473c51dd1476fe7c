"""What the filter of system calls answers, as the kernel would run it."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from sandbox_runtime.seccomp import DENIED, NEW_NAMESPACES, SystemCallFilter

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM = 0x40000003, 0x40000028
ALLOWED = 0x7FFF0000
CALLS = {
    "x86_64": {"read": 0, "clone": 56, "execve": 59, "socket": 41, "socketpair": 53},
    "aarch64": {"read": 63, "clone": 220, "execve": 221, "socket": 198, "socketpair": 199},
}
CLONE3 = 435


def answer(machine: str, number: int, *, argument: int = 0, seen_as: int | None = None) -> int:
    """0 where a call is allowed, else its errno."""
    seccomp_data = struct.pack(
        "<iIQ6Q", number, MACHINES[machine] if seen_as is None else seen_as, 0, argument, *[0] * 5
    )
    steps = list(struct.iter_unpack("<HBBI", SystemCallFilter(machine).code))
    place = loaded = 0
    while True:
        code, then, otherwise, value = steps[place]
        place += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("<I", seccomp_data, value)
        elif code == 0x06:
            return 0 if value == ALLOWED else value - 0x50000
        else:
            tests = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            place += then if tests[code] else otherwise


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_programs_need_is_allowed(machine: str) -> None:
    threads = 0x3D0F00

    assert answer(machine, CALLS[machine]["read"]) == 0
    assert answer(machine, CALLS[machine]["execve"]) == 0
    assert answer(machine, CALLS[machine]["clone"], argument=threads) == 0


def test_what_is_denied_is_not_permitted(machine: str) -> None:
    column = list(MACHINES).index(machine)
    numbers = [both[column] for both in DENIED.values()]

    assert {answer(machine, number) for number in numbers if number is not None} == {errno.EPERM}


@pytest.mark.parametrize("bit", [bit for bit in range(32) if NEW_NAMESPACES >> bit & 1])
def test_no_flag_of_clone_makes_a_namespace(machine: str, bit: int) -> None:
    assert answer(machine, CALLS[machine]["clone"], argument=1 << bit | 17) == errno.EPERM


def test_libraries_are_told_to_use_clone_whose_flags_can_be_seen(machine: str) -> None:
    assert answer(machine, CLONE3) == errno.ENOSYS


@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_sockets_are_of_the_families_that_sandboxes_need(machine: str, call: str) -> None:
    number = CALLS[machine][call]
    allowed = {family for family in range(64) if answer(machine, number, argument=family) == 0}

    assert allowed == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    assert answer(machine, number, argument=socket.AF_VSOCK) == errno.EAFNOSUPPORT
    # The kernel looks at the lower half alone, and so do we.
    assert answer(machine, number, argument=1 << 32 | socket.AF_VSOCK) == errno.EAFNOSUPPORT


@pytest.mark.parametrize("other", [I386, ARM])
def test_calls_of_another_machine_are_unknown(machine: str, other: int) -> None:
    assert answer(machine, 0, seen_as=other) == errno.ENOSYS


def test_the_calls_of_x32_are_unknown() -> None:
    assert answer("x86_64", 0x40000000) == errno.ENOSYS
    assert answer("x86_64", 0x40000000 + DENIED["ptrace"][0]) == errno.ENOSYS


def test_a_machine_that_we_do_not_know_is_an_error() -> None:
    with pytest.raises(OSError, match="sparc"):
        SystemCallFilter("sparc")
