"""A sandbox's life through the whole platform: stopped, started, paused, renewed, expired."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import redis

from tests.client import Client, Event, Received, events_of, stdout_of, wait_for
from tests.platform import Platform


def post(api: Client, sandbox: str, change: str, **body: object) -> Event:
    answer = api.http.post(f"/v1/sandboxes/{sandbox}/{change}", json=body or None)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@contextmanager
def happenings(api: Client, sandbox: str) -> Iterator[Iterator[Event]]:
    with api.http.stream("GET", f"/v1/sandboxes/{sandbox}/events") as response:
        assert response.status_code == 200, response.read()
        yield (item.event for item in events_of(response))


def state_of(api: Client, sandbox: str) -> str:
    return str(api.http.get(f"/v1/sandboxes/{sandbox}").json()["state"])


def test_a_stopped_sandbox_keeps_its_files_and_starts_with_the_next_command(api: Client) -> None:
    api.sandbox("stopped")
    api.exec("stopped", "echo kept > /workspace/file; lost=here")
    running = api.start_exec("stopped", "sleep 600", session="default")
    wait_for(lambda: api.job(running)["status"] == "running", "the command runs")

    assert post(api, "stopped", "stop")["state"] == "stopped"

    assert api.job(running)["error"]["code"] == "sandbox_stopped"
    result = api.exec("stopped", "cat /workspace/file; echo lost=$lost")
    assert result["stdout"] == "kept\nlost=\n"
    api.remove("stopped")


def test_a_stopped_sandbox_outlives_a_restart_of_its_worker(
    api: Client, platform: Platform
) -> None:
    api.sandbox("sleeping")
    api.exec("sleeping", "echo kept > /workspace/file")
    post(api, "sleeping", "stop")

    platform.kill("worker")
    platform.start("worker")
    platform.wait_until_ready(api)

    assert state_of(api, "sleeping") == "stopped"
    assert api.exec("sleeping", "cat /workspace/file")["stdout"] == "kept\n"
    api.remove("sleeping")


def test_an_idle_sandbox_is_stopped_and_one_that_is_kept_alive_is_not(api: Client) -> None:
    api.sandbox("kept-alive", idleTimeoutMs=1000, keepAlive=True)
    api.sandbox("idle", idleTimeoutMs=1000)

    with happenings(api, "idle") as events:
        stopped = next(event for event in events if event["type"] == "stopped")

    assert stopped["reason"] == "idle"
    assert state_of(api, "kept-alive") == "running"
    assert api.exec("idle", "echo awake")["stdout"] == "awake\n"
    for name in ("idle", "kept-alive"):
        api.remove(name)


def test_a_sandbox_with_a_job_is_not_idle(api: Client) -> None:
    api.sandbox("busy", idleTimeoutMs=1000)

    result = api.exec("busy", "sleep 4; echo done")

    assert result["stdout"] == "done\n"
    api.remove("busy")


def test_a_sandbox_whose_lifetime_is_over_is_removed(api: Client) -> None:
    api.sandbox("mortal", maxLifetimeMs=1500)

    with happenings(api, "mortal") as events:
        last = list(events)[-1]

    assert (last["type"], last["reason"]) == ("removed", "expired")
    assert api.http.get("/v1/sandboxes/mortal").status_code == 404


def test_a_paused_sandbox_stands_still_and_goes_on_where_it_was(api: Client) -> None:
    api.sandbox("paused")
    job_id = api.start_exec("paused", "for i in $(seq 100); do echo $i; sleep 0.05; done")
    received: list[Received] = []
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(api.follow_to_the_end, job_id, received=received)
        wait_for(lambda: stdout_of(received), "it counts")

        assert post(api, "paused", "pause")["state"] == "paused"
        api.exec("beside-paused", "sleep 0.5")  # What was printed before has arrived.
        so_far = len(received)
        beside = api.exec("beside-paused", "sleep 1; echo done")
        assert (len(received), beside["stdout"]) == (so_far, "done\n")
        post(api, "paused", "resume")
        reading.result()

    assert received[-1].event["exitCode"] == 0
    assert stdout_of(received) == "".join(f"{n}\n" for n in range(1, 101))
    for name in ("paused", "beside-paused"):
        api.remove(name)


def test_a_paused_sandbox_can_be_stopped_and_removed(api: Client) -> None:
    for name in ("frozen-a", "frozen-b"):
        api.sandbox(name)
        post(api, name, "pause")

    assert post(api, "frozen-a", "stop")["state"] == "stopped"
    for name in ("frozen-a", "frozen-b"):
        api.remove(name)
        assert api.http.get(f"/v1/sandboxes/{name}").status_code == 404


def test_variables_of_a_sandbox_reach_running_and_new_sessions(api: Client) -> None:
    api.sandbox("env", env={"A": "1", "B": "2"})
    api.exec("env", "true")

    api.http.put("/v1/sandboxes/env/env", json={"env": {"A": "x", "B": None, "C": "3"}})

    for session in ("default", "fresh"):
        if session == "fresh":
            api.http.post("/v1/sandboxes/env/sessions", json={"name": session})
        result = api.exec("env", 'echo "$A ${B-unset} $C"', session=session)
        assert result["stdout"] == "x unset 3\n"
    assert (
        "x None 3"
        in api.code(
            "env", "import os; print(os.environ['A'], os.environ.get('B'), os.environ['C'])"
        )["logs"]["stdout"][0]
    )
    api.remove("env")


def test_memory_that_ran_out_is_told_as_an_event_of_the_sandbox(api: Client) -> None:
    api.sandbox("hungry", memoryMb=128)

    api.exec("hungry", "python3 -c 'bytearray(10 << 30)'; python3 -c 'x = b\"1\" * (512 << 20)'")

    with happenings(api, "hungry") as events:
        assert next(event for event in events if event["type"] == "out_of_memory")
    api.remove("hungry")


def test_an_isolated_session_keeps_its_programs_to_itself_and_shares_files(api: Client) -> None:
    api.sandbox("apart")
    for name in ("one", "two"):
        body = {"name": name, "isolation": True, "env": {"SECRET": f"of-{name}"}}
        assert api.http.post("/v1/sandboxes/apart/sessions", json=body).status_code == 201
    api.exec("apart", "sleep 300 & echo $! > pid; echo shared > file", session="one")

    seen = api.exec(
        "apart", "id -un; kill $(cat pid); cat /proc/$(cat pid)/environ; cat file", session="two"
    )

    assert seen["stdout"] == "session-2\nshared\n"
    assert seen["stderr"].count("ermi") == 2  # Not permitted; permission denied.
    assert api.exec("apart", "kill -0 $(cat pid); echo $SECRET", session="one")["stdout"] == (
        "of-one\n"
    )
    api.remove("apart")


def test_a_sandbox_whose_name_was_taken_while_redis_had_forgotten_it_keeps_its_files(
    api: Client, platform: Platform
) -> None:
    forgotten = api.sandbox("forgotten")["id"]
    api.exec("forgotten", "echo mine > file")
    with redis.Redis.from_url(platform.redis_url) as client:
        client.delete(f"cf:sandbox:{forgotten}")

    assert api.sandbox("forgotten")["id"] != forgotten

    name = f"forgotten-{forgotten[:8]}"
    wait_for(lambda: api.http.get(f"/v1/sandboxes/{name}").status_code == 200, "it is told again")
    assert api.exec(name, "cat file")["stdout"] == "mine\n"
    for one in ("forgotten", name):
        api.remove(one)
