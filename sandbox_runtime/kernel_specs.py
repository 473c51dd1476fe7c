"""Finds the languages that an image adds by Jupyter's kernel specs."""

from __future__ import annotations

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


def kernel_specs(python: str) -> dict[str, KernelSpec]:
    """Those of the image and of the Python at `python`, by language and by name, in lower case."""
    found: dict[str, KernelSpec] = {}
    of_python = Path(python).parent.parent / "share/jupyter/kernels"
    for directory in (of_python, *SYSTEM_DIRECTORIES):
        for path in sorted(directory.glob("*/kernel.json")):
            try:
                spec = _decoder.decode(path.read_bytes())
            except (OSError, msgspec.DecodeError) as error:
                log.warning("kernel spec left out", path=str(path), reason=str(error))
                continue
            spec = msgspec.structs.replace(spec, resource_dir=str(path.parent))
            for name in (path.parent.name.lower(), spec.language.lower()):
                found.setdefault(name, spec)
    return found
