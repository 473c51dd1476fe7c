"""Keeps connections that lie idle until somebody asks for the same place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from relay.routes import Place

KEPT_S = 20.0
"""Less than the runtime keeps a connection on which nothing comes."""

MAX_KEPT = 8
"""Idle connections to one place."""


class Kept:
    """Those that lie idle, by place. Lives on one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Place, list[_Idle]] = {}

    def add(self, place: Place, transport: asyncio.Transport) -> None:
        idle = self._idle.setdefault(place, [])
        if len(idle) >= MAX_KEPT:
            transport.abort()
            return
        kept = _Idle(transport, partial(self._drop, place))
        transport.set_protocol(kept)
        transport.resume_reading()  # So that its end is seen.
        idle.append(kept)

    def take(self, place: Place) -> asyncio.Transport | None:
        """None where there is none."""
        idle = self._idle.get(place)
        if not idle:
            return None
        kept = idle[-1]
        self._drop(place, kept)
        return kept.taken()

    def close(self) -> None:
        for place, idle in list(self._idle.items()):
            for kept in list(idle):
                self._drop(place, kept)
                kept.taken().abort()

    def _drop(self, place: Place, kept: _Idle) -> None:
        idle = self._idle[place]
        idle.remove(kept)
        if not idle:
            del self._idle[place]


class _Idle(asyncio.Protocol):
    """One idle connection: whatever it says, it is not to be used any more."""

    def __init__(self, transport: asyncio.Transport, drop: Callable[[_Idle], None]) -> None:
        self._transport = transport
        self._drop: Callable[[_Idle], None] | None = drop
        self._expiry = asyncio.get_running_loop().call_later(KEPT_S, self._end)

    def taken(self) -> asyncio.Transport:
        self._drop = None
        self._expiry.cancel()
        return self._transport

    def data_received(self, data: bytes) -> None:
        self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._drop is not None:
            self._drop(self)
            self.taken().abort()
