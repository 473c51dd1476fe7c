"""The route of nodes."""

from __future__ import annotations

from flask import Response

from web.keys import Scope
from web.operations import Operation, json_answer
from web.schemas import NodesPage, node_view
from workers.contract.store import NodeStore


class NodeRoutes:
    """The machines that own sandboxes."""

    def __init__(self, nodes: NodeStore) -> None:
        self._nodes = nodes

    def operations(self) -> list[Operation]:
        return [Operation("GET", "/v1/nodes", self.list_all, {200: NodesPage}, scope=Scope.ADMIN)]

    def list_all(self) -> Response:
        """The nodes whose heartbeat is fresh, and what they say of themselves."""
        return json_answer(NodesPage(nodes=[node_view(node) for node in self._nodes.all()]))
