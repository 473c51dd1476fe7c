"""What user code may use, tried by using it up: in its own sandbox, beside a neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client, Event, check_stream
from tests.conftest import DRIVER
from tests.containers import as_runtimes_root
from tests.platform import NODE, Platform
from workers.drivers.driver import Limits
from workers.node import make_driver
from workers.settings import Settings

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local has no limits")

MEMORY_MB = 256
PIDS = 64
BOX = "greedy"

ALLOCATE = "python3 -c 'bytearray({} << 20)'"
FORK_BOMB = "b() { b | b & }; b 2>/dev/null; wait; sleep 60"


@pytest.fixture(scope="module")
def sandbox(api: Client) -> Iterator[Event]:
    yield api.sandbox(BOX, memoryMb=MEMORY_MB, pids=PIDS, cpus=1)
    api.remove(BOX)


@pytest.fixture(scope="module")
def box(sandbox: Event) -> str:
    return str(sandbox["name"])


def test_memory_beyond_the_limit_kills_the_program_and_says_so(api: Client, box: str) -> None:
    received = api.stream(f"/v1/sandboxes/{box}/exec", {"command": ALLOCATE.format(2 * MEMORY_MB)})
    after = api.exec(box, "echo usable")

    check_stream(received)
    assert received[-1].event["exitCode"] == 137
    assert received[-1].event["oomKilled"] is True
    assert after["stdout"] == "usable\n"
    assert "oomKilled" not in after


def test_a_program_that_asks_is_told_the_memory_of_its_sandbox(api: Client, box: str) -> None:
    result = api.exec(box, "node -e 'console.log(process.constrainedMemory() / 2 ** 20)'")

    assert result["stdout"] == f"{MEMORY_MB}\n"


def test_memory_within_the_limit_can_be_used(api: Client, box: str) -> None:
    result = api.exec(box, ALLOCATE.format(MEMORY_MB - 64))

    assert result["exitCode"] == 0


def test_a_kernel_that_memory_ran_out_for_says_so_and_the_next_cell_works(
    api: Client, box: str
) -> None:
    died = api.code(box, f"x = bytearray({2 * MEMORY_MB} << 20)")
    after = api.code(box, "1 + 1")

    assert died["error"]["code"] == "kernel_died"
    assert "memory ran out" in died["error"]["message"]
    assert died["oomKilled"] is True
    assert after["results"][0]["text"] == "2"


def test_many_small_programs_with_a_lowered_score_do_not_take_the_runtime_with_them(
    api: Client, box: str
) -> None:
    small = "import time; x = bytearray(12 << 20); time.sleep(20)"
    api.exec(
        box,
        f"for i in $(seq 40); do (echo -900 > /proc/self/oom_score_adj; exec python3 -c '{small}')"
        " 2>/dev/null & done; wait",
    )

    assert api.exec(box, "echo usable")["stdout"] == "usable\n"


def test_a_fork_bomb_fills_its_own_sandbox_and_a_cancel_clears_it(api: Client, box: str) -> None:
    body = {"argv": ["bash", "-c", FORK_BOMB]}
    bomb = api.submit(f"/v1/sandboxes/{box}/exec", body)
    with api.following(bomb) as events:
        next(events)
    other = api.exec(box, "echo $((6 * 7))")
    api.http.post(f"/v1/jobs/{bomb}/cancel")
    received = api.follow_to_the_end(bomb)
    left = api.exec(box, "ps -e -o user= | grep -c sandbox || true")

    assert other["stdout"] == "42\n"
    assert received[-1].event["code"] == "cancelled"
    assert int(left["stdout"]) < 12


def test_user_code_is_in_groups_of_its_own_beside_the_runtime(
    api: Client, box: str, sandbox: Event
) -> None:
    groups = api.exec(box, "cat /proc/self/cgroup")["stdout"].splitlines()

    limited = [line for line in groups if line.split(":")[1] in ("memory", "pids", "cpu")]
    assert limited
    assert all(line.endswith(f"/{sandbox['id']}/user") for line in limited)


@pytest.mark.parametrize(
    "attempt",
    [
        "echo 99999 > /cg/pids/pids.max",
        "echo -1 > /cg/memory/memory.limit_in_bytes",
        "echo -1 > /cg/cpu/cpu.cfs_quota_us",
        "echo 0 > /cg/memory/cgroup.procs",
        "mkdir /cg/memory/mine",
        "echo 0 > /sys/fs/cgroup/memory/cgroup.procs",
        "echo 1 > /cg/jobs/cgroup.kill",
    ],
)
def test_user_code_cannot_change_its_limits(api: Client, box: str, attempt: str) -> None:
    assert api.exec(box, f"( {attempt} )")["exitCode"] not in (0, None)


def test_a_runtime_that_was_taken_over_stays_under_the_limit_of_the_whole(
    api: Client, box: str, sandbox: Event, platform: Platform
) -> None:
    lifted = as_runtimes_root(
        sandbox,
        "cd /cg/memory; echo -1 > memory.memsw.limit_in_bytes; echo -1 > memory.limit_in_bytes",
    )
    result = api.exec(box, ALLOCATE.format(4 * MEMORY_MB))

    set_limits(platform, sandbox, Limits(cpus=1, memory_bytes=MEMORY_MB << 20, pids=PIDS))
    assert lifted.returncode == 0, lifted.stderr
    assert result["exitCode"] == 137


def test_limits_can_be_rewritten_while_a_sandbox_runs(
    api: Client, box: str, sandbox: Event, platform: Platform
) -> None:
    more = Limits(cpus=2, memory_bytes=4 * MEMORY_MB << 20, pids=2 * PIDS)
    before = Limits(cpus=1, memory_bytes=MEMORY_MB << 20, pids=PIDS)

    set_limits(platform, sandbox, more)
    with_more = api.exec(box, f"{ALLOCATE.format(2 * MEMORY_MB)}; cat /cg/pids/pids.max")
    set_limits(platform, sandbox, before)
    with_less = api.exec(box, ALLOCATE.format(2 * MEMORY_MB))

    assert with_more["stdout"] == f"{2 * PIDS}\n"
    assert "oomKilled" not in with_more
    assert with_less["oomKilled"] is True


def test_nothing_of_its_control_groups_is_left_when_a_sandbox_is_removed(api: Client) -> None:
    sandbox = api.sandbox("passing")
    api.exec("passing", "setsid sleep 600 & true")

    api.remove("passing")

    assert list(Path("/sys/fs/cgroup").glob(f"*/coldframe/*/{sandbox['id']}")) == []


def set_limits(platform: Platform, sandbox: Event, limits: Limits) -> None:
    environ = {"COLDFRAME_STATE_DIR": str(platform.state_dir), "COLDFRAME_NODE": NODE}
    make_driver(Settings.from_env(environ)).set_limits(sandbox["id"], limits)
