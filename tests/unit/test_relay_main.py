"""What the relay does besides its connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

import pytest

from relay import __main__ as relay
from relay.traffic import Traffic
from workers.contract.errors import Fault, StoreFull, StoreUnavailable
from workers.contract.ports import PortStore


class Refusing:
    """A store that refuses at first."""

    def __init__(self, fault: Fault) -> None:
        self.told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._faults = [fault]

    def used(self, sandbox_ids: Iterable[str]) -> None:
        if self._faults:
            raise self._faults.pop()
        if set(sandbox_ids) == {"box"}:
            self._loop.call_soon_threadsafe(self.told.set)


class Preview:
    def abort(self) -> None:
        pass


@pytest.mark.parametrize("fault", [StoreFull("full"), StoreUnavailable("away")])
def test_use_is_told_again_after_redis_refused_it(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "TELL_USE_S", 0.0)

    async def told() -> None:
        traffic, ports = Traffic(), Refusing(fault)
        traffic.enter(("box", 8080), Preview())
        telling = asyncio.create_task(relay._tell_use(traffic, cast(PortStore, ports)))
        await asyncio.wait_for(ports.told.wait(), 10.0)
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling

    asyncio.run(told())
