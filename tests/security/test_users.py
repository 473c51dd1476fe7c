"""Whom user code runs as: users that no other sandbox has, apart from each other where asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.events import Complete, Error, Stderr, Stdout
from sandbox_runtime.protocol.requests import ExecRequest, Session
from tests.client import Client, Event
from tests.conftest import DRIVER
from tests.containers import directory_of, runtime_of
from tests.platform import Platform
from workers.contract.jobs import new_id

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local has one user")

SECRET = "s3cret-of-the-first-session"


class Shell:
    """A session of a sandbox, spoken with past the API, which gives out its users."""

    def __init__(self, client: RuntimeClient, session: Session) -> None:
        self._client = client
        self._session = session

    def run(self, command: str) -> tuple[str, int]:
        """What it prints, on either stream, and its exit code."""
        request = ExecRequest(command=command, session=self._session, timeout_ms=20_000)
        with self._client.execution(new_id(), request, boot_id=None) as reader:
            events = [numbered.event for batch in reader for numbered in batch]
        end = events[-1]
        assert isinstance(end, Complete | Error), end
        assert end.exit_code is not None, end
        return "".join(e.data for e in events if isinstance(e, Stdout | Stderr)), end.exit_code


class Box:
    """A sandbox and its sessions."""

    def __init__(self, platform: Platform, made: Event) -> None:
        self.name = made["name"]
        self.directory = directory_of(platform, made)
        self._client = runtime_of(platform, made)

    def session(self, name: str, user: int, **env: str | None) -> Shell:
        return Shell(self._client, Session(name=name, user=user, env=env))


@pytest.fixture(scope="module")
def boxes(platform: Platform, api: Client) -> Iterator[tuple[Box, Box]]:
    """Two neighbours on one node."""
    made = [api.sandbox(name) for name in ("user-a", "user-b")]
    first, second = (Box(platform, sandbox) for sandbox in made)
    yield first, second
    for sandbox in made:
        api.remove(sandbox["name"])


@pytest.fixture(scope="module")
def box(boxes: tuple[Box, Box]) -> Box:
    return boxes[0]


@pytest.fixture(scope="module")
def first(box: Box) -> Shell:
    return box.session("first", 0, SECRET=SECRET)


@pytest.fixture(scope="module")
def isolated(box: Box) -> Shell:
    return box.session("isolated", 1)


WITHOUT_CGROUPS = """
import os, sys, threading
from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.requests import ExecRequest
from tests.client import wait_for
from tests.shared.test_drivers import answers
from workers.contract.jobs import new_id
from workers.contract.sandboxes import Sandbox, SandboxSpec
from workers.drivers.driver import sandboxes_root
from workers.node import make_driver
from workers.sandbox_directory import SandboxDirectory
from workers.settings import Settings

settings = Settings.from_env(os.environ)
driver = make_driver(settings)
spec = SandboxSpec(pids=48)
sandbox = Sandbox(id=new_id(), name="box", owner="", spec=spec, created_at="")
directory = SandboxDirectory(sandboxes_root(settings.state_dir), sandbox.id)

def run(*argv):
    request = ExecRequest(argv=list(argv), timeout_ms=5000)
    with client.execution(new_id(), request, boot_id=None) as reader:
        return [numbered.event for batch in reader for numbered in batch]

try:
    assert driver.promise(spec).limits is None
    client = RuntimeClient(directory.socket, directory.prepare(driver.user_id, None))
    driver.create(sandbox, directory)
    wait_for(lambda: answers(client), "the runtime answers")
    bomb = "import os\\nprint(1, flush=True)\\nwhile 1:\\n try: os.fork()\\n except OSError: pass"
    bombing = threading.Thread(target=run, args=("python3", "-c", bomb))
    bombing.start()
    while bombing.is_alive():
        client.ping(timeout_s=5.0)
    print(run("sh", "-c", "echo lives")[1].data)
finally:
    driver.remove(sandbox.id)
    directory.delete()
    driver.leave()
"""


def test_two_sandboxes_of_a_node_have_no_user_in_common(
    api: Client, boxes: tuple[Box, Box]
) -> None:
    users = [api.exec(box.name, "id -u; id -g; id -G")["stdout"].split() for box in boxes]

    assert [set(ids) for ids in users] == [{str(box.directory.users.first)} for box in boxes]
    assert users[0] != users[1]


def test_the_user_is_known_by_name_and_owns_its_home_and_its_workspace(
    api: Client, box: Box
) -> None:
    result = api.exec(
        box.name, "whoami; cd; pwd; stat -c %U:%G ~ /workspace /app; getent passwd 0 | cut -d: -f1"
    )

    assert result["stdout"].split() == [
        "sandbox",
        "/home/sandbox",
        *["sandbox:sandbox"] * 3,
        "root",
    ]


def test_ssh_takes_a_configuration_that_the_user_has_made(api: Client, box: Box) -> None:
    result = api.exec(
        box.name,
        "mkdir -p ~/.ssh; echo 'Host short\n HostName long.example' > ~/.ssh/config;"
        " ssh -G short | grep ^hostname",
    )

    assert result["stdout"] == "hostname long.example\n", result


def test_user_code_cannot_change_who_it_is_said_to_be(api: Client, box: Box) -> None:
    for attempt in ("echo x >> /etc/passwd", "rm /etc/passwd", "umount /etc/passwd"):
        assert api.exec(box.name, f"( {attempt} )")["exitCode"] not in (0, None), attempt


def test_an_isolated_session_is_another_user_of_the_same_sandbox(
    box: Box, first: Shell, isolated: Shell
) -> None:
    block = box.directory.users

    assert first.run("id -u") == (f"{block.first}\n", 0)
    assert isolated.run("id -u; id -G; whoami; echo $USER") == (
        f"{block.first + 1}\n{block.group}\nsession-1\nsession-1\n",
        0,
    )


def test_an_isolated_session_cannot_read_the_environment_of_another(
    first: Shell, isolated: Shell
) -> None:
    pid = first.run("sleep 600 & echo $!")[0].split()[-1]

    for look in ("cat environ", "cat mem", "cat maps", "ls fd/", "ls cwd/", "ls root/"):
        program, name = look.split()
        output, exit_code = isolated.run(f"{program} /proc/{pid}/{name}")
        assert exit_code != 0, look
        assert "Permission denied" in output
    found, _ = isolated.run(f"cat /proc/*/environ 2>/dev/null | grep -c {SECRET}")
    assert found == "0\n"
    assert SECRET in first.run(f"tr '\\0' '\\n' < /proc/{pid}/environ")[0]


def test_an_isolated_session_can_neither_end_nor_stop_what_another_runs(
    first: Shell, isolated: Shell
) -> None:
    pid = first.run("sleep 600 & echo $!")[0].split()[-1]

    for signal in ("KILL", "STOP", "INT"):
        output, exit_code = isolated.run(f"kill -{signal} {pid}")
        assert exit_code != 0
        assert "not permitted" in output
    isolated.run("kill -9 -1")
    assert first.run(f"ps -o stat= -p {pid}") == ("S\n", 0)


def test_the_first_session_cannot_end_what_an_isolated_one_runs(
    first: Shell, isolated: Shell
) -> None:
    pid = isolated.run("sleep 600 & echo $!")[0].split()[-1]

    assert first.run(f"kill -9 {pid}")[1] != 0
    assert isolated.run(f"kill -9 {pid}") == ("", 0)


def test_sessions_of_different_users_change_each_others_files(
    first: Shell, isolated: Shell
) -> None:
    assert first.run("mkdir -p shared/deep; echo one > shared/deep/file") == ("", 0)
    assert isolated.run("echo two >> shared/deep/file; touch shared/deep/other ~/mine") == ("", 0)
    assert first.run("echo three >> shared/deep/other; cat shared/deep/*; rm ~/mine") == (
        "one\ntwo\nthree\n",
        0,
    )


def test_a_repository_of_one_session_can_be_worked_on_in_another(
    first: Shell, isolated: Shell
) -> None:
    as_ann = "git -c user.name=ann -c user.email=ann@example.com"
    first.run(f"git init -q repo; cd repo; {as_ann} commit -q --allow-empty -m one; cd ..")

    assert isolated.run(
        f"cd repo; touch new; git add new; {as_ann} commit -q -m two; git log --format=%s; cd .."
    ) == ("two\none\n", 0)


def test_sandboxes_take_up_nothing_that_the_kernel_counts_by_user_for_each_other(
    boxes: tuple[Box, Box],
) -> None:
    """Inotify instances, pipes' memory, processes."""
    use_up = (
        "import ctypes, fcntl, os, time\n"
        "libc = ctypes.CDLL(None)\n"
        "while libc.inotify_init1(0) >= 0: pass\n"
        "try:\n"
        "    while True: fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 1 << 20)\n"
        "except OSError: pass\n"
        "print('used up', flush=True)\n"
        "time.sleep(600)\n"
    )
    need = (
        "import ctypes, fcntl, os\n"
        "print(ctypes.CDLL(None).inotify_init1(0) >= 0)\n"
        "print(fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 1 << 20))\n"
    )
    attacker, neighbour = (box.session("counted", 0) for box in boxes)

    attacker.run(f'python3 -c "{use_up}" > used & until grep -q up used; do sleep 0.1; done')
    seen_by_attacker = attacker.run(f'python3 -c "{need}"')
    seen_by_neighbour = neighbour.run(f'python3 -c "{need}"')
    attacker.run("kill %1")

    assert "False\n" in seen_by_attacker[0]
    assert "PermissionError" in seen_by_attacker[0]
    assert seen_by_neighbour == ("True\n1048576\n", 0)


def test_a_fork_bomb_leaves_the_runtime_room_also_where_there_are_no_control_groups(
    platform: Platform, repository: Path
) -> None:
    # Of its own: the platform's worker ends what it finds in its own and did not make.
    state_dir = platform.state_dir.with_name("other")
    state_dir.mkdir(mode=0o711)
    for name in ("images.toml", "runtime"):
        (state_dir / name).symlink_to(platform.state_dir / name)
    variables = {"COLDFRAME_STATE_DIR": str(state_dir), "COLDFRAME_NODE": "no-cgroups"}
    hidden = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation=private"),
            *("sh", "-c", hidden, "sh", sys.executable, "-c", WITHOUT_CGROUPS),
        ],
        check=False,
        cwd=repository,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout == "lives\n\n", done.stderr
