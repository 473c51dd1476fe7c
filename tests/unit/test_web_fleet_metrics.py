"""What Prometheus is told of the whole platform."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

from web.fleet_metrics import FleetMetrics
from web.metrics import Metrics
from workers.contract.counts import Counts, CountStore, Waits, counts_of
from workers.contract.errors import StoreUnavailable
from workers.contract.sandboxes import NodeRecord
from workers.contract.store import JobStore, NodeStore

NODE = NodeRecord(
    id="n-1",
    driver="docker",
    ready=True,
    sandboxes=3,
    states={"running": 2, "stopped": 1},
    memory_free_mb=2,
)


class Store:
    """All stores in one, that says what the test says."""

    def __init__(self, answers: list[object]) -> None:
        self._answers = answers

    def all(self) -> object:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def waiting(self) -> int:
        return 7


def told(counts: Counts | Exception) -> str:
    store = Store([[NODE], counts])
    fleet = FleetMetrics(
        nodes=cast(NodeStore, store), jobs=cast(JobStore, store), counts=cast(CountStore, store)
    )
    metrics = Metrics(readers=lambda: 0.0, redis_up=lambda: 1.0, fleet=fleet)
    return metrics.exposition().decode()


def test_nodes_and_jobs_are_told() -> None:
    counts = counts_of(
        {
            b"jobs exec success": b"5",
            b"wait exec 10": b"3",
            b"wait exec 1000": b"1",
            b"wait exec more": b"1",
            b"waited_ms exec": b"61500",
            b"events": b"20",
            b"of another version": b"1",
        }
    )
    text = told(counts)

    assert 'coldframe_node_sandboxes_by_state{node="n-1",state="running"} 2.0' in text
    assert 'coldframe_node_memory_free_bytes{node="n-1"} 2.097152e+06' in text
    assert 'coldframe_jobs_completed_total{conclusion="success",kind="exec"} 5.0' in text
    assert "coldframe_waiting_jobs 7.0" in text
    assert "coldframe_job_events_total 20.0" in text
    for bound, number in (("0.01", 3), ("0.1", 3), ("1.0", 4), ("60.0", 4), ("+Inf", 5)):
        assert f'coldframe_job_wait_seconds_bucket{{kind="exec",le="{bound}"}} {number}.0' in text
    assert 'coldframe_job_wait_seconds_sum{kind="exec"} 61.5' in text


def test_where_redis_is_away_the_rest_is_told() -> None:
    text = told(StoreUnavailable("away"))

    assert "coldframe_redis_up 1.0" in text
    assert "coldframe_node_" not in text


def test_the_dashboard_asks_for_nothing_that_is_not_told(repository: Path) -> None:
    board = json.loads((repository / "docs" / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"coldframe_\w+", target["expr"])
    }
    counts = Counts(jobs={("exec", "success"): 1}, waits={"exec": Waits({"10": 1}, 5)}, events=1)
    text = told(counts)

    assert {name for name in asked if f"{name} " not in text and f"{name}{{" not in text} <= {
        # Of requests, of which there was none.
        "coldframe_http_requests_total",
        "coldframe_http_request_duration_seconds_bucket",
    }
    assert len(asked) > 12
