"""Mounts the file systems of a sandbox's directory, each of which is bounded.

The volume is an ext4 file system in a sparse file, on a loop device that goes with the mount. What
the container is given to make its socket in is a little memory: a runtime that was taken over can
neither fill the node's disk through it nor find any other socket in it to hand us.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

RUN_BYTES = 64 * 1024
RUN_INODES = 16
BYTES_PER_INODE = 16 * 1024
"""A volume's files are bounded, too: 131,072 in one of 2 GiB."""

MAKE_TIMEOUT_S = 30.0
MOUNT_PROGRAMS = ("mkfs.ext4", "e2fsck", "mount")

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def why_not(directory: Path) -> str:
    """Why nothing can be mounted below `directory`; empty where it works, as it was tried."""
    if os.geteuid() != 0:
        return "the worker is not root"
    if missing := [name for name in MOUNT_PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} is not installed"
    trial = directory / "mount-trial"
    try:
        trial.mkdir(mode=0o700, parents=True, exist_ok=True)
        mount_volume(trial / "image", trial / "volume", 4 * 1024 * 1024)
    except OSError as error:
        return str(error)
    finally:
        unmount(trial / "volume")
        shutil.rmtree(trial, ignore_errors=True)
    return ""


def mount_run(at: Path) -> None:
    """A directory of a few small files, in memory. Raises `OSError`."""
    at.mkdir(mode=0o700, exist_ok=True)
    if at.is_mount():
        return
    options = f"size={RUN_BYTES},nr_inodes={RUN_INODES},mode=700".encode()
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if _libc.mount(b"coldframe", os.fsencode(at), b"tmpfs", flags, options) != 0:
        raise OSError(ctypes.get_errno(), "a tmpfs cannot be mounted", str(at))


def mount_volume(image: Path, at: Path, size_bytes: int) -> None:
    """Mounts the image, which is made where there is none. Raises `OSError`."""
    at.mkdir(mode=0o700, exist_ok=True)
    if at.is_mount():
        return
    if image.exists():
        # It has no journal. Without a clean end of the machine there may be something to mend.
        _run("e2fsck", "-p", str(image), accept=(0, 1))
    else:
        _make_image(image, size_bytes)
    # noinit_itable: else the kernel fills the inode tables in, and the file is no longer sparse.
    options = "loop,nosuid,nodev,noatime,discard,noinit_itable"
    _run("mount", "-t", "ext4", "-o", options, str(image), str(at))


def unmount(at: Path) -> None:
    """Fine where nothing is mounted. What still holds a file in it keeps that file alone."""
    _libc.umount2(os.fsencode(at), _MNT_DETACH)


def _make_image(image: Path, size_bytes: int) -> None:
    new = image.with_name(image.name + ".new")
    with new.open("wb") as file:
        file.truncate(size_bytes)
    new.chmod(0o600)
    inodes = max(size_bytes // BYTES_PER_INODE, 1024)
    features = "^has_journal,^resize_inode"
    extended = "lazy_itable_init=1,nodiscard,root_owner=0:0"
    _run(
        *("mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(inodes)),
        *("-O", features, "-E", extended, str(new)),
    )
    new.rename(image)


def _run(*command: str, accept: tuple[int, ...] = (0,)) -> None:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=MAKE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} took longer than {MAKE_TIMEOUT_S:.0f} s") from error
    if done.returncode not in accept:
        raise OSError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
