"""Tells, from inside a container, what sandboxes of its image could do.

The runtime's Python runs it there, as root with the right to become the user, and reads this text
from its command line: so it imports nothing of this package. It prints, as JSON, what cannot be
done, and why.
"""

import json
import subprocess
import sys

USER_ID = 1000
"""One that is not root: that only root may enter a directory would else be missed."""

TIMEOUT_S = 60
EMPTY_ARCHIVE = bytes(10240)

NEEDED = {
    "bash": ("bash", "--norc", "--noprofile", "--noediting", "-i", "-c", "exit 0"),
    "archives": (
        "tar",
        "--extract",
        "--no-same-owner",
        "--no-same-permissions",
        "--file=-",
    ),
    "git": ("git", "--version"),
    "python": ("python3", "-c", "import ipykernel"),
}


def complaint(argv: tuple[str, ...]) -> str:
    """Why a program cannot be run; empty where it can."""
    try:
        done = subprocess.run(
            argv,
            check=False,
            cwd="/",
            input=EMPTY_ARCHIVE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            user=USER_ID,
            group=USER_ID,
            extra_groups=[],
        )
    except OSError as error:
        return f"{argv[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{argv[0]} did not end within {TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1][:200] if said else f"{argv[0]} ended with {done.returncode}"


if __name__ == "__main__":
    found = {name: complaint(argv) for name, argv in NEEDED.items()}
    json.dump({name: reason for name, reason in found.items() if reason}, sys.stdout)
