"""What tests do to a sandbox's container behind the platform's back."""

from __future__ import annotations

import subprocess

from sandbox_runtime.protocol.client import RuntimeClient
from tests.client import Event
from tests.platform import Platform
from workers.drivers.driver import sandboxes_root
from workers.sandbox_directory import SandboxDirectory


def directory_of(platform: Platform, sandbox: Event) -> SandboxDirectory:
    return SandboxDirectory(sandboxes_root(platform.state_dir), sandbox["id"])


def runtime_of(platform: Platform, sandbox: Event) -> RuntimeClient:
    """Past the API, as its worker speaks with it."""
    directory = directory_of(platform, sandbox)
    saved = directory.load()
    assert saved is not None
    return RuntimeClient(directory.socket, saved.token)


def as_runtimes_root(sandbox: Event, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as what a runtime that was taken over could: root, in its container."""
    return subprocess.run(
        ["docker", "exec", f"coldframe-{sandbox['id']}", "sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
