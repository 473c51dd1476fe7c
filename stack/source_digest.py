"""Tells whether the code that the programs run has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = frozenset({".py", ".cjs", ".lua", ".txt"})


def source_digest(root: Path, names: Iterable[str]) -> str:
    """SHA-256 over the paths and contents of the source files that `names` are or hold; in hex."""
    digest = hashlib.sha256()
    for name in sorted(names):
        for path in _source_files(root / name):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def _source_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(found for found in path.rglob("*") if found.suffix in SUFFIXES)
