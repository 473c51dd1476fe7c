"""Operators watch jobs in Flower, which only the API's own key opens."""

from __future__ import annotations

import pytest

from tests.client import Client, wait_for


def test_each_job_is_shown_by_name_as_received_started_and_ended(api: Client) -> None:
    api.sandbox("watched")
    job_id = api.exec("watched", "true")["jobId"]

    def task() -> dict[str, object]:
        return dict(api.http.get("/flower/api/tasks").json().get(job_id, {}))

    wait_for(lambda: task().get("state") == "SUCCESS", "Flower shows its end")
    shown = task()
    api.remove("watched")

    assert shown["name"] == "coldframe.exec"
    assert shown["received"]
    assert shown["started"]
    assert shown["succeeded"]


def test_flower_shows_the_worker_and_its_queues(api: Client) -> None:
    workers = api.http.get("/flower/api/workers?refresh=1").json()

    (worker,) = workers.values()
    assert {queue["name"] for queue in worker["active_queues"]} >= {"placement", "node.node-1"}


@pytest.mark.parametrize("path", ["/", "/api/tasks", "/metrics", "/healthcheck"])
def test_flower_is_closed_to_whoever_has_no_key(api: Client, path: str) -> None:
    answer = api.http.get(f"/flower{path}", headers={"Authorization": ""})

    assert answer.status_code == 401
