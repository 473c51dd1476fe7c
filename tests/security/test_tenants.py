"""One owner against another, on every route and verb that the document has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from tests.client import Client, wait_for

METHODS = ("get", "put", "post", "delete")
ADMIN = "admin"

UNKNOWN_ID = "a" * 26
BODIES: dict[str, Any] = {
    "sandbox.create": {"name": "victim"},
    "exec.run": {"command": "id", "session": "secret"},
    "code.run": {"code": "1", "context": "{id}"},
    "context.create": {"language": "python"},
    "session.create": {"name": "mine"},
    "sandbox.set_env": {"env": {"A": "1"}},
    "port.expose": {"port": 8123},
    "process.start": {"command": "sleep 60"},
    "process.wait": {"for": "exit", "timeoutMs": 1000},
    "process.signal": {"signal": "TERM"},
    "job.answer": {"value": "x"},
    "build.create": {
        "repoUrl": "https://127.0.0.1:1/x",
        "steps": [{"name": "s", "commands": ["id"]}],
    },
    "file.create_directory": {"path": "/workspace/d"},
    "file.rename": {"path": "/workspace/secret", "to": "/workspace/x"},
    "file.move": {"path": "/workspace/secret", "to": "/workspace/x"},
    "file.change_mode": {"path": "/workspace/secret", "mode": "0777"},
    "file.replace": {"path": "/workspace/secret", "text": "s", "replacement": "x"},
}
QUERY = {"path": "/workspace/secret", "text": "s", "pattern": "*"}
UNSETTLED = frozenset({"requestId", "id", "jobId", "createdAt", "startedAt", "completedAt"})


class Route(NamedTuple):
    """One method of one path of the document."""

    name: str
    method: str
    path: str
    parameters: tuple[str, ...]
    scope: str


class Holdings(NamedTuple):
    """What the victim has: an id for each parameter of a path."""

    ids: dict[str, list[str]]
    job: str


@contextmanager
def key_for(api: Client, owner: str) -> Iterator[Client]:
    made = api.http.post("/v1/keys", json={"owner": owner})
    assert made.status_code == 201, made.text
    client = Client(str(api.http.base_url), made.json()["key"])
    with client.http:
        yield client


@pytest.fixture(scope="module")
def victim(api: Client) -> Iterator[Client]:
    with key_for(api, "victim") as client:
        yield client
        client.remove("victim")


@pytest.fixture(scope="module")
def attacker(api: Client) -> Iterator[Client]:
    with key_for(api, "attacker") as client:
        yield client
        for sandbox in client.http.get("/v1/sandboxes").json()["sandboxes"]:
            client.remove(sandbox["name"])


@pytest.fixture(scope="module")
def holdings(victim: Client) -> Holdings:
    victim.sandbox("victim")
    box = "/v1/sandboxes/victim"
    victim.exec("victim", "echo s3cret > /workspace/secret")
    job = victim.start_exec("victim", "echo s3cret; read -r line < <(sleep 600)", session="default")
    wait_for(lambda: victim.job(job)["status"] == "running", "the victim's job runs")

    def made(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = victim.http.post(f"{box}/{path}", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    session = made("sessions", {"name": "secret"})["name"]
    context = made("contexts", {"language": "python"})["id"]
    process = made("processes", {"command": "sleep 600"})["id"]
    terminal = made("terminals", {})["id"]
    made("ports", {"port": 8123})
    build = victim.submit(
        "/v1/builds",
        {"repoUrl": "https://127.0.0.1:1/x", "steps": [{"name": "s", "commands": ["true"]}]},
    )
    return Holdings(
        ids={
            "id": [job, context, process, terminal, build],
            "session": [session],
            "port": ["8123"],
        },
        job=job,
    )


def routes_of(api: Client) -> list[Route]:
    document = api.http.get("/v1/openapi.json").json()
    return [
        Route(
            operation["operationId"],
            method.upper(),
            path,
            tuple(re.findall(r"\{(\w+)\}", path)),
            operation.get("x-scope", ""),
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def told(answer: httpx.Response) -> tuple[int, Any]:
    """Status and body, without what differs from one request to the next."""
    try:
        body = answer.json()
    except ValueError:
        return answer.status_code, None
    return answer.status_code, _settled(body)


def _settled(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _settled(value) for name, value in body.items() if name not in UNSETTLED}
    return body


def ask(client: Client, route: Route, ids: dict[str, str]) -> tuple[int, Any]:
    path = route.path
    for parameter in route.parameters:
        path = path.replace(f"{{{parameter}}}", ids[parameter])
    body = BODIES.get(route.name)
    if body is not None:
        body = json.loads(json.dumps(body).replace("{id}", ids.get("id", UNKNOWN_ID)))
    needs_body = route.method in ("POST", "PUT")
    with client.http.stream(
        route.method,
        path,
        params=QUERY if "/files" in path else None,
        json=(body or {}) if needs_body else None,
        headers={"Accept": "application/json"},
    ) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer.status_code, "stream"
        answer.read()
        said = told(answer)
    for known in ids.values():
        said = json.loads(json.dumps(said).replace(known, "ID"))
    return said[0], said[1]


def test_another_owner_s_ids_are_as_if_they_were_not_there(
    api: Client, victim: Client, attacker: Client, holdings: Holdings
) -> None:
    """Of all that is reached by an id that is not below a sandbox's name: jobs, builds."""
    routes = [
        route
        for route in routes_of(api)
        if route.parameters and "name" not in route.parameters and route.scope != ADMIN
    ]

    for route in routes:
        for known in holdings.ids["id"]:
            stolen = ask(attacker, route, {"id": known})
            guessed = ask(attacker, route, {"id": UNKNOWN_ID})
            assert stolen == guessed, route
            assert stolen[0] == 404, route
    assert {route.name for route in routes} >= {"job.get", "job.events", "job.cancel", "build.get"}
    assert victim.job(holdings.job)["status"] == "running"


def test_another_owner_s_sandbox_is_not_reached_by_its_name(
    api: Client, victim: Client, attacker: Client, holdings: Holdings
) -> None:
    """The same name is a sandbox of the attacker's own, in which the ids are unknown."""
    before = state_of(victim)
    routes = [route for route in routes_of(api) if "name" in route.parameters]
    # What ends the attacker's own sandbox comes last.
    ends = ("sandbox.remove", "sandbox.stop", "sandbox.pause")
    routes.sort(key=lambda route: route.name in ends)

    attacker.sandbox("victim")
    for route in routes:
        others = [parameter for parameter in route.parameters if parameter != "name"]
        candidates = holdings.ids[others[0]] if others else [""]
        for known in candidates:
            found = ask(attacker, route, {"name": "victim", **dict.fromkeys(others, known)})
            assert "s3cret" not in json.dumps(found), route
            assert found[0] < 500 or found[0] in (501, 502, 503), (route, found)
            if others == ["id"] or others == ["session"]:
                unknown = {"name": "victim", **dict.fromkeys(others, UNKNOWN_ID)}
                assert found == ask(attacker, route, unknown), route
                assert found[0] == 404, (route, found)
        if route.name == "sandbox.pause":
            attacker.http.post("/v1/sandboxes/victim/resume")

    assert len(routes) > 60
    assert state_of(victim) == before
    assert victim.job(holdings.job)["status"] == "running"
    assert (
        "s3cret"
        in victim.http.get("/v1/sandboxes/victim/files", params={"path": "/workspace/secret"}).text
    )


def test_lists_show_an_owner_s_own_alone(
    victim: Client, attacker: Client, holdings: Holdings
) -> None:
    attacker.sandbox("own")
    mine = attacker.start_exec("own", "true")

    jobs = {job["id"] for job in attacker.http.get("/v1/jobs").json()["jobs"]}
    sandboxes = attacker.http.get("/v1/sandboxes").json()["sandboxes"]
    victims = {job["id"] for job in victim.http.get("/v1/jobs").json()["jobs"]}

    assert mine in jobs
    assert not jobs & victims
    assert "own" in {sandbox["name"] for sandbox in sandboxes}
    assert {sandbox["id"] for sandbox in sandboxes}.isdisjoint(
        {sandbox["id"] for sandbox in victim.http.get("/v1/sandboxes").json()["sandboxes"]}
    )


def test_who_is_no_operator_reaches_nothing_that_is_of_all(api: Client, attacker: Client) -> None:
    routes = [route for route in routes_of(api) if route.scope == ADMIN]

    for route in routes:
        ids = {"id": UNKNOWN_ID, "rest": "api/workers"}
        status, body = ask(attacker, route, ids)
        assert (status, body["error"]["code"]) == (403, "scope_missing"), route
    assert {route.name for route in routes} >= {"key.create", "node.list_all", "flower.page"}


def test_an_idempotency_key_is_an_owner_s_own(
    victim: Client, attacker: Client, holdings: Holdings
) -> None:
    attacker.sandbox("own")
    victim.sandbox("other")
    headers = {"Idempotency-Key": "the same"}
    body = {"command": "echo of $HOSTNAME"}

    answers = [
        client.http.post(f"/v1/sandboxes/{name}/exec", json=body, headers=headers).json()
        for client, name in ((victim, "other"), (attacker, "own"))
    ]

    assert answers[0]["jobId"] != answers[1]["jobId"]
    victim.remove("other")


def state_of(client: Client) -> dict[str, Any]:
    """What a sandbox is and has."""
    box = "/v1/sandboxes/victim"
    kinds = ("sessions", "contexts", "processes", "ports", "terminals", "files/list")
    found = {
        kind: client.http.get(
            f"{box}/{kind}", params={"path": "/workspace"} if "files" in kind else None
        ).json()
        for kind in kinds
    }
    return {"sandbox": client.http.get(box).json(), **found}
