"""Provides the Debian image that the sandbox image starts from."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from docker import DockerClient
from docker.errors import DockerException, ImageNotFound

from container import debian_packages
from container.errors import BaseImageUnavailable

MMDEBSTRAP_TIMEOUT_S = 900

_DEBIAN = re.compile(r"debian:([a-z]+)(-slim)?")

# What Debian's slim images leave out as well: nobody reads manuals in a sandbox.
_SLIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)


def ensure_base_image(client: DockerClient, name: str, *, progress: Callable[[str], None]) -> None:
    """Have the image `name` in the engine: already there, pulled, or made of Debian's packages."""
    try:
        client.images.get(name)
    except ImageNotFound:
        _pull_or_make(client, name, progress=progress)


def is_debian(name: str) -> bool:
    """Whether it is an image that can be made without a registry."""
    return _DEBIAN.fullmatch(name) is not None


def debian_suite(name: str) -> str:
    """`bookworm` of `debian:bookworm-slim`."""
    found = _DEBIAN.fullmatch(name)
    if found is None:
        raise BaseImageUnavailable(
            f"{name} could not be pulled, and only debian:<suite> can be made.", hint=_hint(name)
        )
    return found.group(1)


def _pull_or_make(client: DockerClient, name: str, *, progress: Callable[[str], None]) -> None:
    progress(f"pulling {name}")
    try:
        client.images.pull(name)
    except (DockerException, OSError):
        progress(
            f"{name} could not be pulled: making it with mmdebstrap under the same name "
            "(about half a minute)"
        )
        _make(client, name, progress=progress)


def _make(client: DockerClient, name: str, *, progress: Callable[[str], None]) -> None:
    suite = debian_suite(name)
    if shutil.which("mmdebstrap") is None:
        debian_packages.install(["mmdebstrap"], progress=progress)
    repository, _, tag = name.partition(":")
    # By way of a file: fed from a pipe, the engine would keep half an image where mmdebstrap
    # fails halfway.
    with tempfile.TemporaryDirectory(prefix="coldframe-base-") as directory:
        archive = Path(directory) / "base.tar"
        _mmdebstrap(suite, archive, hint=_hint(name))
        client.api.import_image_from_file(
            str(archive), repository=repository, tag=tag, changes=['CMD ["bash"]']
        )
    progress(f"{name} is made")


def _mmdebstrap(suite: str, archive: Path, *, hint: str) -> None:
    options = [f"--dpkgopt={option}" for option in _SLIM]
    try:
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", *options, suite, str(archive)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=MMDEBSTRAP_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        raise BaseImageUnavailable(
            f"mmdebstrap failed: {error.stderr.strip()[-500:]}", hint=hint
        ) from error
    except subprocess.TimeoutExpired as error:
        message = f"mmdebstrap did not end within {MMDEBSTRAP_TIMEOUT_S} s."
        raise BaseImageUnavailable(message, hint=hint) from error


def _hint(name: str) -> str:
    return f"Load it from a machine that has it: docker save {name} there, docker load here."
