"""A node's judgement of what its self-test saw from inside a sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.drivers import advice
from workers.drivers.driver import Limits, Promise
from workers.self_test import judge, sections

SANDBOX = "wsnoi7ovq4nimdsd664cuxfv2y"
PROMISE = Promise(limits=Limits(cpus=1, memory_bytes=1024 << 20, pids=512), volume_bytes=2048 << 20)

SEEN = f"""=== /proc/self/status
Name:	cat
Uid:	1000	1000	1000	1000
Gid:	1000	1000	1000	1000
Groups:
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	00000000000000e1
CapAmb:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
Seccomp_filters:	2
=== /proc/self/cgroup
9:name=systemd:/coldframe/ab/{SANDBOX}/c0ffee
8:pids:/coldframe/ab/{SANDBOX}/user
4:memory:/coldframe/ab/{SANDBOX}/user
1:cpu,cpuacct:/coldframe/ab/{SANDBOX}/user
0::/coldframe/ab/{SANDBOX}/user/1-1-argv
=== /proc/self/mountinfo
900 800 0:60 / / ro,relatime - overlay overlay rw,lowerdir=x
901 900 0:61 / /proc rw,nosuid,nodev,noexec - proc proc rw
902 900 7:0 /workspace /workspace rw,nosuid,nodev,noatime - ext4 /dev/loop0 rw,discard
=== /proc/net/dev
Inter-|   Receive
 face |bytes
    lo:       0       0
=== /cg/memory/memory.limit_in_bytes
1073741824
=== /cg/pids/pids.max
512
=== /cg/jobs/memory.max
=== /cg/jobs/pids.max
=== size
516052 4096
=== found
"""


def seen(old: str = "", new: str = "") -> list[str]:
    assert old in SEEN
    return list(judge(sections(SEEN.replace(old, new)), SANDBOX, PROMISE))


def test_a_sandbox_that_is_as_promised_passes() -> None:
    assert seen() == []


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("Uid:\t1000", "Uid:\t0", "user code is root"),
        ("Groups:", "Groups:\t0", "root's group"),
        ("CapEff:\t0000000000000000", "CapEff:\t00000000000000e1", "capabilities (CapEff"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "gain privileges"),
        ("Seccomp:\t2", "Seccomp:\t0", "not filtered"),
        ("Seccomp_filters:\t2", "Seccomp_filters:\t1", "not filtered"),
        (f"pids:/coldframe/ab/{SANDBOX}/user", f"pids:/docker/{SANDBOX}", "control group for pids"),
        ("1073741824", "9223372036854771712", "memory is not limited"),
        ("\n512\n", "\nmax\n", "processes is not limited"),
        ("/ / ro,", "/ / rw,", "root file system"),
        ("/dev/loop0", "/dev/vda", "volume is not bounded"),
        ("516052 4096", "66051072 4096", "volume is not bounded"),
        ("rw,nosuid,nodev,noatime", "rw,noatime", "devices"),
        ("lo:       0", "lo: 0\n  eth0: 0", "has lo, eth0"),
        ("=== found\n", "=== found\n/run/docker.sock\n", "engine's socket"),
    ],
)
def test_each_thing_that_is_not_as_promised_is_found(old: str, new: str, wrong: str) -> None:
    (found,) = seen(old, new)

    assert wrong in found


def test_where_v2_is_alone_one_group_has_all_limits() -> None:
    report = dict(sections(SEEN))
    report["/proc/self/cgroup"] = f"0::/coldframe/ab/{SANDBOX}/user/1-1-argv\n"
    report["/cg/jobs/memory.max"] = report.pop("/cg/memory/memory.limit_in_bytes")
    report["/cg/jobs/pids.max"] = report.pop("/cg/pids/pids.max")
    report |= {"/cg/memory/memory.limit_in_bytes": "", "/cg/pids/pids.max": ""}

    assert list(judge(report, SANDBOX, PROMISE)) == []


GOOD_ENGINE = {"LiveRestoreEnabled": True, "SecurityOptions": ["name=seccomp,profile=default"]}


def test_nothing_is_said_of_a_new_engine_that_is_set_up_well() -> None:
    assert list(advice.of_engine(GOOD_ENGINE, {"Engine": "28.5.2", "runc": "1.3.3"})) == []


@pytest.mark.parametrize(
    ("info", "versions", "said"),
    [
        ({}, {"Engine": "20.10.5+dfsg1"}, "Engine 20.10.5+dfsg1 is older than 20.10.18"),
        ({}, {"runc": "1.1.5+ds1"}, "runc 1.1.5+ds1 is older than 1.2.8"),
        ({}, {"runc": ""}, "runc of no known version"),
        ({"LiveRestoreEnabled": False}, {}, "live-restore is off"),
        ({"SecurityOptions": ["name=apparmor"]}, {}, "filters no system calls"),
    ],
)
def test_an_engine_that_should_be_mended_is_told_of(
    info: dict[str, object], versions: dict[str, str], said: str
) -> None:
    new = {"Engine": "28.5.2", "runc": "1.3.3"}

    (found,) = advice.of_engine({**GOOD_ENGINE, **info}, {**new, **versions})

    assert said in found


def test_a_core_pattern_that_starts_a_program_is_told_of(tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_text("|/usr/lib/crash %p\n")

    (found,) = advice.of_kernel(core)

    assert "core_pattern" in found


@pytest.mark.parametrize(("value", "filtered"), [("1\n", True), ("0\n", False), (None, False)])
def test_a_bridge_is_filtered_where_the_kernel_says_so(
    tmp_path: Path, value: str | None, filtered: bool
) -> None:
    bridge = tmp_path / "bridge"
    if value is not None:
        bridge.write_text(value)

    assert advice.bridges_are_filtered(bridge) is filtered
