"""When a sandbox counts as idle, by a clock that the tests turn."""

from __future__ import annotations

from typing import cast

import pytest

from workers.contract.sandboxes import Sandbox, SandboxSpec, SandboxState
from workers.contract.store import Activity, SandboxStore
from workers.lifecycle import Sandboxes
from workers.reaper import Reaper

BOX = Sandbox(
    id="box",
    name="box",
    owner="o",
    spec=SandboxSpec(idle_timeout_ms=4000),
    created_at="",
    idle_timeout_ms=4000,
)


class House:
    """One sandbox: its record and its container, as the reaper sees them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used = 0
        self.stopped = False
        self.reaper = Reaper(
            sandboxes=cast(Sandboxes, self),
            records=cast(SandboxStore, self),
            idle_timeout_s=600.0,
            monotonic=lambda: self.now,
        )

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.reaper.look()

    def all(self) -> list[Sandbox]:
        return [BOX]

    def activities(self, sandbox_ids: list[str]) -> list[Activity]:
        return [Activity(SandboxState.RUNNING, str(self.used), 0, 4000, None) for _ in sandbox_ids]

    def is_changing(self, sandbox_id: str) -> bool:
        return False

    def move(self, sandbox: Sandbox, **how: object) -> bool:
        return how["unless_used_since"] == str(self.used)

    def stop(self, sandbox: Sandbox, reason: str) -> None:
        self.stopped = True


@pytest.fixture
def house() -> House:
    house = House()
    house.after(0.0)
    return house


def test_a_sandbox_that_nobody_uses_is_stopped_when_its_time_is_over(house: House) -> None:
    for _ in range(4):
        house.after(1.0)
        assert not house.stopped
    house.after(0.5)
    assert house.stopped


def test_use_begins_the_count_anew(house: House) -> None:
    for _ in range(20):
        house.used += 1
        house.after(3.0)
    assert not house.stopped


def test_a_machine_that_stood_still_has_no_idle_sandboxes(house: House) -> None:
    house.after(1.0)
    house.after(60.0)
    assert not house.stopped
