"""API keys: whose they are, what they may, and how much."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from tests.integration.web_client import (
    AT_ONCE,
    Json,
    Web,
    code_of,
    field_of,
    json_of,
    wait_for,
    web_on,
)
from tests.integration.web_node import FakeNode
from tests.postgres_server import programs, running_postgres
from tests.redis_server import RedisServer
from web.auth import OPERATOR
from web.database import Database, migrate
from web.errors import DatabaseUnavailable, KeyNotFound
from web.keys import KEY_PREFIX, KeyStore, Scope, digest_of
from web.settings import Secret
from workers.contract.owners import NO_LIMITS

EARLY, LATE = "2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"
READ = frozenset({Scope.READ})


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    if programs() is None:
        assert "CI" not in os.environ
        pytest.skip("NO POSTGRESQL TESTED: it is not installed")
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Secret:
    if request.param == "sqlite":
        return Secret(f"sqlite:///{tmp_path / 'keys.db'}")
    return Secret(request.getfixturevalue("postgres"))


class Clock:
    def __init__(self) -> None:
        self.now = EARLY

    def __call__(self) -> str:
        return self.now


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[Web]:
    redis_server.empty()
    with FakeNode(redis_server), web_on(redis_server) as web:
        yield web


def new_key(web: Web, owner: str = "ann", **fields: object) -> Json:
    answer = web.send("POST", "/v1/keys", {"owner": owner, **fields})
    assert answer.status_code == 201, answer.text
    return json_of(answer)


def as_key(key: Json) -> dict[str, str]:
    return {"Authorization": f"Bearer {key['key']}"}


def ask(web: Web, key: Json, method: str, path: str, body: Json | None = None) -> TestResponse:
    return web.send(method, path, body, as_key(key))


def test_keys_are_kept_by_both_databases(database_url: Secret) -> None:
    migrate(database_url)
    migrate(database_url)
    database, clock = Database(database_url), Clock()
    keys = KeyStore(database, now=clock)
    owner = f"ann-{os.getpid()}"

    made = [
        keys.create(
            owner=owner,
            name=name,
            scopes=READ,
            limits=NO_LIMITS,
            created_by=OPERATOR,
            expires_at=expires_at,
        )
        for name, expires_at in (("for good", None), ("for a while", "2026-01-01T12:00:00.000Z"))
    ]
    (lasting, lasting_text), (brief, brief_text) = made
    found = [keys.find(digest_of(text)) for _, text in made]
    listed = keys.page(owner=owner, after=None, limit=10)
    rest = keys.page(owner=owner, after=listed[0].id, limit=10)
    clock.now = LATE
    keys.revoke(lasting.id)
    keys.revoke(lasting.id)

    assert found == [lasting, brief]
    assert [key.id for key in listed] == sorted((lasting.id, brief.id), reverse=True)
    assert rest == listed[1:]
    assert keys.find(digest_of(brief_text)) is None
    assert keys.find(digest_of(lasting_text)) is None
    assert keys.find(digest_of("cf_unknown")) is None
    assert keys.get(lasting.id).revoked_at == LATE
    with pytest.raises(KeyNotFound):
        keys.revoke("unknown")
    database.close()


def test_a_database_without_tables_says_what_to_do(tmp_path: Path) -> None:
    database = Database(Secret(f"sqlite:///{tmp_path / 'empty.db'}"))

    with pytest.raises(DatabaseUnavailable, match="no such table") as caught:
        KeyStore(database, now=Clock()).find(b"x")

    assert "python -m web migrate" in caught.value.hint
    database.close()


def test_the_file_of_keys_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keys.db"
    migrate(Secret(f"sqlite:///{path}"))

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_is_shown_once_and_kept_as_a_digest(web: Web, tmp_path: Path) -> None:
    made = new_key(web, name="laptop", limits={"sandboxes": 3})
    kept = json_of(web.send("GET", f"/v1/keys/{made['id']}"))
    listed = web.send("GET", "/v1/keys?owner=ann")

    assert made["key"].startswith(KEY_PREFIX)
    assert len(made["key"]) > 30
    assert kept == {name: value for name, value in made.items() if name != "key"}
    assert kept["scopes"] == ["read", "run"]
    assert kept["limits"] == {"sandboxes": 3}
    assert kept["createdBy"] == "operator"
    assert made["key"] not in listed.text
    assert made["id"] in listed.text


def test_keys_are_listed_in_pages(web: Web) -> None:
    made = {new_key(web, owner="pages")["id"] for _ in range(5)}
    seen: list[str] = []
    path = "/v1/keys?owner=pages&limit=2"
    while True:
        page = json_of(web.send("GET", path))
        seen += [key["id"] for key in page["keys"]]
        if "nextCursor" not in page:
            break
        path = f"/v1/keys?owner=pages&limit=2&cursor={page['nextCursor']}"

    assert (len(seen), set(seen)) == (5, made)


def test_a_revoked_key_opens_nothing(web: Web) -> None:
    key = new_key(web)
    before = ask(web, key, "GET", "/v1/sandboxes").status_code
    revoked = web.send("DELETE", f"/v1/keys/{key['id']}").status_code
    again = web.send("DELETE", f"/v1/keys/{key['id']}").status_code

    assert (before, revoked, again) == (200, 204, 204)
    wait_for(lambda: ask(web, key, "GET", "/v1/sandboxes").status_code == 401, "it opens nothing")
    assert "revokedAt" in json_of(web.send("GET", f"/v1/keys/{key['id']}"))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "owner"),
        ({"owner": ""}, "owner"),
        ({"owner": "Ann"}, "owner"),
        ({"owner": "a:b"}, "owner"),
        ({"owner": "ann\n"}, "owner"),
        ({"owner": "a" * 64}, "owner"),
        ({"owner": "ann", "scopes": []}, "scopes"),
        ({"owner": "ann", "scopes": ["root"]}, "scopes[0]"),
        ({"owner": "ann", "limits": {"sandboxes": -1}}, "limits.sandboxes"),
        ({"owner": "ann", "limits": {"requestsPerSecond": 0}}, "limits.requestsPerSecond"),
        ({"owner": "ann", "limits": {"cpus": 1}}, "limits.cpus"),
        ({"owner": "ann", "expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"owner": "ann", "expiresAt": "2100-01-01T00:00:00"}, "expiresAt"),
        ({"owner": "ann", "key": "cf_mine"}, "key"),
    ],
)
def test_a_wrong_key_request_says_which_field(web: Web, body: Json, field: str) -> None:
    answer = web.send("POST", "/v1/keys", body)

    assert (answer.status_code, field_of(answer)) == (422, field)


@pytest.mark.parametrize(
    ("scopes", "method", "path", "needed"),
    [
        (["read"], "PUT", "/v1/sandboxes/scoped", "run"),
        (["read"], "POST", "/v1/sandboxes/scoped/exec", "run"),
        (["read"], "POST", "/v1/jobs/unknown/cancel", "run"),
        (["read", "run"], "GET", "/v1/keys", "admin"),
        (["read", "run"], "POST", "/v1/keys", "admin"),
        (["read", "run"], "DELETE", "/v1/keys/unknown", "admin"),
        (["read", "run"], "GET", "/flower/", "admin"),
        (["admin"], "GET", "/v1/sandboxes", "read"),
        (["run"], "GET", "/v1/jobs/unknown", "read"),
    ],
)
def test_a_key_may_what_its_scopes_say(
    web: Web, scopes: list[str], method: str, path: str, needed: str
) -> None:
    answer = ask(web, new_key(web, scopes=scopes), method, path)

    assert (answer.status_code, code_of(answer)) == (403, "scope_missing")
    assert json_of(answer)["error"]["details"]["scope"] == needed


def test_a_key_that_only_looks_makes_no_sandbox_by_looking(web: Web) -> None:
    reader = new_key(web, owner="looker", scopes=["read"])
    maker = new_key(web, owner="looker")
    path = "/v1/sandboxes/unseen/files?path=/x"

    absent = ask(web, reader, "GET", path)
    ask(web, maker, "PUT", "/v1/sandboxes/unseen", {})
    ask(web, maker, "POST", "/v1/sandboxes/unseen/stop")
    stopped = ask(web, reader, "GET", path)

    assert (absent.status_code, code_of(absent)) == (404, "sandbox_not_found")
    assert (stopped.status_code, code_of(stopped)) == (409, "sandbox_not_running")


def test_names_are_an_owner_s_own(web: Web) -> None:
    ann, bob = new_key(web, owner="own-ann"), new_key(web, owner="own-bob")
    anns = json_of(ask(web, ann, "PUT", "/v1/sandboxes/same", {}))
    bobs = json_of(ask(web, bob, "PUT", "/v1/sandboxes/same", {}))
    ask(web, bob, "DELETE", "/v1/sandboxes/same")

    assert anns["id"] != bobs["id"]
    assert ask(web, bob, "GET", "/v1/sandboxes/same").status_code == 404
    assert json_of(ask(web, ann, "GET", "/v1/sandboxes/same"))["id"] == anns["id"]
    assert json_of(ask(web, bob, "GET", "/v1/sandboxes"))["sandboxes"] == []


def test_requests_beyond_the_rate_are_refused_at_once_and_others_go_on(web: Web) -> None:
    slow = new_key(web, limits={"requestsPerSecond": 2})
    free = new_key(web)
    answers = [ask(web, slow, "GET", "/v1/sandboxes") for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    allowed = [answer for answer in answers if answer.status_code == 200]

    assert len(allowed) + len(refused) == 20
    assert len(allowed) >= 2
    assert len(refused) >= 1
    assert code_of(refused[0]) == "rate_limited"
    assert refused[0].headers["Retry-After"] == "1"
    assert refused[0].headers["RateLimit-Limit"] == "2"
    assert refused[0].headers["RateLimit-Remaining"] == "0"
    assert allowed[0].headers["RateLimit-Remaining"] == "1"
    assert ask(web, free, "GET", "/v1/sandboxes").status_code == 200
    assert "RateLimit-Limit" not in ask(web, free, "GET", "/v1/sandboxes").headers
    wait_for(lambda: ask(web, slow, "GET", "/v1/sandboxes").status_code == 200, "it may again")


def test_an_owner_gets_no_more_sandboxes_than_its_key_may_have(web: Web) -> None:
    key = new_key(web, owner="few", limits={"sandboxes": 2})
    made = [ask(web, key, "PUT", f"/v1/sandboxes/box-{i}", {}).status_code for i in range(2)]
    third = ask(web, key, "PUT", "/v1/sandboxes/box-2", {})
    by_use = ask(web, key, "POST", "/v1/sandboxes/box-3/exec", {"command": "say x"})
    found = ask(web, key, "PUT", "/v1/sandboxes/box-0", {}).status_code
    ask(web, key, "DELETE", "/v1/sandboxes/box-1")
    freed = ask(web, key, "PUT", "/v1/sandboxes/box-2", {}).status_code

    assert made == [201, 201]
    assert (third.status_code, code_of(third)) == (429, "too_many_sandboxes")
    assert (by_use.status_code, code_of(by_use)) == (429, "too_many_sandboxes")
    assert "Retry-After" in third.headers
    assert (found, freed) == (200, 201)


def test_an_owner_gets_no_more_open_jobs_than_its_key_may_have(web: Web) -> None:
    key = new_key(web, owner="busy", limits={"openJobs": 2})
    ask(web, key, "PUT", "/v1/sandboxes/box", {})
    run = "/v1/sandboxes/box/exec"

    def start() -> TestResponse:
        return web.send("POST", run, {"command": "hold"}, as_key(key) | AT_ONCE)

    jobs = [start() for _ in range(2)]
    third = start()
    ask(web, key, "POST", f"/v1/jobs/{json_of(jobs[1])['id']}/cancel")
    wait_for(lambda: start().status_code == 202, "there is room for one more")

    assert [job.status_code for job in jobs] == [202, 202]
    assert (third.status_code, code_of(third)) == (429, "too_many_jobs")
    ask(web, key, "DELETE", "/v1/sandboxes/box")


def test_jobs_beyond_those_that_run_at_once_wait_and_run_after(web: Web) -> None:
    key = new_key(web, owner="calm", limits={"jobsAtOnce": 1})
    ask(web, key, "PUT", "/v1/sandboxes/box", {})
    run = "/v1/sandboxes/box/exec"

    def start(session: str, command: str) -> str:
        body = {"command": command, "session": session}
        return str(json_of(web.send("POST", run, body, as_key(key) | AT_ONCE))["id"])

    for session in ("a", "b"):
        ask(web, key, "POST", "/v1/sandboxes/box/sessions", {"name": session})
    first, second = start("a", "hold"), start("b", "say done")

    def status(job_id: str) -> str:
        return str(json_of(ask(web, key, "GET", f"/v1/jobs/{job_id}"))["status"])

    wait_for(lambda: status(first) == "running", "the first runs")
    waits = status(second)
    ask(web, key, "POST", f"/v1/jobs/{first}/cancel")
    wait_for(lambda: status(second) == "completed", "the second has run")

    assert waits == "queued"
    ask(web, key, "DELETE", "/v1/sandboxes/box")


def test_each_change_is_written_down_with_who_asked_for_it(
    web: Web, capfd: pytest.CaptureFixture[str]
) -> None:
    key = new_key(web, owner="noted")
    capfd.readouterr()
    ask(web, key, "PUT", "/v1/sandboxes/noted-box", {})
    ask(web, key, "GET", "/v1/sandboxes/noted-box")
    refused = ask(web, key, "DELETE", "/v1/keys/some")

    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in (out + err).splitlines() if '"audit"' in line]
    assert [(line["operation"], line["status"]) for line in lines] == [
        ("sandbox.put", 201),
        ("key.revoke", 403),
    ]
    assert lines[0]["owner"] == "noted"
    assert lines[0]["key_id"] == key["id"]
    assert lines[0]["target"] == {"name": "noted-box"}
    assert lines[1]["request_id"] == json_of(refused)["error"]["requestId"]
    assert key["key"] not in out + err
