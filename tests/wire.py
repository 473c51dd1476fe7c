"""A wire to a server on TCP that can be cut: what is sent then is kept from both sides."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType

from stack.ports import free_port

PIECE_BYTES = 65536


class Wire:
    """Passes on what comes to its own port. Cut, it lets callers in, and is silent."""

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._whole = threading.Event()
        self._whole.set()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A listener that is closed while it is waited at goes on waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._whole.set()
        self._drop_all()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        """What was under way is gone; who calls anew gets through."""
        self._drop_all()
        self._whole.set()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(caller,), daemon=True).start()

    def _pass_on(self, caller: socket.socket) -> None:
        with caller:
            self._keep(caller)
            self._whole.wait()
            try:
                server = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:
                return
            with server, selectors.DefaultSelector() as ready:
                self._keep(server)
                ready.register(caller, selectors.EVENT_READ, server)
                ready.register(server, selectors.EVENT_READ, caller)
                try:
                    while True:
                        for key, _ in ready.select():
                            piece = key.fileobj.recv(PIECE_BYTES)  # type: ignore[union-attr]
                            self._whole.wait()
                            if not piece:
                                return
                            key.data.sendall(piece)
                except OSError:
                    return

    def _keep(self, one: socket.socket) -> None:
        with self._lock:
            self._sockets.add(one)

    def _drop_all(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It was closed.
