"""What the kernel refuses to user code, and to a runtime that was taken over."""

from __future__ import annotations

import errno
import json
import platform as machine
from collections.abc import Iterator

import pytest

from sandbox_runtime.seccomp import DENIED
from tests.client import Client, Event
from tests.conftest import DRIVER
from tests.containers import as_runtimes_root

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local is for trusted code")

BOX = "caller"
X86_64 = machine.machine() == "x86_64"
COLUMN = 0 if X86_64 else 1

CALL = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number):
    ctypes.set_errno(0)
    libc.syscall(number, 0, 0, 0, 0, 0, 0)
    return ctypes.get_errno()
print(json.dumps({name: call(number) for name, number in json.loads(sys.argv[1]).items()}))
"""

# mov $20, %eax (getpid, by the numbers of 32 bits); int $0x80; ret
INT_80 = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))
function = ctypes.CFUNCTYPE(ctypes.c_int)
print(function(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""

SOCKETS = """
import errno, socket
for name in ("AF_VSOCK", "AF_ALG", "AF_PACKET", "AF_BLUETOOTH", "AF_CAN", "AF_KEY", "AF_TIPC"):
    try:
        socket.socket(getattr(socket, name, 15), socket.SOCK_RAW)
        print(name)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            print(name, error)
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
    socket.socket(family, socket.SOCK_STREAM).close()
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
"""

INTO_ANOTHER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(8)
vector = iovec(ctypes.addressof(buffer), 8)
for pid in map(int, sys.argv[1:]):
    for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
        assert libc.ptrace(request, pid, 0, 0) == -1 and ctypes.get_errno() == 1
    for number in (310, 311) if os.uname().machine == "x86_64" else (270, 271):
        done = libc.syscall(number, pid, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)
        assert done == -1 and ctypes.get_errno() == 1
    for signal in (9, 19, 2, 15, 1):
        try:
            os.kill(pid, signal)
            print("sent", signal)
        except PermissionError:
            pass
"""

WORKS = """
import asyncio, concurrent.futures, multiprocessing, sqlite3, ssl, subprocess, tempfile, threading

def square(n):
    return n * n

async def both():
    process = await asyncio.create_subprocess_exec("true")
    return await process.wait()

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(square, [1, 2, 3]) == [1, 4, 9]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(square, [2])) == [4]
    assert asyncio.run(both()) == 0
    assert sqlite3.connect("sql.db").execute("select 1").fetchone() == (1,)
    ssl.create_default_context()
    print("works")
"""


@pytest.fixture(scope="module")
def sandbox(api: Client) -> Iterator[Event]:
    yield api.sandbox(BOX)
    api.remove(BOX)


def python(api: Client, program: str, *arguments: str) -> str:
    """What a program prints in the sandbox; it has to end well."""
    result = api.http.post(
        f"/v1/sandboxes/{BOX}/exec", json={"argv": ["python3", "-c", program, *arguments]}
    ).json()
    assert result["exitCode"] == 0, result
    return str(result["stdout"])


def test_system_calls_that_no_program_needs_are_not_permitted(api: Client, sandbox: Event) -> None:
    numbers = {name: both[COLUMN] for name, both in DENIED.items() if both[COLUMN] is not None}

    answers = json.loads(python(api, CALL, json.dumps(numbers)))

    assert {name: answers[name] for name in answers if answers[name] != errno.EPERM} == {}


@pytest.mark.skipif(not X86_64, reason="the calls are x86's")
def test_the_calls_of_other_abis_are_unknown(api: Client, sandbox: Event) -> None:
    x32 = json.loads(python(api, CALL, json.dumps({"getpid": 0x40000000 + 39})))

    assert x32 == {"getpid": errno.ENOSYS}
    assert python(api, INT_80) == f"-{errno.ENOSYS}\n"


def test_sockets_are_of_the_families_that_sandboxes_need(api: Client, sandbox: Event) -> None:
    assert python(api, SOCKETS) == ""


def test_everything_that_the_user_runs_is_filtered_twice_and_has_no_rights(
    api: Client, sandbox: Event
) -> None:
    """Shells, programs, kernels, and what speaks with them."""
    api.exec(BOX, "sleep 600 &")
    api.code(BOX, "import subprocess; sleeps = subprocess.Popen(['sleep', '600'])")
    wanted = "Name|Uid|CapEff|CapPrm|CapInh|NoNewPrivs|Seccomp_filters"

    seen = as_runtimes_root(
        sandbox, f"for p in /proc/[0-9]*; do echo =; grep -E '^({wanted}):' $p/status; done"
    ).stdout
    processes = [
        dict(line.split(":\t", 1) for line in part.splitlines())
        for part in seen.split("=\n")
        if part
    ]
    of_user = [process for process in processes if not process["Uid"].startswith("0\t")]

    assert {process["Name"] for process in of_user} >= {"bash", "sleep", "python3"}
    for process in of_user:
        rights = {name: process[name] for name in process if name not in ("Name", "Uid")}
        assert rights == {
            "CapInh": "0" * 16,
            "CapPrm": "0" * 16,
            "CapEff": "0" * 16,
            "NoNewPrivs": "1",
            "Seccomp_filters": "2",
        }, process


def test_user_code_can_neither_trace_nor_signal_the_runtime_and_its_init(
    api: Client, sandbox: Event
) -> None:
    found = api.exec(BOX, "stat -c '%u %n' /proc/[0-9]* | sed -n 's,^0 /proc/,,p'")
    pids = found["stdout"].split()

    assert len(pids) >= 2  # The init and the runtime.
    assert python(api, INTO_ANOTHER, *pids) == ""
    assert api.exec(BOX, "echo answers")["stdout"] == "answers\n"


def test_what_people_run_works_under_the_filter(api: Client, sandbox: Event) -> None:
    api.exec(BOX, "cat > works.py", stdin=WORKS)
    api.exec(BOX, "cat > works.js", stdin=WORKS_JS)

    assert api.exec(BOX, "python3 works.py")["stdout"] == "works\n"
    assert api.exec(BOX, "node works.js")["stdout"] == "works\n"
    built = api.exec(
        BOX,
        'printf \'#include <pthread.h>\\n#include <stdio.h>\\nvoid *f(void *a) { puts("works");'
        " return a; }\\nint main() { pthread_t t; pthread_create(&t, 0, f, 0); pthread_join(t, 0);"
        " }' > t.c; gcc -pthread t.c -o t && ./t",
    )
    assert built["stdout"] == "works\n", built


WORKS_JS = """
const { Worker, isMainThread } = require("worker_threads");
if (isMainThread) {
  require("fs/promises").readFile(__filename).then(() =>
    new Worker(__filename).on("exit", () =>
      require("child_process").execFile("true", () => console.log("works"))));
}
"""

AS_ROOT = [
    "mount -t tmpfs none /mnt",
    "mount -o remount,rw /",
    "mount --bind /proc /mnt",
    "umount /etc/passwd",
    "unshare -U true",
    "unshare -n true",
    "unshare -m true",
    "nsenter -t 1 -n true",
    "chroot / true",
    "mknod /workspace/disk b 8 0",
    "echo x > /proc/sys/kernel/core_pattern",
    "echo b > /proc/sysrq-trigger",
    "echo 1 > /sys/fs/cgroup/memory/notify_on_release",
    "echo x > /sys/fs/cgroup/memory/release_agent",
    "echo 0 > /proc/sys/kernel/randomize_va_space",
    "dmesg",
    "chrt -f 1 true",
    "nice -n -5 true 2>&1 | grep -v 'cannot set niceness'",
    "hostname other",
    "date -s 2001-01-01",
    "sh -c 'ulimit -n 1000000'",
    "cat /dev/mem",
    "cat /dev/kmsg",
    "ls /run/docker.sock",
    "grep -v '^0000000000000000 ' /proc/kallsyms",
    "find /sys -type f -writable -exec sh -c 'echo 1 > $0' {} \\; 2>/dev/null"
    " -print -quit | grep .",
    "dd if=/etc/passwd of=/etc/passwd conv=notrunc",
]


@pytest.mark.parametrize("attempt", AS_ROOT)
def test_a_runtime_that_was_taken_over_does_not_get_out_either(
    sandbox: Event, attempt: str
) -> None:
    tried = as_runtimes_root(sandbox, f"( {attempt} ) </dev/null")

    assert tried.returncode not in (0, 126, 127), tried.stderr


def test_a_program_that_changes_the_user_changes_nothing(api: Client, sandbox: Event) -> None:
    made = as_runtimes_root(
        sandbox,
        "cd /workspace; chown 0:0 .; cp /usr/bin/id su-id; chmod 6755 su-id; stat -c %a su-id",
    )
    result = api.exec(BOX, "/workspace/su-id -u; id -u")
    # CAP_SYS_ADMIN, effective and permitted.
    give = "import os; os.setxattr('su-id', 'security.capability', bytes.fromhex('{}'))".format(
        "01000002" + "00002000" + "00" * 12
    )
    given = as_runtimes_root(sandbox, f'cd /workspace; python3 -c "{give}"')

    assert made.stdout == "6755\n", made.stderr
    effective, own = result["stdout"].split()
    assert effective == own != "0"
    assert "Operation not permitted" in given.stderr
