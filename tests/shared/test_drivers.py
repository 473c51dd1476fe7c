"""What every driver must do, in real sandboxes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from container.ca_bundle import find_ca_bundle
from container.image import ensure_sandbox_image
from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.events import Complete, Numbered, Stdout
from sandbox_runtime.protocol.requests import CancelReason, ExecRequest
from tests.client import wait_for
from workers.contract.jobs import new_id
from workers.contract.networks import Network
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.drivers.driver import Driver, DriverUnavailable, sandboxes_root
from workers.node import make_driver
from workers.sandbox_directory import SandboxDirectory
from workers.settings import Settings

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="cgroups and users need root")


class Made:
    """A running sandbox and the way to it."""

    def __init__(self, sandbox_id: str, client: RuntimeClient, directory: SandboxDirectory) -> None:
        self.id = sandbox_id
        self.client = client
        self.directory = directory

    def run(self, command: str, *, timeout_ms: int = 20_000) -> tuple[str, int | None]:
        """Standard output and exit code of a command in the default session."""
        events = self.events(new_id(), ExecRequest(command=command, timeout_ms=timeout_ms))
        end = events[-1].event
        output = "".join(item.event.data for item in events if isinstance(item.event, Stdout))
        return output, end.exit_code if isinstance(end, Complete) else None

    def events(self, execution: str, request: ExecRequest) -> list[Numbered]:
        with self.client.execution(execution, request, boot_id=None) as reader:
            return [numbered for batch in reader for numbered in batch]


class Node:
    """A driver with a state directory of its own."""

    def __init__(self, driver: Driver, state_dir: Path) -> None:
        self.driver = driver
        self.root = sandboxes_root(state_dir)

    @contextmanager
    def sandbox(self, network: Network = Network.NONE) -> Iterator[Made]:
        sandbox = Sandbox(
            id=new_id(),
            name="box",
            owner="ann",
            spec=SandboxSpec(network=network),
            created_at="2026-01-01T00:00:00.000Z",
        )
        directory = SandboxDirectory(self.root, sandbox.id)
        volume_bytes = self.driver.volume_bytes(sandbox.spec)
        token = directory.prepare(self.driver.user_id, volume_bytes)
        try:
            self.driver.create(sandbox, directory)
            client = RuntimeClient(directory.socket, token)
            wait_for(lambda: answers(client), "the runtime answers")
            yield Made(sandbox.id, client, directory)
        finally:
            self.driver.remove(sandbox.id)
            directory.delete()


def answers(client: RuntimeClient) -> bool:
    try:
        return bool(client.ping(timeout_s=1).boot_id)
    except RuntimeFault:
        return False


@pytest.fixture(scope="module", params=["docker", "local"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Iterator[Node]:
    state_dir = tmp_path_factory.mktemp("state")
    if request.param == "docker":
        ensure_sandbox_image(state_dir=state_dir, ca_bundle=find_ca_bundle(None), progress=print)
    local_python = repository / ".coldframe" / "local-python" / "bin" / "python"
    environ = {
        "COLDFRAME_STATE_DIR": str(state_dir),
        "COLDFRAME_NODE": f"test-{os.getpid()}",
        "COLDFRAME_DRIVER": request.param,
        "COLDFRAME_LOCAL_PYTHON": str(local_python) if local_python.exists() else "",
    }
    driver = make_driver(Settings.from_env(environ))
    try:
        driver.check()
    except DriverUnavailable as fault:
        pytest.skip(f"driver {request.param}: {fault}")
    yield Node(driver, state_dir)
    driver.leave()


@pytest.fixture(scope="module")
def made(node: Node) -> Iterator[Made]:
    with node.sandbox() as made:
        yield made


def test_a_sandbox_runs_commands_and_keeps_its_session(made: Made) -> None:
    made.run("cd /tmp; x=1")

    assert made.run("pwd; echo $x") == ("/tmp\n1\n", 0)


def test_user_code_is_another_user_than_the_runtime(made: Made) -> None:
    output, _ = made.run("id -u; id -un; stat -c %u /proc/$PPID")

    user, name, runtime = output.split()
    assert user == str((made.directory.volume / "workspace").stat().st_uid)
    assert name == "sandbox"
    assert os.geteuid() != 0 or (runtime == "0" and user != "0")


@ROOT_ONLY
def test_user_code_has_no_capability_and_cannot_gain_one(made: Made) -> None:
    output, _ = made.run("grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | awk '{print $2}'")

    effective, _, no_new_privileges = output.split()
    assert int(effective, 16) == 0
    assert no_new_privileges == "1"


@ROOT_ONLY
def test_user_code_can_neither_read_nor_end_the_runtime(made: Made) -> None:
    output, _ = made.run(
        "kill -9 $PPID 2>/dev/null && echo killed; "
        "cat /proc/$PPID/environ 2>/dev/null; cat /run/coldframe/token 2>/dev/null; "
        "ls /opt/coldframe/lib 2>/dev/null; echo end"
    )

    assert output == "end\n"
    assert made.client.ping().boot_id


def test_the_root_is_read_only_and_the_users_directories_are_not(made: Made) -> None:
    output, _ = made.run(
        "for d in /workspace ~ /app /build /src /test /tmp $TMPDIR; do touch $d/f && echo $d; done;"
        "touch /usr/f 2>/dev/null || echo refused"
    )

    directories = ["/workspace", "/home/sandbox", "/app", "/build", "/src", "/test"]
    assert output.split() == [*directories, "/tmp", "/var/tmp", "refused"]


def test_without_a_network_nothing_is_reachable(made: Made) -> None:
    output, _ = made.run("cat /proc/net/dev | tail -n +3 | cut -d: -f1")

    assert output.split() == ["lo"]


def test_cancel_ends_a_daemon_that_left_its_session(made: Made) -> None:
    execution = new_id()
    request = ExecRequest(command="setsid sleep 4321 & wait; sleep 4322")

    with made.client.execution(execution, request, boot_id=None) as reader:
        batches = iter(reader)
        next(batches)
        made.client.cancel(execution, CancelReason.CANCELLED)
        for _ in batches:
            pass

    output, _ = made.run("pgrep -f '^sleep 432[12]$' | wc -l")
    assert output.strip() == "0"


def test_a_sandbox_is_listed_while_it_lives_and_gone_when_it_is_removed(node: Node) -> None:
    with node.sandbox() as made:
        listed = node.driver.sandboxes()
        alive = node.driver.is_alive(made.id)

    assert made.id in listed
    assert alive
    assert made.id not in node.driver.sandboxes()
    assert not node.driver.is_alive(made.id)
    assert not made.directory.path.exists()


def test_removing_what_is_not_there_is_fine(node: Node) -> None:
    node.driver.remove(new_id())
