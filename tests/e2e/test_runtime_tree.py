"""The tree that the runtime is mounted from: made once, kept while it is used, then removed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.types import Mount

from container.ca_bundle import find_ca_bundle
from container.errors import EngineUnavailable
from container.image import ensure_sandbox_image
from container.image_names import read_image_names
from container.runtime_tree import MOUNT, UNUSED_TREE_LIFE_S


def current_tree(state_dir: Path) -> Path:
    """The tree that new sandboxes get."""
    return (state_dir / "runtime" / "current").resolve(strict=True)


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state_dir = tmp_path_factory.mktemp("state")
    try:
        prepare(state_dir)
    except EngineUnavailable as error:
        pytest.skip(f"NO RUNTIME TREE TESTED: {error}")
    return state_dir


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def prepare(state_dir: Path) -> list[str]:
    """What it told while it worked."""
    told: list[str] = []
    ensure_sandbox_image(state_dir=state_dir, ca_bundle=find_ca_bundle(None), progress=told.append)
    return told


def test_a_tree_is_roots_alone_and_made_once(state_dir: Path) -> None:
    tree = current_tree(state_dir)
    made_at = tree.stat().st_mtime

    assert prepare(state_dir) == []
    assert current_tree(state_dir) == tree
    assert tree.stat().st_mtime == made_at
    assert (tree.stat().st_uid, tree.stat().st_mode & 0o777) == (os.geteuid(), 0o700)


def test_what_is_mounted_loads_nothing_of_the_image(
    state_dir: Path, client: docker.DockerClient
) -> None:
    program = (
        "import jupyter_client, sandbox_runtime.__main__, ssl, sys, zmq;"
        "print({line.split()[-1] for line in open('/proc/self/maps') if '.so' in line})"
    )

    output = client.containers.run(
        read_image_names(state_dir)["default"],
        [f"{MOUNT}/bin/python3", "-I", "-B", "-c", program],
        network="none",
        read_only=True,
        remove=True,
        mounts=[Mount(MOUNT, str(current_tree(state_dir)), type="bind", read_only=True)],
    )

    libraries = output.decode().strip("{}\n").split(", ")
    assert len(libraries) > 20
    assert [path for path in libraries if not path.startswith(f"'{MOUNT}/")] == []


def test_an_old_tree_is_removed_when_there_is_a_new_one_and_no_container_has_it(
    state_dir: Path, client: docker.DockerClient
) -> None:
    root = current_tree(state_dir).parent
    for name, age_s in (("unused", 2), ("mounted", 2), ("just-replaced", 0)):
        (root / name).mkdir()
        then = time.time() - age_s * UNUSED_TREE_LIFE_S
        os.utime(root / name, (then, then))
    container = client.containers.create(
        read_image_names(state_dir)["default"],
        mounts=[Mount(MOUNT, str(root / "mounted"), type="bind", read_only=True)],
    )
    (root / "current").unlink()
    tree = next(path for path in root.iterdir() if (path / "bin").is_dir())

    try:
        prepare(state_dir)
    finally:
        container.remove()

    left = {path.name for path in root.iterdir()}
    assert left == {"mounted", "just-replaced", "current", tree.name}
