"""Keeps images.toml, which says what image a name stands for.

    [images]
    default = "sha256:…"

It lies in the state directory. `default` is ours, each other name an image of the operator's own.
"""

import fcntl
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from container.errors import ImageNamesInvalid

FILE_NAME = "images.toml"
DEFAULT_IMAGE = "default"

_HEADER = "# Image name -> image id. Written by `make up` and `make image`.\n"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def parse_image_names(text: str) -> dict[str, str]:
    """The names in a file's text, or ImageNamesInvalid."""
    hint = f"Mend {FILE_NAME}, or delete it: the default image is written again at the next build."
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ImageNamesInvalid(f"{FILE_NAME} is not TOML: {error}.", hint=hint) from error
    images = document.get("images", {})
    if set(document) - {"images"} or not isinstance(images, dict):
        raise ImageNamesInvalid(
            f"{FILE_NAME} may hold one table, [images], and nothing else.", hint=hint
        )
    for name, image_id in images.items():
        if not isinstance(image_id, str):
            raise ImageNamesInvalid(f"{FILE_NAME}: images.{name} is not a string.", hint=hint)
    return images


def render_image_names(images: Mapping[str, str]) -> str:
    """The file's text for these names, in alphabetical order."""
    rows = (f"{_key(name)} = {json.dumps(image_id)}\n" for name, image_id in sorted(images.items()))
    return _HEADER + "[images]\n" + "".join(rows)


def read_image_names(state_dir: Path) -> dict[str, str]:
    """No names where the file was never written. Raises `ImageNamesInvalid`."""
    path = state_dir / FILE_NAME
    return parse_image_names(path.read_text()) if path.exists() else {}


def record_image(state_dir: Path, name: str, image_id: str) -> None:
    """Make `name` stand for `image_id`."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with _alone(state_dir):
        images = read_image_names(state_dir)
        if images.get(name) != image_id:
            _write(state_dir, {**images, name: image_id})


def forget_image(state_dir: Path, name: str) -> None:
    """Make `name` stand for nothing."""
    with _alone(state_dir):
        images = read_image_names(state_dir)
        if images.pop(name, None) is not None:
            _write(state_dir, images)


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """One writer at a time: of two that read the same names, the second would undo the first."""
    descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(state_dir: Path, images: Mapping[str, str]) -> None:
    """A reader sees the old file or the new one, whole."""
    with tempfile.NamedTemporaryFile("w", dir=state_dir, prefix=FILE_NAME, delete=False) as file:
        file.write(render_image_names(images))
    whole = Path(file.name)
    whole.chmod(0o644)
    whole.replace(state_dir / FILE_NAME)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)
