"""What the tests of the runtime's routes share; each module has a `runtime` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.running_runtime import RunningRuntime


@pytest.fixture(scope="module")
def http(runtime: RunningRuntime) -> Iterator[httpx.Client]:
    with runtime.http() as client:
        yield client
