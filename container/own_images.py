"""Adds images of the operator's own to those that this node's sandboxes start from."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from docker import DockerClient
from docker.errors import DockerException, ImageNotFound
from docker.models.images import Image

from container.base_image import ensure_base_image, is_debian
from container.build_context import DOCKERFILE, base_image
from container.errors import ImageNameRefused, ImageSourceInvalid
from container.fitness import check_fitness
from container.image_build import build
from container.image_names import (
    DEFAULT_IMAGE,
    forget_image,
    read_image_names,
    record_image,
)

REPOSITORY = "coldframe/own"
"""What the images are called in the engine, so that it does not take them for left-overs."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
"""As the API takes it."""


@dataclass(frozen=True, slots=True)
class OwnImage:
    """A name, the image that it stands for, and its size; None where the engine has lost it."""

    name: str
    image_id: str
    size_bytes: int | None


def add(
    client: DockerClient,
    name: str,
    source: Path,
    *,
    state_dir: Path,
    tree: Path,
    progress: Callable[[str], None],
) -> str:
    """Makes an image of a Dockerfile, its directory, or a tar archive, and pins it under `name`.

    An archive is a saved image (`docker save`) or a root file system. The image is tried first;
    what sandboxes of it will lack is told. A name that is there stands for the new image from then
    on; sandboxes that run keep the old one. The image's id. Raises `ContainerError`.
    """
    _check_name(name)
    recipe = _read(source)
    before = read_image_names(state_dir).get(name)
    tag = _tag(state_dir, name)
    new = f"{tag}.new"
    try:
        image_id = _make(client, recipe, new, progress)
        for warning in check_fitness(client, image_id, tree):
            progress(f"WARNING: {warning}")
        client.images.get(image_id).tag(REPOSITORY, tag=tag.partition(":")[2])
        record_image(state_dir, name, image_id)
    finally:
        _remove(client, new)
    if before not in (None, image_id):
        _remove(client, str(before))
    return image_id


def remove(client: DockerClient, name: str, *, state_dir: Path) -> None:
    """Takes a name away; the image, too, unless sandboxes still use it. Raises `ContainerError`."""
    if name == DEFAULT_IMAGE or name not in read_image_names(state_dir):
        names = ", ".join(sorted(set(read_image_names(state_dir)) - {DEFAULT_IMAGE}))
        raise ImageNameRefused(
            f"No image of your own is named {name}.",
            hint=f"There are: {names}." if names else "There is none yet.",
        )
    forget_image(state_dir, name)
    _remove(client, _tag(state_dir, name))


def list_all(client: DockerClient, *, state_dir: Path) -> list[OwnImage]:
    """All names, ours among them."""
    return [
        OwnImage(name, image_id, _size(client, image_id))
        for name, image_id in sorted(read_image_names(state_dir).items())
    ]


def is_saved_image(archive: Path) -> bool:
    """Whether a tar archive is what `docker save` writes; else it is a root file system.

    Raises `tarfile.TarError`.
    """
    with tarfile.open(archive) as tar:
        return any(member.name in ("manifest.json", "./manifest.json") for member in tar)


@dataclass(frozen=True, slots=True)
class _Dockerfile:
    """To be built with its directory for context."""

    file: Path
    base: str


@dataclass(frozen=True, slots=True)
class _Archive:
    """What `docker save` wrote, or a root file system."""

    file: Path
    is_saved_image: bool


def _check_name(name: str) -> None:
    if name == DEFAULT_IMAGE:
        raise ImageNameRefused(
            f"The image {DEFAULT_IMAGE} is ours: each build writes it anew.",
            hint="Choose another name, and ask for it with `image`.",
        )
    if _NAME.fullmatch(name) is None:
        raise ImageNameRefused(
            f"{name!r} cannot be an image's name.",
            hint="Use up to 100 lower-case letters, digits, dots, underscores and hyphens; the "
            "first is a letter or digit.",
        )


def _read(source: Path) -> _Dockerfile | _Archive:
    """Raises `ImageSourceInvalid`."""
    file = source / DOCKERFILE if source.is_dir() else source
    if not file.is_file():
        raise ImageSourceInvalid(
            f"There is no file {file}.",
            hint="Name a Dockerfile, a directory with one, or a tar archive.",
        )
    if tarfile.is_tarfile(file):
        return _Archive(file, is_saved_image=is_saved_image(file))
    try:
        return _Dockerfile(file, base=base_image(file.read_text()))
    except UnicodeDecodeError as error:
        raise ImageSourceInvalid(
            f"{file} is neither a Dockerfile nor a tar archive.",
            hint="Archives may be compressed with gzip, bzip2 or xz.",
        ) from error


def _make(
    client: DockerClient,
    recipe: _Dockerfile | _Archive,
    tag: str,
    progress: Callable[[str], None],
) -> str:
    """The id of the image, which is called `tag`, too."""
    repository, _, version = tag.partition(":")
    match recipe:
        case _Dockerfile(file, base):
            if is_debian(base):
                ensure_base_image(client, base, progress=progress)
            build(client, tag, progress=progress, path=str(file.parent), dockerfile=file.name)
        case _Archive(file, is_saved_image=True):
            progress(f"loading {file}")
            _load(client, file).tag(repository, tag=version)
        case _Archive(file):
            progress(f"importing {file} as a root file system")
            client.api.import_image_from_file(str(file), repository=repository, tag=version)
    return str(client.images.get(tag).id)


def _load(client: DockerClient, archive: Path) -> Image:
    with archive.open("rb") as file:
        loaded = client.images.load(file)
    if len({image.id for image in loaded}) != 1:
        raise ImageSourceInvalid(
            f"{archive} holds {len(loaded)} images.", hint="Save one image: docker save NAME"
        )
    return loaded[0]


def _tag(state_dir: Path, name: str) -> str:
    """Of this node's own: another on the same engine may use the same name."""
    node = hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:8]
    return f"{REPOSITORY}:{name}-{node}"


def _size(client: DockerClient, image_id: str) -> int | None:
    try:
        return int(client.images.get(image_id).attrs["Size"])
    except ImageNotFound:
        return None


def _remove(client: DockerClient, image: str) -> None:
    """Best effort: the engine keeps what a container uses, and what has another name."""
    try:
        client.images.remove(image)
    except DockerException:
        return
