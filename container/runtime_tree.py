"""Has the runtime ready to be mounted into sandboxes, with all that it needs to run in any image.

<state>/runtime/
    <version>/   bin/python3, its library and packages, shared libraries and their loader: root's
    current      a link to the one that new sandboxes get

A change of `sandbox_runtime/` makes a new tree; sandboxes that run keep theirs.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from docker import DockerClient

from container.build_context import RUNTIME, BuildContext, runtime_context
from container.image_build import find_or_build

MOUNT = "/opt/coldframe"
"""Where a sandbox sees the tree; it runs nowhere else."""

PYTHON = f"{MOUNT}/bin/python3"
UNUSED_TREE_LIFE_S = 3600.0
"""A worker that is about to be replaced may still start a sandbox with the tree of before."""

_IMAGE_DIR = Path(__file__).parent / "runtime"
_RUNTIME_DIR = Path(__file__).parent.parent / RUNTIME
_CURRENT = "current"


def ensure_runtime_tree(
    client: DockerClient, *, state_dir: Path, ca_pem: bytes, progress: Callable[[str], None]
) -> Path:
    """The tree for the files of this checkout. Nothing is done or told where it is there."""
    context = runtime_context(image_dir=_IMAGE_DIR, runtime_dir=_RUNTIME_DIR, ca_pem=ca_pem)
    root = state_dir.absolute() / "runtime"
    tree = root / context.version
    if not tree.is_dir():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _take_out(client, context, tree, progress)
    if not (root / _CURRENT).is_symlink() or (root / _CURRENT).readlink() != Path(tree.name):
        _point_to(tree)
        _remove_older_trees(client, root)
    return tree


def _take_out(
    client: DockerClient, context: BuildContext, tree: Path, progress: Callable[[str], None]
) -> None:
    """Copies the tree out of the image, by way of a container that is never started."""
    image_id = find_or_build(client, context, progress)
    container = client.containers.create(image_id, ["true"])
    try:
        chunks, _ = container.get_archive(MOUNT)
        with _new_directory(tree) as directory, tempfile.TemporaryFile() as archive:
            for chunk in chunks:
                archive.write(chunk)
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                # Ours, owners and modes included.
                tar.extraction_filter = lambda member, path: member
                tar.extractall(directory)
            made = directory / Path(MOUNT).name
            os.utime(made)
            made.replace(tree)
    finally:
        container.remove(force=True)


@contextmanager
def _new_directory(tree: Path) -> Iterator[Path]:
    """On the tree's own file system. What a killed program leaves of it, a later one removes."""
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=f"{tree.name}-") as directory:
        yield Path(directory)


def _point_to(tree: Path) -> None:
    root = tree.parent
    new = root / f"{_CURRENT}-{os.getpid()}"
    new.unlink(missing_ok=True)
    new.symlink_to(tree.name)
    was = (root / _CURRENT).resolve()
    new.replace(root / _CURRENT)
    if was.is_dir():
        os.utime(was)  # From now on it is unused.


def _remove_older_trees(client: DockerClient, root: Path) -> None:
    mounted = {
        mount.get("Source")
        for container in client.api.containers(all=True)
        for mount in container["Mounts"]
    }
    unused_since = time.time() - UNUSED_TREE_LIFE_S
    for tree in root.iterdir():
        in_use = tree.is_symlink() or str(tree) in mounted or tree == (root / _CURRENT).resolve()
        if not in_use and tree.stat().st_mtime < unused_since:
            shutil.rmtree(tree, ignore_errors=True)
