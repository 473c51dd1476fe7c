"""Builds of real repositories and archives, through the whole platform."""

from __future__ import annotations

from tests.client import Client, check_stream, stdout_of
from tests.repositories import ServedRepository

STEPS = [
    {"name": "show", "commands": ["cat greeting.txt", "echo $WHO"], "env": {"WHO": "you"}},
    {"name": "test", "commands": ["python3 -m unittest -q test_it.py"]},
]


def test_a_repository_is_cloned_and_its_steps_run_in_order(
    api: Client, repository_url: ServedRepository
) -> None:
    received = api.stream("/v1/builds", {"repoUrl": repository_url.url, "steps": STEPS})

    check_stream(received)
    told = [
        (item.event["name"], item.event["status"])
        for item in received
        if item.event["type"] == "step"
    ]
    assert told == [
        (name, status)
        for name in ("checkout", "show", "test")
        for status in ("running", "completed")
    ]
    assert stdout_of([item for item in received if item.event.get("step") == "show"]) == (
        "hello\nyou\n"
    )
    assert received[-1].event["conclusion"] == "success"
    assert received[-1].event["commit"] == repository_url.commit


def test_the_first_step_that_fails_ends_the_build(
    api: Client, repository_url: ServedRepository
) -> None:
    steps = [
        {"name": "fails", "commands": ["echo one", "exit 7", "echo never"]},
        {"name": "skipped", "commands": ["echo never"]},
    ]

    result = api.http.post(
        "/v1/builds", json={"repoUrl": repository_url.url, "steps": steps}
    ).json()

    assert (result["conclusion"], result["exitCode"]) == ("failure", 7)
    summary = [
        (step["name"], step["status"], step.get("conclusion"), step.get("exitCode"))
        for step in result["steps"]
    ]
    assert summary == [
        ("checkout", "completed", "success", None),
        ("fails", "completed", "failure", 7),
        ("skipped", "skipped", None, None),
    ]


def test_an_uploaded_archive_is_built(api: Client, archive: str) -> None:
    received = api.stream("/v1/builds", {"archive": archive, "steps": STEPS})

    check_stream(received)
    assert received[-1].event["conclusion"] == "success"


def test_a_repository_that_is_not_there_ends_in_an_error_with_a_code(
    api: Client, repository_url: ServedRepository
) -> None:
    url = repository_url.url.replace("project", "missing")

    received = api.stream("/v1/builds", {"repoUrl": url, "steps": STEPS})

    check_stream(received)
    assert received[-1].event["type"] == "error"
    assert received[-1].event["code"] in ("repository_not_found", "checkout_failed")


def test_a_builds_sandbox_is_gone_when_its_end_was_told(api: Client, archive: str) -> None:
    api.stream("/v1/builds", {"archive": archive, "steps": STEPS})

    names = [box["name"] for box in api.http.get("/v1/sandboxes").json()["sandboxes"]]
    assert not [name for name in names if name.startswith("build-")]


def test_a_cancelled_build_ends_at_once_and_says_so(api: Client, archive: str) -> None:
    body = {"archive": archive, "steps": [{"name": "long", "commands": ["sleep 600"]}]}
    job_id = api.submit("/v1/builds", body)
    with api.following(job_id) as events:
        next(item for item in events if item.event.get("name") == "long")

    api.http.post(f"/v1/jobs/{job_id}/cancel")

    received = api.follow_to_the_end(job_id)
    check_stream(received)
    assert received[-1].event["code"] == "cancelled"
    assert api.job(job_id)["conclusion"] == "cancelled"
