"""Counts what this process does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from workers.contract.jobs import JobKind

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

DURATION_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One registry of its own, so that two applications in one process do not meet."""

    def __init__(
        self,
        *,
        readers: Callable[[], float],
        redis_up: Callable[[], float],
        fleet: Collector,
    ) -> None:
        """`fleet`: what is told of more than this process."""
        self._registry = CollectorRegistry()
        self._registry.register(fleet)
        self._requests = Counter(
            "coldframe_http_requests",
            "Requests answered, by route.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "coldframe_http_request_duration_seconds",
            "Time to the answer; to the first byte for a stream.",
            ("route", "method"),
            buckets=DURATION_BUCKETS_S,
            registry=self._registry,
        )
        self._jobs = Counter(
            "coldframe_jobs_submitted", "Jobs accepted.", ("kind",), registry=self._registry
        )
        for kind in JobKind:
            self._jobs.labels(kind.value)
        Gauge(
            "coldframe_readers", "Streams and waiting requests open now.", registry=self._registry
        ).set_function(readers)
        Gauge("coldframe_redis_up", "1 where Redis answers.", registry=self._registry).set_function(
            redis_up
        )

    def request_answered(self, *, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._durations.labels(route, method).observe(seconds)

    def job_submitted(self, kind: JobKind) -> None:
        self._jobs.labels(kind.value).inc()

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
