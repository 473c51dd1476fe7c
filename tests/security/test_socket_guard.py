"""A sandbox's socket directory is not trusted: what is put into it leads nowhere else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_runtime.protocol.client import RuntimeClient
from sandbox_runtime.protocol.connections import connect_guarded
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from workers.sandbox_directory import SandboxDirectory


@pytest.fixture
def host_service(tmp_path: Path) -> Iterator[Path]:
    """A service of the host's that a sandbox would like the worker to talk to."""
    path = tmp_path / "host.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    yield path
    assert _nobody_came(listener)
    listener.close()


def test_a_symbolic_link_to_a_host_socket_is_not_followed(
    tmp_path: Path, host_service: Path
) -> None:
    link = tmp_path / "runtime.sock"
    link.symlink_to(host_service)

    with pytest.raises(RuntimeUnreachable):
        connect_guarded(link, 1.0)


def test_a_directory_that_became_a_link_is_not_followed(tmp_path: Path, host_service: Path) -> None:
    swapped = tmp_path / "run"
    swapped.symlink_to(host_service.parent)

    with pytest.raises(RuntimeUnreachable):
        connect_guarded(swapped / host_service.name, 1.0)


@pytest.mark.parametrize("kind", ["file", "fifo", "directory", "missing"])
def test_what_is_no_socket_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "runtime.sock"
    match kind:
        case "file":
            path.write_bytes(b"")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()

    with pytest.raises(RuntimeUnreachable):
        RuntimeClient(path, "token").ping(timeout_s=1.0)


def test_a_path_longer_than_the_kernels_limit_works(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    here = os.open(directory, os.O_PATH)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"/proc/self/fd/{here}/runtime.sock")
    listener.listen()

    connection = connect_guarded(directory / "runtime.sock", 1.0)

    connection.close()
    listener.close()
    os.close(here)


def _nobody_came(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize("name", ["token", "token.new", "user-env", "user-env.new"])
def test_what_a_runtime_left_in_its_directory_is_gone_before_it_is_started_again(
    tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "file-of-the-host"
    victim.write_text("untouched")
    directory = SandboxDirectory(tmp_path, "sandbox")
    directory.run.mkdir(parents=True)
    (directory.run / name).symlink_to(victim)

    directory.prepare(None, None)

    assert victim.read_text() == "untouched"
    assert not (directory.run / name).is_symlink()
