"""What all tests share: a Redis, a platform, things to build; and that CI skips nothing."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from stack.driver import Driver
from tests.client import Client
from tests.platform import Platform
from tests.redis_server import RedisServer
from tests.repositories import ServedRepository, archive_of_files, host_address, served

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
DRIVER = os.environ.get("COLDFRAME_TEST_DRIVER", "docker")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the session; each test that needs a clean one empties it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, where everything that the tests need is there, a skip is a failure."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    # Short: sockets lie in it.
    variables = networks_of_tests()
    with Platform.running(tmp_path_factory.mktemp("p") / "s", DRIVER, **variables) as platform:
        yield platform


def networks_of_tests() -> dict[str, str]:
    """Settings by which sandboxes reach the servers that tests start on this machine."""
    if DRIVER == "local":
        return {"COLDFRAME_LOCAL_NETWORK": "host"}
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return {"COLDFRAME_ALLOWED_RANGES": f"{host_address(Driver(DRIVER))}:{first}-{last}"}


@pytest.fixture(scope="session")
def api(platform: Platform) -> Iterator[Client]:
    with platform.connected() as client:
        yield client


@pytest.fixture(scope="session")
def archive() -> str:
    """An archive with a text and a test, in base64."""
    return archive_of_files()


@pytest.fixture(scope="session")
def repository_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepository]:
    """A git repository on an address of this machine that sandboxes reach."""
    with served(tmp_path_factory.mktemp("served"), host_address(Driver(DRIVER))) as repository:
        yield repository
