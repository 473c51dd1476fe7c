"""Lays out a sandbox's directory on its node.

<state>/sandboxes/<id>/
    state.json   the sandbox as its node knows it, and its token: the truth about what is here
    users        the block of users that its code runs as, where it has one of its own
    run/         the runtime's socket and token file; the container sees it as /run/coldframe
    volume/      workspace, home, app, build, src, test, tmp: all that the user may write
    volume.img   what is mounted there, where volumes are bounded; then run/ is a mount, too
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from workers import mounts, user_blocks
from workers.contract import node_files
from workers.contract.sandboxes import Sandbox
from workers.user_blocks import UserBlock

VOLUME_MOUNTS = {
    "workspace": "/workspace",
    "home": "/home",
    "app": "/app",
    "build": "/build",
    "src": "/src",
    "test": "/test",
    "tmp": "/var/tmp",
}
"""Directories of the volume, and where the sandbox sees them."""


class SandboxState(msgspec.Struct, frozen=True):
    """What the node needs to reach a sandbox again after a restart."""

    sandbox: Sandbox
    token: str


_state_decoder = msgspec.json.Decoder(SandboxState)


class SandboxDirectory:
    """One sandbox's directory."""

    def __init__(self, root: Path, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id
        self.path = root / sandbox_id

    @property
    def run(self) -> Path:
        return self.path / node_files.RUN

    @property
    def socket(self) -> Path:
        return self.run / node_files.SOCKET

    @property
    def volume(self) -> Path:
        return self.path / "volume"

    @property
    def users(self) -> UserBlock:
        """Of a directory that was prepared: the sandbox's own."""
        return user_blocks.claim(self.path)

    def prepare(self, user_id: int | None, volume_bytes: int | None) -> str:
        """Makes the directories; returns the token that its runtime will want.

        They are the user's; None: of users that no other sandbox has, and which share them.
        `volume_bytes` bounds the volume, which is kept where there is one; None: it is a plain
        directory. Raises `OSError`.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever had it before may have left links in it for us to write through.
        mounts.unmount(self.run)
        if self.run.is_dir():
            shutil.rmtree(self.run)
        owner = self.users.first if user_id is None else user_id
        mode = 0o755 if user_id is not None else 0o775
        if volume_bytes is not None:
            mounts.mount_run(self.run)
            mounts.mount_volume(self.path / "volume.img", self.volume, volume_bytes)
        for directory in (self.run, self.volume):
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
        token = secrets.token_urlsafe(32)
        _write_private(self.run / node_files.TOKEN, token.encode())
        for name in VOLUME_MOUNTS:
            directory = self.volume / name
            directory.mkdir(exist_ok=True)
            # The home of homes stays root's: the runtime makes the user's own below it.
            if os.geteuid() == 0 and name != "home":
                os.chown(directory, owner, owner)
            directory.chmod(0o1777 if name == "tmp" else mode)
        return token

    def write(self, name: str, content: str) -> Path:
        """A file of ours that the sandbox may read."""
        path = self.path / name
        path.write_text(content)
        path.chmod(0o644)
        return path

    def save(self, state: SandboxState) -> None:
        """Atomic: who reads sees the old state or the new."""
        _write_private(self.path / "state.json", msgspec.json.encode(state))

    def load(self) -> SandboxState | None:
        """None where there is no state, or none that can be read."""
        try:
            return _state_decoder.decode((self.path / "state.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def delete(self) -> None:
        """Fine where it is gone, or was made in part."""
        for directory in (self.run, self.volume):
            mounts.unmount(directory)
        # rm, not shutil: a tree that user code made can be deeper than Python recurses.
        subprocess.run(["rm", "-rf", "--one-file-system", "--", self.path], check=True, timeout=120)


def existing(root: Path) -> Iterator[SandboxDirectory]:
    """The directories of all sandboxes that this node made and has not removed."""
    if root.is_dir():
        for path in sorted(root.iterdir()):
            yield SandboxDirectory(root, path.name)


def _write_private(path: Path, content: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
