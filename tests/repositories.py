"""Real git repositories, served where sandboxes reach them."""

from __future__ import annotations

import base64
import http.server
import io
import ipaddress
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from container.engine import connect
from stack.driver import Driver

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


class GitOverHttp:
    """`git http-backend` on a free port: all that is in a directory, to who knows the token."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.requests: list[tuple[str, str | None]] = []
        """The paths that were asked for, and the credentials that came with them."""


@contextmanager
def served_over_http(
    directory: Path,
    *,
    address: str = "127.0.0.1",
    token: str | None = None,
    redirect_to: str | None = None,
    let_in: Callable[[], object] = lambda: None,
) -> Iterator[GitOverHttp]:
    """Without a token, to all; with `redirect_to`, another server is named instead.

    `let_in` is called, and may take its time, whenever somebody shows the right token.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            serving.requests.append((self.path, self._password()))
            if redirect_to is not None:
                self._answer(307, {"Location": redirect_to + self.path}, b"")
            elif token is not None and self._password() != token:
                self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            else:
                let_in()
                self._run_backend()

        do_POST = do_GET

        def _password(self) -> str | None:
            kind, _, given = self.headers.get("Authorization", "").partition(" ")
            return base64.b64decode(given).decode().partition(":")[2] if kind == "Basic" else None

        def _run_backend(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            done = subprocess.run(
                ["git", "http-backend"],
                input=body,
                capture_output=True,
                env={
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(directory),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "REMOTE_USER": "ann",
                },
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
            status = int(headers.pop("Status", "200").split()[0])
            self._answer(status, headers, body)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, 0), Handler) as server:
        serving = GitOverHttp(f"http://{address}:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield serving
        finally:
            server.shutdown()


def archive_of_files() -> str:
    """The same files as a gzipped tar archive, in base64."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return base64.b64encode(buffer.getvalue()).decode()
