"""An engine is killed and restarted under its sandboxes, with live-restore and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client import Client, check_stream, is_ready, stdout_of, wait_for
from tests.conftest import DRIVER
from tests.engine import Engine
from tests.platform import Platform

COUNT = "for n in $(seq 40); do echo $n; sleep 0.05; done"
COUNTED = "".join(f"{n}\n" for n in range(1, 41))

pytestmark = pytest.mark.skipif(DRIVER != "docker", reason="there is no engine to restart")


@contextmanager
def platform_on(engine: Engine, state_dir: Path) -> Iterator[Client]:
    platform = Platform(state_dir, "docker", DOCKER_HOST=engine.host)
    try:
        engine.start()
        platform.up_with_image(engine.load_small_image())
        with platform.connected() as api:
            wait_for(lambda: is_ready(api), "the platform is ready", deadline_s=60)
            yield api
    finally:
        platform.down()
        engine.leave()


def test_with_live_restore_an_engine_that_is_killed_or_restarted_costs_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("e")
    engine = Engine(directory / "e")
    with platform_on(engine, directory / "s") as api:
        api.sandbox("kept")
        for end in (engine.kill, engine.stop):
            job_id = api.start_exec("kept", COUNT)
            with api.following(job_id) as events:
                next(events)
            end()
            assert api.exec("kept", "echo meanwhile")["stdout"] == "meanwhile\n"
            engine.start()

            received = api.follow_to_the_end(job_id)
            check_stream(received)
            assert stdout_of(received) == COUNTED
        api.remove("kept")


def test_without_live_restore_a_restart_ends_sandboxes_and_their_jobs_are_told_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("e")
    engine = Engine(directory / "e", live_restore=False)
    with platform_on(engine, directory / "s") as api:
        api.sandbox("lost")
        job_id = api.start_exec("lost", "sleep 600")
        wait_for(lambda: api.job(job_id)["status"] == "running", "it runs")

        engine.stop()
        engine.start()

        received = api.follow_to_the_end(job_id)
        check_stream(received)
        assert received[-1].event["code"] == "sandbox_lost"
        wait_for(lambda: is_ready(api), "the engine is found")
        assert api.exec("lost", "echo new")["stdout"] == "new\n"
