"""A node that does not isolate says so, and makes no sandbox: tried on a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client import Client, wait_for
from tests.conftest import DRIVER
from tests.platform import Platform
from workers import self_test
from workers.drivers.driver import DriverUnavailable, sandboxes_root
from workers.node import make_driver
from workers.settings import Settings

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="driver local promises nothing")

IN_ANOTHER_NAMESPACE = """
import os, pathlib, sys
from workers import self_test
from workers.drivers.driver import DriverUnavailable
from workers.node import make_driver
from workers.settings import Settings

settings = Settings.from_env(os.environ)
driver = make_driver(settings)
try:
    for _ in range(2):
        try:
            self_test.run(driver, pathlib.Path(sys.argv[1]))
            print("passed")
        except DriverUnavailable as fault:
            print(fault)
    print(*driver.check(), sep="\\n")
finally:
    driver.leave()
"""


def environ_of(platform: Platform, node: str) -> dict[str, str]:
    """Of a node beside the platform's, with its state."""
    return {"COLDFRAME_STATE_DIR": str(platform.state_dir), "COLDFRAME_NODE": node}


def test_a_node_that_isolates_passes_its_self_test_and_leaves_nothing_of_it(
    platform: Platform, tmp_path: Path
) -> None:
    driver = make_driver(Settings.from_env(environ_of(platform, "passes")))
    # Not the platform's own: its worker takes what it does not know for left behind.
    root = sandboxes_root(tmp_path)

    self_test.run(driver, root)

    assert not driver.sandboxes()
    assert list(root.iterdir()) == []
    driver.leave()


def test_a_node_that_fails_its_self_test_is_not_ready_says_why_and_tries_again(
    platform: Platform, api: Client
) -> None:
    images = platform.state_dir / "images.toml"
    good = images.read_text()
    platform.stop("worker")
    images.write_text(f'[images]\ndefault = "sha256:{"0" * 64}"\n')
    try:
        platform.start("worker")
        wait_for(lambda: "self-test: " in problem(api), "the node says what is wrong")
        ready = api.http.get("/readyz")
        made = api.http.put("/v1/sandboxes/refused", json={})
    finally:
        images.write_text(good)

    assert ready.status_code == 503
    assert made.status_code == 503
    assert "self-test" in made.json()["error"]["message"]
    platform.wait_until_ready(api)
    assert problem(api) == ""


def test_where_the_engine_does_not_see_our_mounts_directories_are_plain_and_it_is_told(
    platform: Platform, repository: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation=private"),
            *(sys.executable, "-c", IN_ANOTHER_NAMESPACE, str(sandboxes_root(tmp_path))),
        ],
        check=True,
        cwd=repository,
        env={**os.environ, **environ_of(platform, "elsewhere")},
        capture_output=True,
        text=True,
        timeout=60,
    )

    first, second, *warnings = done.stdout.splitlines()
    assert "the engine does not see what the worker mounts" in first
    assert second == "passed"
    assert any("volumes are plain directories" in warning for warning in warnings)


def test_the_engine_and_what_should_be_mended_of_it_can_be_seen(api: Client) -> None:
    (node,) = api.http.get("/v1/nodes").json()["nodes"]

    assert node["engine"].startswith("Docker ")
    assert "runc" in node["engine"]
    assert all(isinstance(warning, str) for warning in node["warnings"])


def test_a_node_whose_disk_is_nearly_full_makes_no_sandbox(platform: Platform) -> None:
    environ = environ_of(platform, "full") | {"COLDFRAME_DISK_RESERVE_MB": str(1 << 40)}
    driver = make_driver(Settings.from_env(environ))

    with pytest.raises(DriverUnavailable, match="disk is nearly full"):
        self_test.run(driver, sandboxes_root(platform.state_dir))

    driver.leave()


def test_a_sandbox_that_the_engine_refuses_leaves_nothing(
    platform: Platform, tmp_path: Path
) -> None:
    (tmp_path / "images.toml").write_text(f'[images]\ndefault = "sha256:{"0" * 64}"\n')
    (tmp_path / "runtime").symlink_to(platform.state_dir / "runtime")
    driver = make_driver(
        Settings.from_env({"COLDFRAME_STATE_DIR": str(tmp_path), "COLDFRAME_NODE": "refused"})
    )

    with pytest.raises(DriverUnavailable, match="self-test"):
        self_test.run(driver, sandboxes_root(tmp_path))

    assert not driver.sandboxes()
    assert list(sandboxes_root(tmp_path).iterdir()) == []
    driver.leave()


def problem(api: Client) -> str:
    """What the only node says in `GET /healthz`, which needs no key."""
    nodes = api.http.get("/healthz", headers={"Authorization": ""}).json()["nodes"]
    return str(nodes[0].get("problem", "")) if nodes else ""
