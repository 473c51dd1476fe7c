"""Starts the relay: the one door of a node through which web and users reach its sandboxes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop

from relay.connections import Listener
from relay.doors import Doors
from relay.exposures import Exposures
from relay.inside import InsideGate
from relay.outside import OutsideGate
from relay.settings import Settings
from relay.traffic import Traffic
from workers.contract.connection import connect
from workers.contract.errors import StoreFull, StoreUnavailable
from workers.contract.ports import PortStore
from workers.contract.settings import InvalidSettings
from workers.contract.store import SandboxStore
from workers.contract.terminals import TerminalStore
from workers.contract.tls import relay_context, speaks_for_the_web

REDIS_CONNECTIONS = 16
BACKLOG = 1024
TELL_USE_S = 0.25
"""A fourth of the shortest time after which a sandbox may be stopped for being idle."""

GC_THRESHOLD = 50_000
"""Objects between two collections: a request leaves few cycles behind, and many objects."""

log = structlog.get_logger(__name__)


def main() -> int:
    """The exit code."""
    _configure_logs()
    try:
        settings = Settings.from_env()
        inside, outside = _listen_inside(settings.socket), _listen_outside(settings)
    except (InvalidSettings, OSError) as error:
        log.error("relay cannot start", reason=str(error))
        return 2
    uvloop.run(_serve(settings, inside, outside))
    return 0


async def _serve(settings: Settings, inside: socket.socket, outside: list[socket.socket]) -> None:
    gc.freeze()  # What is there now stays: no collection need look at it again.
    gc.set_threshold(GC_THRESHOLD)
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    client = connect(settings.store, max_connections=REDIS_CONNECTIONS)
    ports = PortStore(client)
    exposures = Exposures(ports, SandboxStore(client, retention_s=settings.store.retention_s))
    doors, traffic = Doors(settings.state_dir), Traffic()
    to_sandboxes = InsideGate(doors, exposures, traffic)
    to_previews = OutsideGate(settings.address, doors, exposures, TerminalStore(client))
    near = Listener(to_sandboxes, traffic, max_connections=settings.max_connections)
    far = Listener(to_sandboxes, traffic, max_connections=settings.max_connections, admits=_is_web)
    public = Listener(to_previews, traffic, max_connections=settings.max_connections)
    listeners = (near, far, public)
    servers = [
        await loop.create_unix_server(near.connection, sock=inside),
        *[await loop.create_server(public.connection, sock=sock) for sock in outside],
    ]
    if settings.tls_dir is not None and settings.web_address:
        host, _, port = settings.web_address.rpartition(":")
        servers.append(
            await loop.create_server(
                far.connection,
                sock=_listen_tcp(host.strip("[]"), int(port)),
                ssl=relay_context(settings.tls_dir),
            )
        )
    tasks = [loop.create_task(listener.sweep()) for listener in listeners]
    tasks.append(loop.create_task(_tell_use(traffic, ports)))
    log.info("relay listens", host=settings.host, port=settings.port)
    await told_to_end.wait()
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    for listener in listeners:
        listener.close()
    doors.close()
    client.close()
    settings.socket.unlink(missing_ok=True)


async def _tell_use(traffic: Traffic, ports: PortStore) -> None:
    """Keeps awake what is in use."""
    while True:
        await asyncio.sleep(TELL_USE_S)
        if used := traffic.take_used():
            with suppress(StoreUnavailable, StoreFull):  # It is told again.
                await asyncio.to_thread(ports.used, used)


def _is_web(transport: asyncio.BaseTransport) -> bool:
    return speaks_for_the_web(transport.get_extra_info("peercert"))


def _listen_inside(path: Path) -> socket.socket:
    """A listening socket that only its owner may connect to, and the group of its own."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def _listen_outside(settings: Settings) -> list[socket.socket]:
    """On loopback by both protocols: `localhost` may be either."""
    listeners = [_listen_tcp(settings.host, settings.port)]
    if settings.host == "127.0.0.1":
        with suppress(OSError):  # There may be no IPv6 here.
            listeners.append(_listen_tcp("::1", settings.port))
    return listeners


def _listen_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _configure_logs() -> None:
    """JSON lines on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
