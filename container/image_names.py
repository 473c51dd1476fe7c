"""Keeps images.toml, which says what image a name stands for.

    [images]
    default = "sha256:…"

It lies in the state directory. An operator may add names of their own: they are kept.
"""

import json
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from container.errors import ImageNamesInvalid

FILE_NAME = "images.toml"
DEFAULT_IMAGE = "default"

_HEADER = "# Image name -> image id. A build writes `default` and keeps the other names.\n"
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


def record_image(state_dir: Path, name: str, image_id: str) -> None:
    """Make `name` stand for `image_id`. A reader sees the old file or the new one, whole."""
    path = state_dir / FILE_NAME
    images = parse_image_names(path.read_text()) if path.exists() else {}
    if images.get(name) == image_id:
        return
    state_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=state_dir, prefix=FILE_NAME, delete=False) as file:
        file.write(render_image_names({**images, name: image_id}))
    whole = Path(file.name)
    whole.chmod(0o644)
    whole.replace(path)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)
