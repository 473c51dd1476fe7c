"""Tries in a sandbox of its own whether this node isolates what it will be given to run.

Whatever a sandbox's safety rests on can be missing on a machine without anything failing: a limit
that is written to no effect, a filter that an engine leaves out. So a node looks from the inside,
at a sandbox made as all others are, before it says that it is ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.events import Stdout
from sandbox_runtime.protocol.requests import ExecRequest
from workers.contract.clock import timestamp
from workers.contract.jobs import new_id
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.drivers.driver import CreateFailed, Driver, DriverUnavailable, Promise
from workers.sandbox_directory import SandboxDirectory

ANSWER_DEADLINE_S = 15.0
PAUSE_S = 0.01
PROBE_TIMEOUT_MS = 10_000

FILTERS = 2
"""Of system calls, that user code is under: the engine's, and upon it the runtime's."""

NO_CAPABILITIES = "0000000000000000"

_LOOKS = (
    "/proc/self/status",
    "/proc/self/cgroup",
    "/proc/self/mountinfo",
    "/proc/net/dev",
    "/cg/memory/memory.limit_in_bytes",
    "/cg/pids/pids.max",
    "/cg/jobs/memory.max",
    "/cg/jobs/pids.max",
)
_SIZE = "size"
_FOUND = "found"
_PROBE = (
    f'for f in {" ".join(_LOOKS)}; do echo "=== $f"; cat $f 2>/dev/null; done;'
    f"echo '=== {_SIZE}'; stat -f -c '%b %S' /workspace;"
    f"echo '=== {_FOUND}'; ls -d /run/docker.sock /var/run/docker.sock 2>/dev/null; true"
)

Report = Mapping[str, str]
"""What the probe read, by file."""


Undisturbed = Callable[[str], AbstractContextManager[object]]
"""While it is entered, nobody takes the sandbox of this id for one that was left over."""


def run(driver: Driver, root: Path, undisturbed: Undisturbed = nullcontext) -> None:
    """Raises `DriverUnavailable` with all that is wrong; a driver that promises nothing passes."""
    spec = SandboxSpec()
    promise = driver.promise(spec)
    if promise is None:
        return
    try:
        with probe(driver, root, spec, undisturbed) as (sandbox, client):
            report = sections(printed_by(client, ["/bin/sh", "-c", _PROBE]))
    except (CreateFailed, RuntimeFault, OSError) as fault:
        raise DriverUnavailable(f"self-test: no sandbox could be made: {fault}") from fault
    if wrong := list(judge(report, sandbox.id, promise)):
        raise DriverUnavailable(f"self-test: {'; '.join(wrong)}")


@contextmanager
def probe(
    driver: Driver, root: Path, spec: SandboxSpec, undisturbed: Undisturbed = nullcontext
) -> Iterator[tuple[Sandbox, RuntimeClient]]:
    """A sandbox of nobody's, which answers, until the block ends.

    Raises `DriverFault`, `RuntimeFault`, `OSError`.
    """
    sandbox = Sandbox(id=new_id(), name="self-test", owner="", spec=spec, created_at=timestamp())
    with undisturbed(sandbox.id):
        yield from _made(driver, sandbox, SandboxDirectory(root, sandbox.id))


def _made(
    driver: Driver, sandbox: Sandbox, directory: SandboxDirectory
) -> Iterator[tuple[Sandbox, RuntimeClient]]:
    try:
        token = directory.prepare(driver.user_id, driver.volume_bytes(sandbox.spec))
        driver.create(sandbox, directory)
        client = RuntimeClient(directory.socket, token)
        try:
            _wait_for_answer(client)
            yield sandbox, client
        finally:
            client.close()
    finally:
        driver.remove(sandbox.id)
        directory.delete()


def printed_by(client: RuntimeClient, argv: list[str]) -> str:
    """What a program prints that a sandbox's user runs. Raises `RuntimeFault`."""
    request = ExecRequest(argv=argv, timeout_ms=PROBE_TIMEOUT_MS)
    with client.execution(new_id(), request, boot_id=None) as reader:
        events = [numbered.event for batch in reader for numbered in batch]
    return "".join(event.data for event in events if isinstance(event, Stdout))


def judge(report: Report, sandbox_id: str, promise: Promise) -> Iterator[str]:
    """What is wrong, by what was seen from inside a sandbox; nothing where all is as promised."""
    yield from _wrong_with_process(_fields(report["/proc/self/status"]))
    yield from _wrong_with_mounts(report, promise)
    if promise.limits:
        yield from _wrong_with_limits(report, sandbox_id, promise)
    interfaces = [line.split(":")[0].strip() for line in report["/proc/net/dev"].splitlines()[2:]]
    if interfaces != ["lo"]:
        yield f"a sandbox without a network has {', '.join(interfaces) or 'not even loopback'}"
    if report[_FOUND].strip():
        yield "the engine's socket is in the sandbox"


def _wrong_with_process(status: Mapping[str, str]) -> Iterator[str]:
    ids = [*status["Uid"].split(), *status["Gid"].split(), *status["Groups"].split()]
    if "0" in ids:
        yield "user code is root, or in root's group"
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        if status[name] != NO_CAPABILITIES:
            yield f"user code has capabilities ({name} {status[name]})"
    if status["NoNewPrivs"] != "1":
        yield "user code can gain privileges"
    if status["Seccomp"] != "2" or int(status.get("Seccomp_filters", FILTERS)) < FILTERS:
        yield "user code's system calls are not filtered"


def _wrong_with_mounts(report: Report, promise: Promise) -> Iterator[str]:
    # id parent major:minor root mount-point options … - type source super-options
    mounts = {}
    for line in report["/proc/self/mountinfo"].splitlines():
        mount, _, filesystem = line.partition(" - ")
        mounts[mount.split()[4]] = (mount.split()[5].split(","), filesystem.split()[1])
    if "ro" not in mounts["/"][0]:
        yield "the root file system can be written to"
    if promise.volume_bytes is None:
        return
    blocks, block_size = map(int, report[_SIZE].split())
    options, source = mounts["/workspace"]
    if not source.startswith("/dev/loop") or blocks * block_size > promise.volume_bytes:
        yield "the sandbox's volume is not bounded"
    if not {"nosuid", "nodev"} <= set(options):
        yield "the sandbox's volume may hold devices, or programs that change the user"


def _wrong_with_limits(report: Report, sandbox_id: str, promise: Promise) -> Iterator[str]:
    assert promise.limits is not None
    groups = dict(line.split(":", 2)[1:] for line in report["/proc/self/cgroup"].splitlines())
    for controller in ("memory", "pids", "cpu"):
        # v1 has a group for each, of which some are mounted together; v2 has one, without a name.
        group = next((groups[n] for n in groups if controller in n.split(",")), groups.get("", ""))
        if f"/{sandbox_id}/user" not in group:
            yield f"user code is not in its own control group for {controller}"
    memory = report["/cg/memory/memory.limit_in_bytes"] or report["/cg/jobs/memory.max"]
    if memory.strip() != str(promise.limits.memory_bytes):
        yield "user code's memory is not limited as was asked"
    pids = report["/cg/pids/pids.max"] or report["/cg/jobs/pids.max"]
    if pids.strip() != str(promise.limits.pids):
        yield "the number of user code's processes is not limited as was asked"


def _fields(status: str) -> dict[str, str]:
    lines = (line.partition(":") for line in status.splitlines())
    return {name: value.strip() for name, _, value in lines}


def _wait_for_answer(client: RuntimeClient) -> None:
    """Raises `RuntimeFault`."""
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    while True:
        try:
            client.ping(timeout_s=2.0)
            return
        except RuntimeFault:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S)


def sections(printed: str) -> Report:
    """The probe's output by what each part of it was read from."""
    parts = ("\n" + printed).split("\n=== ")[1:]
    return {name: text for name, _, text in (part.partition("\n") for part in parts)}
