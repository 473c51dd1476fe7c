"""One platform for the end-to-end suite, and things for it to build."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from stack.driver import Driver
from stack.sample_repository import host_address
from tests.e2e.client import Client
from tests.e2e.platform import Platform
from tests.e2e.repositories import ServedRepository, archive_of_files, served

DRIVER = os.environ.get("COLDFRAME_TEST_DRIVER", "docker")


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    # Short: sockets lie in it.
    platform = Platform(tmp_path_factory.mktemp("p") / "s", DRIVER)
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


@pytest.fixture(scope="session")
def api(platform: Platform) -> Iterator[Client]:
    client = platform.client()
    yield client
    client.http.close()


@pytest.fixture(scope="session")
def archive() -> str:
    """An archive with a text and a test, in base64."""
    return archive_of_files()


@pytest.fixture(scope="session")
def repository_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepository]:
    """A git repository on an address of this machine that sandboxes reach."""
    with served(tmp_path_factory.mktemp("served"), host_address(Driver(DRIVER))) as repository:
        yield repository
