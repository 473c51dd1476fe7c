"""No process of the platform grows with what a job prints, or with a reader that does not read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tests.client import Client, wait_for
from tests.conftest import DRIVER
from tests.memory import peak_rss_mb
from tests.platform import Platform

MIB = 1024 * 1024
PRINTED_BYTES = 100_000_000

MOST_MIB = {"web": 128, "worker": 128, "runtime": 112}
"""As docs/operations.md has it; about half of it was seen."""

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="finds the runtime by its container")


def forget_most(pid: int) -> None:
    """What it had before does not count."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def reader_that_does_not_read(platform: Platform, job_id: str) -> Iterator[None]:
    access = platform.access
    host, port = access.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = (
            f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {access.api_key}\r\n\r\n"
        )
        connection.sendall(request.encode())
        yield


def test_a_hundred_megabytes_and_a_reader_that_does_not_read_stay_within_the_bounds(
    platform: Platform, api: Client
) -> None:
    sandbox = api.sandbox("loud")
    of_web = [platform.pid("web"), *children_of(platform.pid("web"))]
    worker = platform.pid("worker")
    for pid in (*of_web, worker):
        forget_most(pid)
    job_id = api.start_exec(
        "loud",
        f"head -c {PRINTED_BYTES} /dev/zero | tr '\\0' x",
        outputLimitBytes=2 * PRINTED_BYTES,
    )

    with reader_that_does_not_read(platform, job_id):
        wait_for(lambda: api.job(job_id)["status"] == "completed", "it has printed all", 90)

    client = docker.from_env()
    init = client.containers.get(f"coldframe-{sandbox['id']}").attrs["State"]["Pid"]
    client.close()
    most = {
        "web": max(peak_rss_mb(pid) for pid in of_web),
        "worker": peak_rss_mb(worker),
        "runtime": max(peak_rss_mb(pid) for pid in children_of(init)),
    }
    assert api.job(job_id)["conclusion"] == "success"
    assert {name: mib for name, mib in most.items() if mib > MOST_MIB[name]} == {}, most
    api.remove("loud")
