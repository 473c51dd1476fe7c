"""Where the relay of a node is, for the web itself and for browsers."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sandbox_runtime.protocol.connections import Connections, Dial, unreachable
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from workers.contract.previews import PreviewAddress, parse_preview_url
from workers.contract.sandboxes import NodeRecord
from workers.contract.store import NodeStore

MAX_IDLE_CONNECTIONS = 64

REMEMBER_S = 2.0
"""How long what a node said of itself is taken as said."""


class Relays:
    """Connections to each node's relay, kept. Safe to share between threads."""

    def __init__(
        self,
        *,
        nodes: NodeStore,
        relay_socket: Path | None,
        tls: ssl.SSLContext | None,
        previews: PreviewAddress,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`relay_socket`: of the relay on this machine; None where there is none.

        `tls`: None where no other machine's relay can be reached.
        """
        self._nodes = nodes
        self._socket = relay_socket
        self._tls = tls
        self._previews = previews
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._connections: dict[tuple[str, str], Connections] = {}
        self._records: dict[str, tuple[NodeRecord | None, float]] = {}

    def close(self) -> None:
        with self._lock:
            for connections in self._connections.values():
                connections.close()

    def of(self, node: str | None) -> Connections:
        """To the relay of a node. Raises `StoreUnavailable`."""
        record = self._record(node or "")
        address = record.relay if record is not None else ""
        key = (node or "", address)
        with self._lock:
            if key not in self._connections:
                dial = self._dial_tls(*key) if address else self._dial_socket()
                self._connections[key] = Connections(dial, max_idle=MAX_IDLE_CONNECTIONS)
            return self._connections[key]

    def previews_of(self, node: str | None) -> PreviewAddress:
        """How a node's previews and terminals are called. Raises `StoreUnavailable`."""
        record = self._record(node or "")
        if record is None or not record.preview_url:
            return self._previews
        return parse_preview_url(record.preview_url)

    def _record(self, node: str) -> NodeRecord | None:
        now = self._monotonic()
        with self._lock:
            record, until = self._records.get(node, (None, 0.0))
        if now < until:
            return record
        # Where its heartbeat is late, its relay may well be there: it is where it was.
        record = self._nodes.find(node) or record
        with self._lock:
            self._records[node] = (record, now + REMEMBER_S)
        return record

    def _dial_socket(self) -> Dial:
        def dial(timeout_s: float) -> socket.socket:
            if self._socket is None:
                raise RuntimeUnreachable("no relay runs on this node")
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout_s)
            try:
                connection.connect(str(self._socket))
            except OSError as error:
                connection.close()
                raise unreachable(error) from error
            return connection

        return dial

    def _dial_tls(self, node: str, address: str) -> Dial:
        host, _, port = address.rpartition(":")

        def dial(timeout_s: float) -> socket.socket:
            if self._tls is None:
                reason = "on another machine, and the web has no COLDFRAME_TLS_DIR"
                raise RuntimeUnreachable(f"the relay of {node} is {reason}")
            try:
                connection = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
                try:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return self._tls.wrap_socket(connection, server_hostname=node)
                except BaseException:
                    connection.close()
                    raise
            except OSError as error:
                raise unreachable(error) from error

        return dial
