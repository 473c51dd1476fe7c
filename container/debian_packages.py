"""Installs Debian packages on this machine, where this process may."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from container.errors import PackagesUnavailable

APT_TIMEOUT_S = 600
APT_LOCK_TIMEOUT_S = 120  # another apt, such as a nightly upgrade, may hold the lock for a while


def can_install() -> bool:
    """Whether this process is root on Debian or a relative of it."""
    return (
        os.geteuid() == 0
        and Path("/etc/debian_version").exists()
        and shutil.which("apt-get") is not None
    )


def install(packages: Sequence[str], *, progress: Callable[[str], None]) -> None:
    """Install packages and what they depend on, without what they recommend."""
    names = " ".join(packages)
    by_hand = f"Install it by hand: apt-get install {names}"
    if not can_install():
        raise PackagesUnavailable(
            f"{names} is missing, and only root on Debian can install it.", hint=by_hand
        )
    progress(f"installing {names} with apt-get")
    lock = f"DPkg::Lock::Timeout={APT_LOCK_TIMEOUT_S}"
    _apt_get("-o", lock, "update", hint=by_hand)
    _apt_get("-o", lock, "install", "-y", "--no-install-recommends", *packages, hint=by_hand)


def _apt_get(*arguments: str, hint: str) -> None:
    try:
        subprocess.run(
            ["apt-get", "-q", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=APT_TIMEOUT_S,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.CalledProcessError as error:
        raise PackagesUnavailable(
            f"apt-get failed: {_last_lines(error.stdout)}", hint=hint
        ) from error
    except subprocess.TimeoutExpired as error:
        raise PackagesUnavailable(
            f"apt-get did not end within {APT_TIMEOUT_S} s.", hint=hint
        ) from error


def _last_lines(output: str, count: int = 5) -> str:
    return "\n".join(output.strip().splitlines()[-count:])
