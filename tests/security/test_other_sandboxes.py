"""What a sandbox sees of its neighbours, and of the one whose place it takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client
from tests.conftest import DRIVER

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local is for trusted code")

MARK = "mark-of-the-other-one"

LEAVE_MARKS = f"""
import ctypes, socket, time
named = socket.socket(socket.AF_UNIX)
named.bind("\\0{MARK}")
named.listen()
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("0.0.0.0", 7777))
server.listen()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.shmget(0x7777, 4096, 0o1666) >= 0
assert libc.msgget(0x7777, 0o1666) >= 0
assert libc.semget(0x7777, 1, 0o1666) >= 0
open("/dev/shm/{MARK}", "w").write("{MARK}")
print("left", flush=True)
time.sleep(600)
"""

LOOK_FOR_MARKS = f"""
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def connects(family, address):
    try:
        socket.socket(family).connect(address)
        return True
    except OSError:
        return False
print("abstract socket", connects(socket.AF_UNIX, "\\0{MARK}"))
print("port", connects(socket.AF_INET, ("127.0.0.1", 7777)))
print("shm", libc.shmget(0x7777, 4096, 0) >= 0)
print("msg", libc.msgget(0x7777, 0) >= 0)
print("sem", libc.semget(0x7777, 1, 0) >= 0)
print("/dev/shm", os.path.exists("/dev/shm/{MARK}"))
print("processes", any(
    b"{MARK}" in open(f"/proc/{{pid}}/cmdline", "rb").read()
    for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()
))
"""

EVERYWHERE = "/workspace /home /app /build /src /test /var/tmp /tmp /dev/shm"


@pytest.fixture(scope="module")
def neighbours(api: Client) -> Iterator[tuple[str, str]]:
    names = ("beside-a", "beside-b")
    for name in names:
        api.sandbox(name)
    yield names
    for name in names:
        api.remove(name)


def test_sandboxes_see_nothing_of_each_others_sockets_memory_and_programs(
    api: Client, neighbours: tuple[str, str]
) -> None:
    first, second = neighbours
    api.exec(first, "cat > marks.py", stdin=LEAVE_MARKS)
    api.exec(first, f"python3 marks.py {MARK} > told & until grep -q left told; do sleep .1; done")

    seen_by_itself = look(api, first)
    seen_by_other = look(api, second)

    assert set(seen_by_itself.values()) == {"True"}
    assert set(seen_by_other.values()) == {"False"}


def test_nothing_of_a_removed_sandbox_is_in_the_next_of_its_name(api: Client) -> None:
    api.sandbox("again")
    leave = f"for d in {EVERYWHERE} ~; do echo {MARK} > $d/{MARK} || true; done 2>/dev/null"
    api.exec("again", f"{leave}; export LEFT={MARK}; left() {{ :; }}; sleep 600 & cd /app")
    api.code("again", f"left = '{MARK}'")
    api.remove("again")

    api.sandbox("again")
    found = api.exec("again", f"find {EVERYWHERE} -name '*{MARK}*'; pwd; echo $LEFT; type left")
    running = api.exec("again", "pgrep -c sleep")
    cell = api.code("again", "left")
    api.remove("again")

    assert found["stdout"] == "/workspace\n\n"
    assert cell["exception"]["name"] == "NameError"
    assert running["stdout"] == "0\n"


def test_the_volume_of_a_new_sandbox_holds_no_bytes_of_another(api: Client) -> None:
    api.sandbox("before", diskMb=64)
    api.exec("before", f"yes {MARK} | head -c 30M > /workspace/f; sync")
    api.remove("before")

    api.sandbox("after", diskMb=64)
    # Space that is given to a file, and was never written.
    found = api.exec(
        "after", f"fallocate -l 40M f || truncate -s 40M f; grep -c {MARK} f; stat -c %s f"
    )
    api.remove("after")

    assert found["stdout"].split() == ["0", str(40 << 20)]


def look(api: Client, name: str) -> dict[str, str]:
    api.exec(name, "cat > look.py", stdin=LOOK_FOR_MARKS)
    lines = api.exec(name, "python3 look.py")["stdout"].splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)
