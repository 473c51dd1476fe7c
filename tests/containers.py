"""What tests do to a sandbox's container behind the platform's back."""

from __future__ import annotations

import subprocess

from tests.client import Event


def as_runtimes_root(sandbox: Event, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as what a runtime that was taken over could: root, in its container."""
    return subprocess.run(
        ["docker", "exec", f"coldframe-{sandbox['id']}", "sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
