"""Collects what an image of ours is made from."""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from container.errors import BuildInputsInvalid

TAG_LENGTH = 12  # hex digits: 48 bits, and `docker images` stays readable
RUNTIME = "sandbox_runtime"
SERVICE_PACKAGES = ("container", "relay", RUNTIME, "stack", "web", "workers")
REQUIREMENTS = "requirements.txt"
DOCKERFILE = "Dockerfile"
CA_BUNDLE = "ca-bundle.crt"


@dataclass(frozen=True, slots=True)
class BuildContext:
    """The files sent to the engine, by their path in the context: just what is hashed."""

    repository: str
    """What the image is called, but for its tag."""
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 over paths and contents, whatever the files' order, times and modes; in hex."""
        digest = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            # Lengths go in too: no two different sets of files may read as the same bytes.
            digest.update(f"{len(path)} {len(content)} {path}\n".encode())
            digest.update(content)
        return digest.hexdigest()

    @property
    def tag(self) -> str:
        return f"{self.repository}:{self.version}"

    @property
    def version(self) -> str:
        """Short for the digest."""
        return self.digest[:TAG_LENGTH]

    @property
    def base_image(self) -> str:
        return base_image(self.files[DOCKERFILE].decode())

    def as_tar(self) -> bytes:
        """The same bytes for the same files: root's, world-readable, of no particular time."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path, content in sorted(self.files.items()):
                member = tarfile.TarInfo(path)
                member.size = len(content)
                member.mode = 0o644
                tar.addfile(member, io.BytesIO(content))
        return archive.getvalue()


def sandbox_context(*, image_dir: Path, ca_pem: bytes) -> BuildContext:
    """Of the image that sandboxes start from: all of `image_dir`, and the CA bundle."""
    return BuildContext("coldframe/sandbox", {**_files_in(image_dir), CA_BUNDLE: ca_pem})


def runtime_context(*, image_dir: Path, runtime_dir: Path, ca_pem: bytes) -> BuildContext:
    """Of the image that the runtime is taken out of: with its code, no tests, nothing compiled."""
    files = {**_files_in(image_dir), CA_BUNDLE: ca_pem}
    for path in _runtime_files(runtime_dir):
        files[f"{RUNTIME}/{path}"] = (runtime_dir / path).read_bytes()
    return BuildContext("coldframe/runtime", files)


def services_context(*, repository: Path, ca_pem: bytes) -> BuildContext:
    """Of the image of docker-compose.yml's services: what .dockerignore lets through."""
    files = {
        DOCKERFILE: (repository / "container" / "services" / DOCKERFILE).read_bytes(),
        REQUIREMENTS: (repository / REQUIREMENTS).read_bytes(),
        CA_BUNDLE: ca_pem,
    }
    for package in SERVICE_PACKAGES:
        for path in _files_below(repository / package):
            files[f"{package}/{path}"] = (repository / package / path).read_bytes()
    return BuildContext("coldframe/services", files)


def base_image(dockerfile: str) -> str:
    """What the Dockerfile's first FROM names."""
    found = re.search(r"^FROM\s+(\S+)", dockerfile, re.MULTILINE)
    if found is None:
        raise BuildInputsInvalid(
            "The Dockerfile has no FROM.", hint="Begin it with the image that it starts from."
        )
    return found.group(1)


def _files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def _runtime_files(runtime_dir: Path) -> Iterator[PurePosixPath]:
    if not (runtime_dir / "__main__.py").is_file():
        raise BuildInputsInvalid(
            f"{runtime_dir} holds no runtime: there is no __main__.py.",
            hint="Run this from a complete checkout of Coldframe.",
        )
    yield from _files_below(runtime_dir)


def _files_below(directory: Path) -> Iterator[PurePosixPath]:
    for path in directory.rglob("*"):
        relative = path.relative_to(directory)
        if path.is_file() and not _is_left_out(relative):
            yield PurePosixPath(relative)


def _is_left_out(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    compiled = "__pycache__" in path.parts or path.suffix == ".pyc"
    test = "tests" in path.parts or path.name.startswith("test_") or path.name == "conftest.py"
    return hidden or compiled or test
