"""The routes for those who look after the platform."""

from __future__ import annotations

from flask import Response

from web.errors import NotReady
from web.keys import Scope
from web.metrics import CONTENT_TYPE, Metrics
from web.operations import Operation, json_answer
from web.placement import Placement
from web.schemas import Health, node_health
from workers.contract.errors import NoNode, StoreUnavailable


class HealthRoutes:
    """Is it up, can it be of use, what does it do?"""

    def __init__(self, *, placement: Placement, metrics: Metrics) -> None:
        self._placement = placement
        self._metrics = metrics

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/healthz", self.healthz, {200: Health}, needs_key=False),
            Operation("GET", "/readyz", self.readyz, {200: Health}),
            Operation("GET", "/metrics", self.metrics, {200: None}, scope=Scope.ADMIN),
        ]

    def healthz(self) -> Response:
        """Whether this process is up, and whether the nodes passed their self-tests. No key."""
        try:
            nodes = [node_health(node) for node in self._placement.nodes()]
        except StoreUnavailable:
            return json_answer(Health(status="ok"))
        return json_answer(Health(status="ok", nodes=nodes))

    def readyz(self) -> Response:
        """Whether Redis answers and a node can make sandboxes."""
        try:
            self._placement.check_nodes()
        except (StoreUnavailable, NoNode) as fault:
            raise NotReady([fault.message]) from fault
        return json_answer(Health(status="ready"))

    def metrics(self) -> Response:
        """What this process does, for Prometheus."""
        return Response(self._metrics.exposition(), content_type=CONTENT_TYPE)
