"""Tries whether sandboxes can start from an image, in a container like theirs."""

from __future__ import annotations

import json
from pathlib import Path

from docker import DockerClient
from docker.errors import APIError
from docker.types import Mount
from requests.exceptions import ConnectionError as Broken
from requests.exceptions import ReadTimeout

from container.errors import ImageUnfit
from container.runtime_tree import MOUNT, PYTHON

PROBE_TIMEOUT_S = 120
SHOWN_CHARS = 500

# What the runtime imports at its start, then our questions.
_PROBE = (
    f"import sandbox_runtime.__main__\n{Path(__file__).with_name('image_probe.py').read_text()}"
)

_WARNINGS = {
    "archives": "no archive can be unpacked",
    "git": "no repository can be checked out, so only archives can be built",
    "python": "no code can be run (interpreter_missing)",
}
"""What a sandbox can do without."""


def check_fitness(client: DockerClient, image_id: str, tree: Path) -> list[str]:
    """What sandboxes of this image will lack, one warning each. Raises `ImageUnfit`."""
    _check_volumes(client, image_id)
    missing = _probe(client, image_id, tree)
    if "bash" in missing:
        raise ImageUnfit(
            f"Sandboxes need bash, and the image has none that works: {missing['bash']}.",
            hint="Install bash in the image, so that it is found by its PATH.",
        )
    return [f"{_WARNINGS[what]}: {reason}" for what, reason in missing.items()]


def _check_volumes(client: DockerClient, image_id: str) -> None:
    config = client.images.get(image_id).attrs["Config"] or {}
    if config.get("Volumes"):
        raise ImageUnfit(
            f"The image declares volumes ({', '.join(config['Volumes'])}): each sandbox would have "
            "disk space beyond its limit.",
            hint="Flatten it, and add that: docker export $(docker create IMAGE) > image.tar",
        )


def _probe(client: DockerClient, image_id: str, tree: Path) -> dict[str, str]:
    """What cannot be done in a sandbox of the image, and why."""
    container = client.containers.create(
        image_id,
        [PYTHON, "-I", "-B", "-X", "utf8", "-c", _PROBE],
        entrypoint=[],
        user="0:0",
        working_dir="/",
        init=True,
        cap_drop=["ALL"],
        cap_add=["SETUID", "SETGID"],
        security_opt=["no-new-privileges:true"],
        network="none",
        read_only=True,
        tmpfs={"/tmp": "rw,nosuid,nodev,mode=1777,size=16m"},
        mounts=[Mount(target=MOUNT, source=str(tree), type="bind", read_only=True)],
        mem_limit="1g",
        pids_limit=128,
        healthcheck={"test": ["NONE"]},
    )
    try:
        container.start()
        status = container.wait(timeout=PROBE_TIMEOUT_S)["StatusCode"]
        if status == 0:
            return dict(json.loads(container.logs(stdout=True, stderr=False)))
        said = container.logs(stdout=False, stderr=True).decode(errors="replace").strip()
        reason = said[-SHOWN_CHARS:] or f"it ended with {status}"
    except APIError as error:
        reason = str(error.explanation or error)
    except (ReadTimeout, Broken):
        reason = f"it did not end within {PROBE_TIMEOUT_S} s"
    finally:
        container.remove(force=True, v=True)
    raise ImageUnfit(
        f"The runtime does not start in the image: {reason}",
        hint="See that it is an image for Linux on this machine's processor.",
    )
