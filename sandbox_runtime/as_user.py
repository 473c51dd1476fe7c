"""What a delegate starts with: it becomes the sandbox's user for good, and takes its orders.

The runtime's packages cannot be read by the user, so a delegate imports all that it needs while it
is still root, and does nothing else before `become`: no file, program or setting of the user's has
any part in it until then.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from sandbox_runtime.delegate_messages import LENGTH, Fault, Identity, framed
from sandbox_runtime.seccomp import SystemCallFilter

T = TypeVar("T")


class Channel:
    """The delegate's end of its socket. Sending waits while the runtime does not read."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, report: msgspec.Struct) -> None:
        self._connection.sendall(framed(report))

    def receive(self, decoder: msgspec.json.Decoder[T]) -> T | None:
        """The next order; None where the runtime has closed its end."""
        length = self._read(LENGTH.size)
        if not length:
            return None
        return decoder.decode(self._read(*LENGTH.unpack(length)))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._connection.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return bytes(data)


def serve(work: Callable[[Channel], None]) -> None:
    """A delegate's whole life: becomes the user, works, and reports an error that ends it."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    os.set_inheritable(channel.fileno(), False)
    try:
        identity = channel.receive(msgspec.json.Decoder(Identity))
        if identity is not None:
            become(identity)
            work(channel)
    except BrokenPipeError:
        pass  # The runtime has let go of us.
    except Exception as error:
        channel.send(Fault(message=f"{type(error).__name__}: {error}"[:2000]))
        raise


def become(identity: Identity) -> None:
    """Takes on the user's ids, system calls and environment. There is no way back: it is tried."""
    if identity.uid != os.getuid():
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        _check_final(identity)
    SystemCallFilter().install()
    os.environ.clear()
    os.environ.update(identity.env)


def _check_final(identity: Identity) -> None:
    kept = (*os.getresuid(), *os.getresgid(), *os.getgroups())
    if kept != (identity.uid,) * 3 + (identity.gid,) * 3:
        raise PermissionError("the ids of the user were not taken on")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError("the rights of root were not given up")
