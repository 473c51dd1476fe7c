"""A few rounds of `make chaos`; a thousand are for a machine that has the time."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import Run
from tests.conftest import DRIVER

SEED = 20
ROUNDS = 10

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="it kills an engine of its own")


@pytest.mark.timeout(400)
def test_whatever_is_killed_no_job_is_lost_or_run_twice_and_nothing_is_left_behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = Run(tmp_path_factory.mktemp("c"), SEED)

    wrong = run.rounds(ROUNDS)

    print("\n".join(run.report()))  # noqa: T201 - where it fails, these are wanted
    assert wrong == []
    assert sum(run.struck.values()) == ROUNDS
