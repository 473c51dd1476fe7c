"""Opens the doors to this node's sandboxes: their runtimes' sockets, and the ports in them.

A port is dialled on the loopback of the sandbox's own network namespace, so it needs no network,
and what listens there need listen to nobody else. The namespace is that of the process which
listens on the runtime's socket, as the kernel tells; as its pid may be another's by then, it must
see the sandbox's own `run/`. To enter a namespace takes root; we are in it for the making of one
socket, on the loop's own thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from sandbox_runtime.protocol.connections import guarded_entry
from sandbox_runtime.protocol.errors import RuntimeUnreachable
from workers.contract import node_files

DIAL_TIMEOUT_S = 5.0

MAX_TOKEN_BYTES = 256

LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
"""In this order: most servers listen on the first, some on the second alone."""

_CLONE_NEWNET = 0x40000000
_PEER_CREDENTIALS = struct.Struct("3i")

_libc = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger(__name__)


class SandboxClosed(Exception):
    """No runtime answers in this sandbox: it does not run, or is not here."""


class PortClosed(Exception):
    """Nothing listens on this port of the sandbox."""


class Doors:
    """Of the sandboxes below one state directory. Lives on one event loop."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._namespaces: dict[str, _Namespace] = {}

    def close(self) -> None:
        for sandbox_id in list(self._namespaces):
            self._forget(sandbox_id)

    def token(self, sandbox_id: str) -> bytes:
        """What the sandbox's runtime wants to be told. Raises `SandboxClosed`."""
        path = node_files.run_dir(self._state_dir, sandbox_id) / node_files.TOKEN
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                return file.read(MAX_TOKEN_BYTES).strip()
        except OSError as error:
            raise SandboxClosed(sandbox_id) from error

    async def dial_runtime(self, sandbox_id: str) -> socket.socket:
        """Raises `SandboxClosed`."""
        path = node_files.run_dir(self._state_dir, sandbox_id) / node_files.SOCKET
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            with guarded_entry(path) as entry:
                await _connect(connection, f"/proc/self/fd/{entry}")
        except (OSError, TimeoutError, RuntimeUnreachable) as error:
            connection.close()
            raise SandboxClosed(sandbox_id) from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def dial_port(self, sandbox_id: str, port: int) -> socket.socket:
        """Raises `SandboxClosed`, `PortClosed`."""
        namespace = self._namespaces.get(sandbox_id) or await self._find(sandbox_id)
        for family, address in LOOPBACKS:
            connection = namespace.socket(family)
            try:
                await _connect(connection, (address, port))
                return connection
            except OSError:
                connection.close()
            except TimeoutError:
                connection.close()
                break
            except BaseException:
                connection.close()
                raise
        raise PortClosed(f"{sandbox_id}:{port}")

    async def _find(self, sandbox_id: str) -> _Namespace:
        """Raises `SandboxClosed`."""
        runtime = await self.dial_runtime(sandbox_id)
        try:
            credentials = runtime.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
            )
            pid, _, _ = _PEER_CREDENTIALS.unpack(credentials)
            namespace = _Namespace(pid, node_files.run_dir(self._state_dir, sandbox_id))
        except OSError as error:
            raise SandboxClosed(sandbox_id) from error
        finally:
            runtime.close()
        other = self._namespaces.setdefault(sandbox_id, namespace)
        if other is not namespace:  # Another request was faster.
            namespace.close()
            return other
        loop = asyncio.get_running_loop()
        loop.add_reader(namespace.process, self._forget, sandbox_id)
        return namespace

    def _forget(self, sandbox_id: str) -> None:
        """The process whose namespace it was has ended."""
        namespace = self._namespaces.pop(sandbox_id, None)
        if namespace is not None:
            asyncio.get_running_loop().remove_reader(namespace.process)
            namespace.close()


class _Namespace:
    """A process's network, for as long as the process is there."""

    def __init__(self, pid: int, run_dir: Path) -> None:
        """Of a process that sees `run_dir`, as a sandbox does. Raises `OSError`."""
        with ExitStack() as opened:
            self.process = os.pidfd_open(pid)
            opened.callback(os.close, self.process)
            self._network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            opened.callback(os.close, self._network)
            self._ours = os.open("/proc/self/ns/net", os.O_RDONLY)
            opened.callback(os.close, self._ours)
            if not Path(f"/proc/{pid}/root{node_files.RUN_MOUNT}").samefile(run_dir):
                raise PermissionError(f"the process {pid} is not the sandbox's")
            signal.pidfd_send_signal(self.process, 0)  # It was the same all the time.
            # Driver local gives a sandbox that may reach out the node's own network.
            self._is_ours = os.path.sameopenfile(self._network, self._ours)
            opened.pop_all()

    def close(self) -> None:
        for descriptor in (self.process, self._network, self._ours):
            os.close(descriptor)

    def socket(self, family: socket.AddressFamily) -> socket.socket:
        """A socket of this network, which does not block. Raises `OSError`."""
        with self._entered():
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.setblocking(False)
        return made

    @contextmanager
    def _entered(self) -> Iterator[None]:
        if self._is_ours:
            yield
            return
        _enter(self._network)
        try:
            yield
        finally:
            try:
                _enter(self._ours)
            except OSError:
                # All that we open from here on would be the sandbox's.
                log.critical("the way back from a sandbox's network is closed")
                os.abort()


def _enter(network: int) -> None:
    """Raises `OSError`: `EPERM` where we are not root."""
    if _libc.setns(network, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


async def _connect(connection: socket.socket, address: str | tuple[str, int]) -> None:
    """Raises `OSError`, `TimeoutError`."""
    try:
        connection.connect(address)  # On a loopback, and to a Unix socket, this is mostly all.
        return
    except BlockingIOError:
        pass
    async with asyncio.timeout(DIAL_TIMEOUT_S):
        await asyncio.get_running_loop().sock_connect(connection, address)
