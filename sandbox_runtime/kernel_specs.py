"""Finds the languages that an image adds by Jupyter's kernel specs."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import structlog

SYSTEM_DIRECTORIES = (Path("/usr/local/share/jupyter/kernels"), Path("/usr/share/jupyter/kernels"))
"""Not the user's own: what is said here is started for every cell of the language."""

log = structlog.get_logger()


class KernelSpec(msgspec.Struct, frozen=True):
    """A `kernel.json`: how a kernel is started. More fields may be there."""

    argv: list[str]
    language: str = ""
    env: dict[str, str] = {}
    interrupt_mode: str = "signal"
    resource_dir: str = ""
    """Where it lies; filled in by `kernel_specs`."""


_decoder = msgspec.json.Decoder(KernelSpec)


def kernel_specs(python: str, path: str | None = None) -> dict[str, KernelSpec]:
    """Those of the image and of its Python, by language and by name, in lower case.

    `python` is looked for in `path`, where it has none.
    """
    found: dict[str, KernelSpec] = {}
    where = shutil.which(python, path=path)
    beside = [Path(where).absolute().parent.parent / "share/jupyter/kernels"] if where else []
    for directory in (*beside, *SYSTEM_DIRECTORIES):
        for file in sorted(directory.glob("*/kernel.json")):
            try:
                spec = _decoder.decode(file.read_bytes())
            except (OSError, msgspec.DecodeError) as error:
                log.warning("kernel spec left out", path=str(file), reason=str(error))
                continue
            spec = msgspec.structs.replace(spec, resource_dir=str(file.parent))
            for name in (file.parent.name.lower(), spec.language.lower()):
                found.setdefault(name, spec)
    return found
