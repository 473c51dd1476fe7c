"""Tells Prometheus of the whole platform: what the nodes say, and what Redis has counted."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from workers.contract.counts import LONGER, WAIT_BOUNDS_MS, Counts, CountStore
from workers.contract.errors import StoreUnavailable
from workers.contract.sandboxes import NodeRecord
from workers.contract.store import JobStore, NodeStore

MEBIBYTE = 1024 * 1024

_OF_NODES = (
    ("ready", "1 where the node can make sandboxes.", lambda node: float(node.ready)),
    ("full", "1 where the node has no room for another one.", lambda node: float(bool(node.full))),
    ("drained", "1 where it was told to take nothing new.", lambda node: float(node.drained)),
    ("sandboxes", "Sandboxes of the node.", lambda node: node.sandboxes),
    ("pooled_sandboxes", "Of its pool.", lambda node: node.pooled),
    ("running_jobs", "Jobs that it runs.", lambda node: node.running_jobs),
    ("job_limit", "Jobs that it runs at once.", lambda node: node.job_limit),
    ("memory_free_bytes", "Of the machine.", lambda node: node.memory_free_mb * MEBIBYTE),
    ("memory_bytes", "Of the machine.", lambda node: node.memory_mb * MEBIBYTE),
    ("disk_free_bytes", "Where its sandboxes are.", lambda node: node.disk_free_mb * MEBIBYTE),
    ("disk_bytes", "Where its sandboxes are.", lambda node: node.disk_mb * MEBIBYTE),
)


class FleetMetrics(Collector):
    """Empty where Redis does not answer; whether it does is told elsewhere."""

    def __init__(self, *, nodes: NodeStore, jobs: JobStore, counts: CountStore) -> None:
        self._nodes = nodes
        self._jobs = jobs
        self._counts = counts

    def describe(self) -> list[Metric]:
        """Nothing: a registry that is given none would collect as soon as it is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            nodes, waiting, counts = self._nodes.all(), self._jobs.waiting(), self._counts.all()
        except StoreUnavailable:
            return
        yield from _of_nodes(nodes)
        yield GaugeMetricFamily(
            "coldframe_waiting_jobs",
            "Jobs that could run and wait for a place; those behind them in line not counted.",
            value=waiting,
        )
        yield from _of_jobs(counts)


def _of_nodes(nodes: list[NodeRecord]) -> Iterator[Metric]:
    for name, text, value_of in _OF_NODES:
        family = GaugeMetricFamily(f"coldframe_node_{name}", text, labels=["node"])
        for node in nodes:
            family.add_metric([node.id], value_of(node))
        yield family
    states = GaugeMetricFamily(
        "coldframe_node_sandboxes_by_state", "Sandboxes of the node.", labels=["node", "state"]
    )
    for node in nodes:
        for state, count in node.states.items():
            states.add_metric([node.id, state], count)
    yield states


def _of_jobs(counts: Counts) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "coldframe_jobs_completed", "Jobs that ended.", labels=["kind", "conclusion"]
    )
    for labels, number in counts.jobs.items():
        ended.add_metric(list(labels), number)
    yield ended
    waits = HistogramMetricFamily(
        "coldframe_job_wait_seconds", "From a job's acceptance until it runs.", labels=["kind"]
    )
    for kind, wait in counts.waits.items():
        total, buckets = 0, []
        for bound in WAIT_BOUNDS_MS:
            total += wait.buckets.get(str(bound), 0)
            buckets.append((str(bound / 1000), total))
        buckets.append(("+Inf", total + wait.buckets.get(LONGER, 0)))
        waits.add_metric([kind], buckets, wait.sum_ms / 1000)
    yield waits
    yield CounterMetricFamily("coldframe_job_events", "Events of jobs.", value=counts.events)
