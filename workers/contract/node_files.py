"""Where a node keeps the doors to its sandboxes: the worker makes them, the relay opens them.

    <state>/sandboxes/<id>/run/runtime.sock   the runtime's socket
    <state>/sandboxes/<id>/run/token          what it wants to be told

`run/` is the sandbox's too: what is found there need not be what was put there.
"""

from __future__ import annotations

from pathlib import Path

RUN_MOUNT = "/run/coldframe"
"""Where a sandbox sees its `run/`."""

SANDBOXES = "sandboxes"
RUN = "run"
SOCKET = "runtime.sock"
TOKEN = "token"


def run_dir(state_dir: Path, sandbox_id: str) -> Path:
    return state_dir / SANDBOXES / sandbox_id / RUN
