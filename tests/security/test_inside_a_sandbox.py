"""What hostile code finds in a sandbox, tried from inside a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client, check_stream, stdout_of
from tests.conftest import DRIVER
from tests.platform import Platform

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local is for trusted code")


@pytest.fixture(scope="module")
def box(api: Client) -> Iterator[str]:
    api.sandbox("hostile")
    yield "hostile"
    api.remove("hostile")


def test_the_engines_socket_is_not_there(api: Client, box: str) -> None:
    found = api.exec(box, "ls /var/run/docker.sock /run/docker.sock 2>/dev/null; echo end")

    assert found["stdout"] == "end\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /workspace",
        "unshare -U true",
        "unshare -n true",
        "chroot / true",
        "mknod /workspace/disk b 8 0",
        "echo 1 > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "dmesg",
        "cat /proc/1/environ",
        "ls /proc/1/root/",
        "ls /opt/coldframe/",
        "ls /run/coldframe/",
        "echo 0 > /cg/cgroup.procs",
        "mkdir /cg/mine",
        "kill -9 1",
        "su -c true",
        "ulimit -n 1000000",
    ],
)
def test_what_leads_out_of_a_sandbox_is_refused(
    api: Client,
    box: str,
    attempt: str,
) -> None:
    result = api.exec(box, f"( {attempt} ) </dev/null")

    assert result["exitCode"] not in (0, None)


def test_no_program_in_the_image_gains_rights_by_its_mode(
    api: Client,
    box: str,
) -> None:
    found = api.exec(box, "find / -xdev -perm /6000 -type f 2>/dev/null; echo end")

    assert found["stdout"] == "end\n"


def test_a_sandbox_without_a_network_reaches_no_service_of_its_host(
    platform: Platform,
    api: Client,
) -> None:
    api.sandbox("without", network="none")
    port = platform.redis_url.rpartition(":")[2].partition("/")[0]
    attempts = "; ".join(
        f"(echo > /dev/tcp/{address}/{port}) 2>/dev/null && echo {address}"
        for address in ("127.0.0.1", "172.17.0.1", "169.254.169.254")
    )

    reached = api.exec("without", f"{attempts}; echo end")
    api.remove("without")

    assert reached["stdout"] == "end\n"


def test_a_sandbox_with_a_network_does_not_reach_the_hosts_redis(
    platform: Platform,
    api: Client,
) -> None:
    api.sandbox("networked", network="egress")
    port = platform.redis_url.rpartition(":")[2].partition("/")[0]

    reached = api.exec(
        "networked",
        "for a in 127.0.0.1 172.17.0.1 $(ip route 2>/dev/null | awk '/default/{print $3}'); do "
        f'timeout 2 bash -c "echo > /dev/tcp/$a/{port}" 2>/dev/null && echo $a; done; echo end',
    )
    api.remove("networked")

    assert reached["stdout"] == "end\n"


def test_output_cannot_forge_an_event(api: Client, box: str) -> None:
    forged = r"""printf '{"n":99,"event":{"type":"complete"}}\n\ndata: {"type":"error"}\n\n'"""

    received = api.stream(f"/v1/sandboxes/{box}/exec", {"command": f"{forged}; (exit 5)"})

    check_stream(received)
    assert received[-1].event["exitCode"] == 5
    assert stdout_of(received).startswith('{"n":99')


def test_a_report_forged_on_a_descriptor_changes_no_other_job(
    api: Client,
    box: str,
) -> None:
    scribble = (
        "for fd in /proc/$$/fd/*; do printf '\\0000 1 0 /\\000' > $fd; done 2>/dev/null; true"
    )
    api.exec(box, scribble)

    after = api.exec(box, "echo sound; (exit 4)")

    assert (after["stdout"], after["exitCode"]) == ("sound\n", 4)


def test_killing_everything_that_it_may_does_not_end_the_sandbox(api: Client, box: str) -> None:
    api.exec(box, "left=over; sleep 600 &")

    received = api.stream(f"/v1/sandboxes/{box}/exec", {"command": "kill -9 -1; kill -9 $$"})
    after = api.exec(box, "echo alive $left")

    check_stream(received)
    assert received[-1].event["code"] == "session_exited"
    assert received[-1].event["exitCode"] == 137
    assert after["stdout"] == "alive\n"
