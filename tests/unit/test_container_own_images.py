"""What may be added as an image, under which name, and what it is taken for."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import docker
import pytest

from container import own_images
from container.errors import ImageNameRefused, ImageSourceInvalid
from container.image_names import forget_image, read_image_names, record_image


@pytest.mark.parametrize("name", ["default", "", "Mine", "-x", "a/b", "a b", "x" * 101])
def test_a_name_that_is_ours_or_that_no_request_could_name_is_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ImageNameRefused) as caught:
        add(name, tmp_path)

    assert caught.value.hint
    assert read_image_names(tmp_path) == {}


@pytest.mark.parametrize("content", [None, b"\x80\x81 not a text"])
def test_what_is_neither_a_dockerfile_nor_an_archive_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    source = tmp_path / "source"
    if content is not None:
        source.write_bytes(content)

    with pytest.raises(ImageSourceInvalid, match="source"):
        add("mine", source)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize(("member", "is_saved"), [("manifest.json", True), ("etc/passwd", False)])
def test_a_saved_image_is_told_from_a_root_file_system(
    tmp_path: Path, member: str, is_saved: bool, mode: Literal["w", "w:gz", "w:xz"]
) -> None:
    path = tmp_path / "image.tar"
    with tarfile.open(path, mode) as tar:
        tar.addfile(tarfile.TarInfo("bin/bash"))
        tar.addfile(tarfile.TarInfo(member), io.BytesIO())

    assert own_images.is_saved_image(path) is is_saved


def test_a_name_that_is_not_there_or_ours_is_not_removed(tmp_path: Path) -> None:
    record_image(tmp_path, "default", "sha256:aa")
    record_image(tmp_path, "mine", "sha256:bb")

    for name in ("default", "yours"):
        with pytest.raises(ImageNameRefused) as caught:
            own_images.remove(_no_engine(), name, state_dir=tmp_path)
        assert "mine" in caught.value.hint

    assert read_image_names(tmp_path) == {"default": "sha256:aa", "mine": "sha256:bb"}


def test_a_name_that_is_forgotten_leaves_the_others(tmp_path: Path) -> None:
    record_image(tmp_path, "default", "sha256:aa")
    record_image(tmp_path, "mine", "sha256:bb")

    forget_image(tmp_path, "mine")
    forget_image(tmp_path, "mine")

    assert read_image_names(tmp_path) == {"default": "sha256:aa"}


def test_names_that_are_recorded_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    names = [f"image-{number}" for number in range(32)]

    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: record_image(tmp_path, name, "sha256:aa"), names))

    assert sorted(read_image_names(tmp_path)) == sorted(names)


def add(name: str, source: Path) -> str:
    return own_images.add(
        _no_engine(), name, source, state_dir=source.parent, tree=source.parent, progress=print
    )


def _no_engine() -> docker.DockerClient:
    """Asks nobody, until it is asked something."""
    return docker.DockerClient(base_url="unix:///nonexistent/docker.sock", version="1.41")
