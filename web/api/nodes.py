"""The routes of nodes."""

from __future__ import annotations

from flask import Response

from web.keys import Scope
from web.operations import Operation, json_answer, no_content
from web.schemas import NodesPage, node_view
from workers.contract.errors import NodeNotFound, NodeRunning
from workers.contract.store import NodeStore


class NodeRoutes:
    """The machines that own sandboxes."""

    def __init__(self, nodes: NodeStore) -> None:
        self._nodes = nodes

    def operations(self) -> list[Operation]:
        one = "/v1/nodes/{id}"
        admin = Scope.ADMIN
        return [
            Operation("GET", "/v1/nodes", self.list_all, {200: NodesPage}, scope=admin),
            Operation("POST", f"{one}/drain", self.drain, {204: None}, scope=admin),
            Operation("POST", f"{one}/undrain", self.undrain, {204: None}, scope=admin),
            Operation("DELETE", one, self.remove, {202: None}, scope=admin),
        ]

    def list_all(self) -> Response:
        """The nodes whose heartbeat is fresh, and what they say of themselves."""
        return json_answer(NodesPage(nodes=[node_view(node) for node in self._nodes.all()]))

    def drain(self, id: str) -> Response:
        """Has a node take nothing new. What is there goes on; nothing of it is moved."""
        self._check(id)
        self._nodes.set_drained(id, True)
        return no_content()

    def undrain(self, id: str) -> Response:
        """Lets a node take new sandboxes again."""
        self._check(id)
        self._nodes.set_drained(id, False)
        return no_content()

    def remove(self, id: str) -> Response:
        """Forgets a node that is gone: its jobs end, its sandboxes have failed."""
        self._check(id)
        if self._nodes.find(id) is not None:
            raise NodeRunning(f"The node {id} is there.")
        self._nodes.set_removed(id)
        return Response(status=202)

    def _check(self, node_id: str) -> None:
        if not self._nodes.exists(node_id):
            raise NodeNotFound(f"No node is named {node_id!r}.")
