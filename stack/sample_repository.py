"""Makes a small git repository and serves it, so that the tour has something to build."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from container.engine import connect
from stack.deadline import wait_until
from stack.driver import Driver
from stack.errors import TourFailed
from stack.ports import accepts, free_port

START_TIMEOUT_S = 10.0
GIT_TIMEOUT_S = 60.0

FILES = {
    "words.py": '''\
"""Counts words."""


def count(text: str) -> dict[str, int]:
    words = text.lower().split()
    return {word: words.count(word) for word in words}
''',
    "test_words.py": """\
import unittest

import words


class WordsTest(unittest.TestCase):
    def test_counts_each_word(self):
        self.assertEqual(words.count("a rose is a rose"), {"a": 2, "rose": 2, "is": 1})

    def test_an_empty_text_has_no_words(self):
        self.assertEqual(words.count(""), {})


if __name__ == "__main__":
    unittest.main()
""",
}

STEPS = (
    {"name": "compile", "commands": ["python3 -m compileall -q .", "ls"]},
    {"name": "test", "commands": ["python3 -m unittest -v"]},
    {
        "name": "package",
        "commands": ["tar -czf /tmp/words.tar.gz *.py", "ls -l /tmp/words.tar.gz"],
    },
)


@contextmanager
def sample_repository(directory: Path, address: str) -> Iterator[str]:
    """The URL of a repository that is served on `address` until the block ends."""
    if shutil.which("git") is None:
        raise TourFailed("git is not on PATH.", hint="Install git, or skip it: COLDFRAME_TOUR=0")
    repository = directory / "words"
    shutil.rmtree(directory, ignore_errors=True)
    repository.mkdir(parents=True)
    try:
        _commit_files(repository)
        with _served(directory, address) as url:
            yield f"{url}/words"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def host_address(driver: Driver) -> str:
    """Where a sandbox with a network reaches this machine."""
    if driver is Driver.LOCAL:
        return "127.0.0.1"
    client = connect()
    try:
        (config,) = client.networks.get("bridge").attrs["IPAM"]["Config"][:1]
    finally:
        client.close()
    # An engine that was never told a gateway takes the subnet's first address, and may not say so.
    network = str(config["Subnet"])
    return str(config.get("Gateway") or _first_address(network))


def _first_address(subnet: str) -> str:
    return str(next(ipaddress.ip_network(subnet).hosts()))


def _commit_files(repository: Path) -> None:
    for name, text in FILES.items():
        (repository / name).write_text(text)
    _git(repository, "init", "--quiet", "--initial-branch=main")
    _git(repository, "add", ".")
    _git(repository, "commit", "--quiet", "--message=Count words")


def _git(repository: Path, *arguments: str) -> None:
    author = ("-c", "user.name=Coldframe", "-c", "user.email=tour@coldframe.invalid")
    subprocess.run(
        ["git", *author, "-c", "commit.gpgsign=false", *arguments],
        cwd=repository,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        # The operator's own hooks and templates are not ours to run.
        env={"PATH": os.environ["PATH"], "HOME": str(repository), "GIT_CONFIG_NOSYSTEM": "1"},
        timeout=GIT_TIMEOUT_S,
    )


@contextmanager
def _served(directory: Path, address: str) -> Iterator[str]:
    try:
        port = free_port(address)
    except OSError as error:
        raise TourFailed(
            f"Nothing can be served on {address}, where sandboxes reach this machine: {error}",
            hint="Is the engine on this machine, and not rootless? To skip: COLDFRAME_TOUR=0",
        ) from error
    daemon = subprocess.Popen(
        [
            *("git", "daemon", "--reuseaddr", "--export-all", "--informative-errors"),
            *("--max-connections=4", "--timeout=60", "--init-timeout=20"),
            *(f"--listen={address}", f"--port={port}", f"--base-path={directory}", str(directory)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if not wait_until(lambda: accepts(address, port), timeout_s=START_TIMEOUT_S):
            raise TourFailed(
                f"git daemon does not answer on {address}:{port}.",
                hint="See that git has its daemon (git daemon --help), or skip: COLDFRAME_TOUR=0",
            )
        yield f"git://{address}:{port}"
    finally:
        # The group: git starts the daemon, and the daemon a program for each connection.
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait(timeout=10)
