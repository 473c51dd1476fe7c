"""The platform of docker-compose.yml, on an engine and nothing else.

One platform serves all tests, which build on each other: the last one ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stack import tour
from tests.client import Client, wait_for
from tests.compose import Compose, need_compose
from tests.previews import looking_at, serve

# The image of the services may have to be built first.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

SERVICES = ("beat", "flower", "redis", "relay", "web", "worker")
UNPRIVILEGED = ("beat", "flower", "redis", "web")
BOX = "kept"
PORT = 8080


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    need_compose()
    with Compose.running(tmp_path_factory.mktemp("c")) as compose:
        yield compose


@pytest.fixture
def api(compose: Compose) -> Iterator[Client]:
    with compose.connected() as client:
        yield client


def test_the_tour_of_make_up_runs_against_it(compose: Compose, tmp_path: Path) -> None:
    tour.show(compose.access)


def test_a_server_in_a_sandbox_is_shown(api: Client) -> None:
    serve(api, BOX, "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=8080)", PORT)
    url = api.http.post(f"/v1/sandboxes/{BOX}/ports", json={"port": PORT}).json()["url"]

    with looking_at(url) as preview:
        answer = preview.get("/")

    assert answer.status_code == 200


def test_the_services_that_compose_starts_are_these(compose: Compose) -> None:
    assert tuple(compose.services()) == SERVICES


def test_flower_is_told_nobodys_password(compose: Compose, api: Client) -> None:
    told = api.http.get("/flower/api/workers?refresh=1").text

    assert "redis+socket://" in told
    assert [secret for secret in compose.secrets() if secret in told] == []


@pytest.mark.parametrize("service", UNPRIVILEGED)
def test_a_service_without_privilege_is_nobody(compose: Compose, service: str) -> None:
    status = _status(compose, service)

    assert status["CapBnd"] == status["CapEff"] == "0000000000000000"
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()


def test_the_relay_can_enter_a_sandboxs_network_and_no_more(compose: Compose) -> None:
    sys_ptrace, sys_admin = 1 << 19, 1 << 21

    status = _status(compose, "relay")

    assert int(status["CapBnd"], 16) == sys_ptrace | sys_admin
    assert status["NoNewPrivs"] == "1"


def test_its_worker_bounds_what_sandboxes_use(api: Client) -> None:
    (node,) = api.http.get("/v1/nodes").json()["nodes"]

    assert node["ready"]
    assert not [line for line in node["warnings"] if "volumes" in line or "groups" in line]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_killed_comes_back_by_itself(
    compose: Compose, api: Client, service: str
) -> None:
    api.exec(BOX, f"echo {service} > /workspace/killed")
    before = compose.state(service)["StartedAt"]

    compose.kill(service)

    compose.wait_until_healthy(service, not_as=before)
    wait_for(lambda: _ran(api, "cat /workspace/killed") == f"{service}\n", "an exec runs again")
    assert api.http.get(f"/v1/sandboxes/{BOX}/files/list?path=.").status_code == 200
    assert api.http.get("/flower/healthcheck").status_code == 200


def test_nothing_is_left_of_it_when_it_is_down(compose: Compose, api: Client) -> None:
    api.sandbox("left", network="egress")

    compose.down()

    assert {kind: found for kind, found in compose.leftovers().items() if found} == {}


def _status(compose: Compose, service: str) -> dict[str, str]:
    """What the kernel says of a service's first process."""
    text = Path(f"/proc/{compose.state(service)['Pid']}/status").read_text()
    return {name: value.strip() for name, _, value in (x.partition(":") for x in text.splitlines())}


def _ran(api: Client, command: str) -> str:
    """What it printed; nothing where it could not be run."""
    try:
        answer = api.http.post(f"/v1/sandboxes/{BOX}/exec", json={"command": command})
    except httpx.TransportError:
        return ""
    return str(answer.json()["stdout"]) if answer.status_code == 200 else ""
