"""Chooses how this machine makes sandboxes, and sees that it can."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from container import debian_packages
from container.engine import ensure_engine
from container.errors import ContainerError
from stack.errors import DriverUnavailable

MARKER = "used-docker"
"""A file in the state directory: this node has had containers, and never falls back."""

LOCAL_WARNING = (
    "driver local: sandboxes are processes under bubblewrap, NOT isolated from this machine. "
    "Run only code that you trust."
)

_TRY_TIMEOUT_S = 10.0


class Driver(StrEnum):
    """How a node makes sandboxes."""

    DOCKER = "docker"
    LOCAL = "local"


def ensure_driver(asked: str, *, state_dir: Path, progress: Callable[[str], None]) -> Driver:
    """The driver that was asked for; where none was, docker if it can be had, else local.

    Raises `DriverUnavailable`, or the engine's own error where docker was asked for.
    """
    if asked != Driver.LOCAL:
        try:
            version = ensure_engine(state_dir, progress)
        except ContainerError as error:
            if asked == Driver.DOCKER:
                raise
            return _fall_back(error, state_dir=state_dir, progress=progress)
        (state_dir / MARKER).touch()
        progress(f"driver docker: engine {version}")
        return Driver.DOCKER
    ensure_bubblewrap(progress)
    return Driver.LOCAL


def ensure_bubblewrap(progress: Callable[[str], None]) -> None:
    """Have bubblewrap, and a kernel that lets it work; else `DriverUnavailable`."""
    if shutil.which("bwrap") is None:
        try:
            debian_packages.install(["bubblewrap"], progress=progress)
        except ContainerError as error:
            raise DriverUnavailable(f"driver local: {error}", hint=error.hint) from error
    tried = subprocess.run(
        ["bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--unshare-pid", "true"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TRY_TIMEOUT_S,
    )
    if tried.returncode != 0:
        raise DriverUnavailable(
            f"driver local: bubblewrap does not work here: {tried.stderr.strip()}",
            hint="The kernel must allow user namespaces (sysctl kernel.unprivileged_userns_clone, "
            "kernel.apparmor_restrict_unprivileged_userns), or run as root.",
        )


def _fall_back(
    reason: ContainerError, *, state_dir: Path, progress: Callable[[str], None]
) -> Driver:
    if (state_dir / MARKER).exists():
        raise DriverUnavailable(
            f"{reason} This node has used docker, so it does not fall back to the driver local.",
            hint=f"{reason.hint} To have driver local all the same: COLDFRAME_DRIVER=local",
        ) from reason
    progress(f"no Docker engine: {reason}")
    ensure_bubblewrap(progress)
    return Driver.LOCAL
