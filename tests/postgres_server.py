"""A PostgreSQL server of the tests' own, on a socket in a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from container import debian_packages
from container.errors import ContainerError

USER = "postgres"
"""A server refuses to run as root."""


def programs() -> Path | None:
    """Where `initdb` and `postgres` are; None where they are not installed."""
    found = shutil.which("initdb")
    debians = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).resolve().parent if found else debians[-1].parent if debians else None


@contextmanager
def running_postgres() -> Iterator[str]:
    """Gives the URL of its database."""
    directory = programs()
    assert directory is not None
    user = {"user": USER} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="cf-pg-") as home:
        if user:
            shutil.chown(home, USER)
        data = f"{home}/data"
        initdb = [directory / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=home, timeout=100, **user)  # type: ignore[call-overload]
        control = [directory / "pg_ctl", "-D", data, "-w", "-l", f"{home}/log"]
        options = f"-k {home} -c listen_addresses= -c fsync=off"
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": home, "timeout": 60, **user}
        subprocess.run([*control, "-o", options, "start"], **quiet)  # type: ignore[call-overload]
        try:
            yield f"postgresql://{USER}@/postgres?host={home}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]


def main() -> int:
    """Installs it where it is missing and can be."""
    if programs() is None:
        try:
            debian_packages.install(["postgresql"], progress=print)
        except ContainerError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
