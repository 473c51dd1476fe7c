"""Measures the time from asking for a sandbox to its first output."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bench.api import Api
from bench.docker_baseline import DockerBaseline
from bench.errors import BaselineFailed
from bench.report import Part, Row, baseline_of
from bench.sampling import Contestant, since_ms, take_turns, timed
from bench.site import Site
from bench.summary import summarise

GROUP = "From nothing to the first output"
OURS = "create a sandbox, first exec's first stdout"
DOCKER_RUN = "docker run --rm <same image> echo"


def measure_create(site: Site) -> Part:
    with ExitStack() as stack:
        contestants = [Contestant(OURS, lambda: _create_to_output_ms(site))]
        left_out = []
        try:
            # It only tells which image the sandboxes have.
            model = site.sandboxes.make(site.api)
            stack.callback(site.sandboxes.remove, model.name)
            docker = DockerBaseline(model.id)
            stack.callback(docker.close)
        except BaselineFailed as error:
            left_out.append(f"docker run: {error}")
        else:
            contestants.append(
                Contestant(DOCKER_RUN, timed(lambda: docker.run("echo", "hi")), every=2)
            )
        samples = take_turns(contestants, rounds=site.sizes.create_rounds, warm_ups=0)
    ours = summarise(samples[OURS])
    if DOCKER_RUN not in samples:
        return Part(rows=(Row(GROUP, OURS, ours),), left_out=tuple(left_out))
    theirs = summarise(samples[DOCKER_RUN])
    return Part(
        rows=(
            Row(GROUP, OURS, ours, baseline=baseline_of("docker run", theirs)),
            Row(GROUP, DOCKER_RUN, theirs, ours=False),
        )
    )


def _create_to_output_ms(site: Site) -> float:
    name = site.sandboxes.new_name()
    with Api(site.settings) as api:
        started_s = time.perf_counter()
        api.put_sandbox(name)
        api.exec_to_first_output(name, "echo hi")
        taken_ms = since_ms(started_s)
    site.sandboxes.remove(name)
    return taken_ms
