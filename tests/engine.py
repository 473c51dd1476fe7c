"""A Docker engine of the tests' own, beside the machine's, that can be killed and started.

It has no network, and no image but a small one, made of what lies on this machine.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import docker
import docker.errors

from container.engine import forget_dead_containerd

START_DEADLINE_S = 60.0
END_DEADLINE_S = 60.0
CONTAINERD_PID = "containerd/containerd.pid"

PROGRAMS = (
    "bash",
    "cat",
    "ls",
    "stat",
    "sleep",
    "seq",
    "kill",
    "mkdir",
    "rm",
    "id",
    "head",
    "tar",
    "gzip",
)
"""What tests on this engine run in their sandboxes, besides what bash has itself."""


class Engine:
    """Its files lie in a directory of its own, whose path should be short: sockets are there."""

    def __init__(self, directory: Path, *, live_restore: bool = True) -> None:
        self._directory = directory
        self._live_restore = live_restore
        self._process: subprocess.Popen[bytes] | None = None
        self.host = f"unix://{directory / 'sock'}"

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        forget_dead_containerd(self._directory / "exec")
        command = [
            # In a network of its own: without a bridge it takes docker0 away, the machine's.
            *("unshare", "--net", "dockerd", "--host", self.host),
            *("--pidfile", str(self._directory / "pid")),
            *("--data-root", str(self._directory / "data")),
            *("--exec-root", str(self._directory / "exec")),
            *("--bridge", "none", "--iptables=false"),
            *(["--live-restore"] if self._live_restore else []),
        ]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, (self._directory / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "dockerd does not answer"
            time.sleep(0.05)

    def ensure(self) -> None:
        """Has it run, also where it was ended."""
        if self._process is None:
            self.start()

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Its containers live on, and the containerd that it has started."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It lets connections in, and is silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def leave(self) -> None:
        """Ends it, and removes all of it, containers too."""
        self.ensure()
        client = self.client()
        for container in client.containers.list(all=True, ignore_removed=True):
            with suppress(docker.errors.APIError):
                container.remove(force=True, v=True)
        client.close()
        self.stop()
        with suppress(OSError, ValueError):
            os.kill(int((self._directory / "exec" / CONTAINERD_PID).read_text()), signal.SIGKILL)
        self._end_shims()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            mounted = line.split()[4]
            if mounted.startswith(f"{self._directory}/"):
                subprocess.run(["umount", "--lazy", mounted], check=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, version="1.41", timeout=30)

    def load_small_image(self) -> str:
        """The image's id."""
        client = self.client()
        try:
            answer = client.api.import_image_from_data(
                _root_file_system(), changes=["ENV PATH=/usr/local/bin:/usr/bin:/bin"]
            )
            return str(json.loads(answer.splitlines()[-1])["status"])
        finally:
            client.close()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.host.removeprefix("unix://"))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 OK" in probe.recv(4096)
            except OSError:
                return False

    def _end_shims(self) -> None:
        """A containerd that is killed while it makes or ends a container forgets its shim."""
        address = str(self._directory / "exec" / "containerd" / "containerd.sock").encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if address in (process / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)

    def _signal(self, sign: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(sign)

    def _end(self, sign: signal.Signals) -> None:
        self._signal(sign)
        if self._process is not None:
            self._process.wait(timeout=END_DEADLINE_S)
            self._process = None


def _root_file_system() -> bytes:
    """As a tar archive: some programs of this machine, with the libraries that they load."""
    files = {Path("/etc/passwd"), Path("/etc/group")}
    for name in PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        assert program is not None, f"{name} is not on this machine"
        files |= {Path(program), *_libraries_of(program)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for directory in ("bin", "tmp", "proc", "sys", "dev", "var", "var/tmp", "opt", "run"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for file in sorted(files):
            archive.add(file.resolve(), arcname=str(file).removeprefix("/"))
        _link(archive, "bin/sh", "bash")
        if shutil.which("bash", path="/usr/bin:/bin") != "/bin/bash":
            _link(archive, "bin/bash", "../usr/bin/bash")
    return buffer.getvalue()


def _libraries_of(program: str) -> set[Path]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return {Path(word) for word in listed.split() if word.startswith("/")}


def _link(archive: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    archive.addfile(entry)
