"""What user code may write, tried by writing it: its volume is bounded, and nobody else's."""

from __future__ import annotations

import base64
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_runtime.protocol.errors import RuntimeUnreachable
from tests.client import Client, Event, wait_for
from tests.conftest import DRIVER
from tests.containers import as_runtimes_root, directory_of, runtime_of
from tests.platform import Platform
from workers.contract.jobs import new_id
from workers.drivers.driver import sandboxes_root
from workers.sandbox_directory import SandboxDirectory

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local has no bounded volume")

DISK_MB = 64
BOX = "hoarder"
FILL = "head -c 200M /dev/zero > {}/big; stat -c %s {}/big"


@pytest.fixture(scope="module")
def sandbox(api: Client) -> Iterator[Event]:
    yield api.sandbox(BOX, diskMb=DISK_MB)
    api.remove(BOX)


@pytest.fixture
def box(api: Client, sandbox: Event) -> Iterator[str]:
    yield BOX
    api.exec(BOX, "cd /workspace; find . -mindepth 1 -delete; rm -rf ~/big $TMPDIR/big")


@pytest.fixture
def directory(platform: Platform, sandbox: Event) -> SandboxDirectory:
    return directory_of(platform, sandbox)


def test_a_full_disk_fails_the_write_and_nothing_else(api: Client, box: str) -> None:
    filled = api.exec(box, FILL.format("/workspace", "/workspace"))
    command = api.exec(box, "cat; echo usable", stdin="x" * 100_000)
    new_kernel = api.code(box, "6 * 7")
    api.exec(box, "rm /workspace/big")
    cell = api.code(box, "6 * 7")

    assert "No space left on device" in filled["stderr"]
    assert 40 << 20 < int(filled["stdout"]) <= DISK_MB << 20
    assert command["stdout"].endswith("usable\n")
    assert new_kernel["error"]["code"] == "disk_full"
    assert cell["results"][0]["text"] == "42"


@pytest.mark.parametrize("where", ["~", "/app", "/build", "/src", "/test", "$TMPDIR"])
def test_all_that_user_code_keeps_counts_against_the_same_disk(
    api: Client, box: str, where: str
) -> None:
    filled = api.exec(box, f"{FILL.format(where, where)}; rm {where}/big")

    assert "No space left on device" in filled["stderr"]


def test_the_node_holds_no_more_than_the_volume_and_gets_back_what_is_deleted(
    api: Client, box: str, directory: SandboxDirectory
) -> None:
    image = directory.path / "volume.img"
    api.exec(box, "head -c 200M /dev/urandom > big; sync big")
    full = allocated(image)
    api.exec(box, "rm big; sync -f .")

    assert full <= DISK_MB << 20
    wait_for(lambda: allocated(image) < 8 << 20, "the image is sparse again")


def test_more_files_than_a_volume_may_hold_are_refused(api: Client, box: str) -> None:
    result = api.exec(
        box, "mkdir d; cd d; seq 10000 | xargs touch; ls | wc -l; cd; rm -rf /workspace/d"
    )

    assert "No space left on device" in result["stderr"]
    assert int(result["stdout"]) < 5000


def test_a_sparse_file_takes_no_space(api: Client, box: str) -> None:
    result = api.exec(box, "truncate -s 1T sparse && du -k sparse | cut -f1 && echo x > other")

    assert (result["stdout"], result["exitCode"]) == ("0\n", 0)


@pytest.mark.parametrize("where", ["/tmp", "/dev/shm"])
def test_shared_memory_is_bounded(api: Client, box: str, where: str) -> None:
    filled = api.exec(box, f"{FILL.format(where, where)}; rm {where}/big")

    assert "No space left on device" in filled["stderr"]
    assert int(filled["stdout"]) <= 64 << 20


def test_message_queues_are_refused(api: Client, box: str) -> None:
    code = "import ctypes; print(ctypes.CDLL(None).mq_open(b'/q', 0o102, 0o600, None))"

    assert api.exec(box, f'python3 -c "{code}"')["stdout"] == "-1\n"


def test_an_archive_that_does_not_fit_says_that_the_disk_is_full(api: Client) -> None:
    build = {
        "archive": base64.b64encode(archive_of_zeros(200 << 20)).decode(),
        "steps": [{"name": "one", "commands": ["true"]}],
        "sandbox": {"diskMb": DISK_MB},
    }

    received = api.stream("/v1/builds", build)

    assert received[-1].event["code"] == "disk_full"


def test_a_tree_that_is_deep_and_one_that_is_wide_go_with_their_sandbox(
    api: Client, platform: Platform
) -> None:
    sandbox = api.sandbox("trees", diskMb=512)
    deep = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
    api.exec("trees", f'cd /workspace; python3 -c "{deep}"; mkdir w; cd w; seq 30000 | xargs touch')

    api.remove("trees")

    assert not directory_of(platform, sandbox).path.exists()
    assert sandbox["id"] not in mounts_and_loops()


def test_the_directory_of_the_socket_cannot_be_filled(
    api: Client, box: str, sandbox: Event, directory: SandboxDirectory
) -> None:
    filled = as_runtimes_root(
        sandbox,
        "cd /run/coldframe; head -c 1M /dev/zero > big; stat -c %s big; rm big;"
        "touch $(seq -f f%g 100); ls | wc -l; rm f*",
    )

    size, files = filled.stdout.split()
    assert "No space left on device" in filled.stderr
    assert int(size) <= 64 << 10
    assert int(files) < 16
    assert directory.run.is_mount()


def test_a_socket_that_was_swapped_for_a_link_is_not_followed(
    platform: Platform, box: str, sandbox: Event
) -> None:
    client = runtime_of(platform, sandbox)

    as_runtimes_root(
        sandbox, "cd /run/coldframe; mv runtime.sock r; ln -s /run/docker.sock runtime.sock"
    )
    with pytest.raises(RuntimeUnreachable):
        client.ping()
    as_runtimes_root(sandbox, "cd /run/coldframe; mv r runtime.sock")

    assert client.ping().boot_id
    client.close()


def test_a_worker_that_was_killed_while_it_made_a_volume_leaves_nothing(
    api: Client, platform: Platform
) -> None:
    root = sandboxes_root(platform.state_dir)
    platform.kill("worker")
    mounted = SandboxDirectory(root, new_id())
    mounted.prepare(None, DISK_MB << 20)
    only_made = SandboxDirectory(root, new_id())
    only_made.path.mkdir()
    (only_made.path / "volume.img.new").write_bytes(b"")

    platform.start("worker")
    wait_for(lambda: not mounted.path.exists() and not only_made.path.exists(), "both are gone")
    platform.wait_until_ready(api)

    assert mounted.sandbox_id not in mounts_and_loops()


def allocated(image: Path) -> int:
    return image.stat().st_blocks * 512


def mounts_and_loops() -> str:
    loops = subprocess.run(["losetup", "-a"], check=True, capture_output=True, text=True).stdout
    return Path("/proc/self/mountinfo").read_text() + loops


def archive_of_zeros(size: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = size
        archive.addfile(member, io.BytesIO(bytes(size)))
    return packed.getvalue()
