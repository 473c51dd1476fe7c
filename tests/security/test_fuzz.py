"""The whole API, fuzzed from its own document, as one owner beside another.

`COLDFRAME_TEST_EXAMPLES` says how many requests of each kind are made up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client import Client
from tests.conftest import DRIVER

EXAMPLES = os.environ.get("COLDFRAME_TEST_EXAMPLES", "3")
RUN_TIMEOUT_S = 1800
SECRET = "fuzz-s3cret"

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance"
)

ENDLESS = "/(events|watch|wait)$|^/flower/"
"""Of what waits for what may never happen; and what is Flower's own."""

pytestmark = [
    pytest.mark.skipif(DRIVER != "docker", reason="it pauses sandboxes"),
    pytest.mark.timeout(RUN_TIMEOUT_S),
]


def test_no_request_is_answered_otherwise_than_the_document_says(
    api: Client, tmp_path: Path
) -> None:
    victim = _key(api, "fuzz-victim", {})
    attacker = _key(api, "fuzz-attacker", {"sandboxes": 2, "openJobs": 5})
    theirs = Client(str(api.http.base_url), victim)
    with theirs.http:
        theirs.sandbox("victim")
        theirs.exec("victim", f"echo {SECRET} > /workspace/secret")
        job = theirs.start_exec("victim", "sleep 600")
        before = _state(theirs)
        document = tmp_path / "openapi.json"
        document.write_text(
            json.dumps(_without_idle_times(api.http.get("/v1/openapi.json").json()))
        )
        told = tmp_path / "told.ndjson"

        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", str(document)),
                *("--url", str(api.http.base_url), "--header", f"Authorization: Bearer {attacker}"),
                *("--phases", "fuzzing,stateful", "--max-examples", EXAMPLES, "--checks", CHECKS),
                *("--exclude-path-regex", ENDLESS, "--request-timeout", "60", "--no-color"),
                *("--suppress-health-check", "all", "--generation-deterministic"),
                *("--report", "ndjson", "--report-ndjson-path", str(told)),
            ],
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            cwd=tmp_path,
        )

        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
        seen = told.read_text()
        assert "/v1/sandboxes/{name}/exec" in seen
        for kept in (SECRET, job, str(before["sandbox"]["id"])):
            assert kept not in seen
        assert _state(theirs) == before
        assert theirs.job(job)["status"] == "running"
        theirs.remove("victim")
    mine = Client(str(api.http.base_url), attacker)
    with mine.http:
        for sandbox in mine.http.get("/v1/sandboxes").json()["sandboxes"]:
            mine.remove(sandbox["name"])


def _key(api: Client, owner: str, limits: dict[str, int]) -> str:
    answer = api.http.post("/v1/keys", json={"owner": owner, "limits": limits})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


def _without_idle_times(document: dict[str, object]) -> dict[str, object]:
    """What is made up of a sandbox must not end it under the next request, nor starve it."""
    text = json.dumps(document)
    parsed: dict[str, object] = json.loads(text)
    schemas = parsed["components"]["schemas"]  # type: ignore[index]
    for schema in schemas.values():
        for name in ("idleTimeoutMs", "maxLifetimeMs", "cpus", "memoryMb", "pids"):
            schema.get("properties", {}).pop(name, None)
    return parsed


def _state(client: Client) -> dict[str, dict[str, object]]:
    box = "/v1/sandboxes/victim"
    return {
        "sandbox": client.http.get(box).json(),
        "files": client.http.get(f"{box}/files/list", params={"path": "/workspace"}).json(),
    }
