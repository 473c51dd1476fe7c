"""What the tests of the runtime's routes share; each module has a `runtime` of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.running_runtime import IS_ROOT, SANDBOX_UID, RunningRuntime


@pytest.fixture(scope="module")
def http(runtime: RunningRuntime) -> Iterator[httpx.Client]:
    with runtime.http() as client:
        yield client


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """An interpreter with ipykernel, numpy, pandas and matplotlib, that other users can run."""
    python = os.environ.get("COLDFRAME_TEST_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import ipykernel"], capture_output=True, timeout=30)
    if found.returncode != 0:
        pytest.skip(f"NO KERNEL TESTED: {python} has no ipykernel; set COLDFRAME_TEST_PYTHON")
    if not IS_ROOT or _others_can_run(python):
        yield python
        return
    # The checkout lies in a directory of root's alone.
    with tempfile.TemporaryDirectory(prefix="cf-") as directory:
        Path(directory).chmod(0o755)
        copied = Path(directory) / "python"
        shutil.copytree(Path(python).parents[1], copied, symlinks=True)
        yield str(copied / "bin" / Path(python).name)


def _others_can_run(program: str) -> bool:
    """Not by `setpriv`, which keeps root's rights until the program has started."""
    try:
        argv = [program, "-c", ""]
        subprocess.run(argv, user=SANDBOX_UID, extra_groups=(), timeout=30, cwd="/", check=True)
    except PermissionError:
        return False
    return True
