"""Real git repositories, served where sandboxes reach them."""

from __future__ import annotations

import base64
import io
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FILES = {
    "greeting.txt": "hello\n",
    "test_it.py": (
        "import unittest\n"
        "class It(unittest.TestCase):\n"
        "    def test_it(self):\n"
        "        self.assertEqual(open('greeting.txt').read(), 'hello\\n')\n"
    ),
}


class ServedRepository(NamedTuple):
    url: str
    commit: str


def make_repository(directory: Path) -> str:
    """A repository with one commit on a branch `trunk`; the commit."""
    directory.mkdir(parents=True)
    for name, text in FILES.items():
        (directory / name).write_text(text)
    git(directory, "init", "-q", "-b", "trunk")
    git(directory, "add", ".")
    git(directory, "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qm", "first")
    return git(directory, "rev-parse", "HEAD").strip()


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=directory, check=True, capture_output=True, text=True
    ).stdout


@contextmanager
def served(directory: Path, address: str) -> Iterator[ServedRepository]:
    """A repository behind `git daemon` on a free port of an address of this machine."""
    commit = make_repository(directory / "project")
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    daemon = subprocess.Popen(
        [
            *("git", "daemon", "--reuseaddr", "--export-all", f"--base-path={directory}"),
            *(f"--listen={address}", f"--port={port}", str(directory)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # git daemon runs its server in a child: both are ended by their group.
        start_new_session=True,
    )
    try:
        yield ServedRepository(f"git://{address}:{port}/project", commit)
    finally:
        subprocess.run(["kill", "--", f"-{daemon.pid}"], check=False)
        daemon.wait(timeout=10)


def archive_of_files() -> str:
    """The same files as a gzipped tar archive, in base64."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return base64.b64encode(buffer.getvalue()).decode()
