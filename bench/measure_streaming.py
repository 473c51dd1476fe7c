"""Measures how fast a large output reaches a reader."""

from __future__ import annotations

from contextlib import ExitStack

from bench.docker_baseline import DockerBaseline
from bench.errors import BaselineFailed, PlatformRefused
from bench.report import Part, Row, baseline_of
from bench.sampling import Contestant, take_turns, timed
from bench.site import Site
from bench.sse import read_events
from bench.summary import Summary, summarise

OUTPUT_BYTES = 16 * 1024 * 1024
OUTPUT_LIMIT_BYTES = 2 * OUTPUT_BYTES
COMMAND = f"yes {'0123456789abcdef' * 4} | head -c {OUTPUT_BYTES}"
MB = 1_000_000

GROUP = "Streamed: 16 MiB of text"
OURS = "exec, read as SSE"
DOCKER = "docker exec, through a pipe"


def measure_streaming(site: Site) -> Part:
    with ExitStack() as stack:
        sandbox = site.sandboxes.make(site.api)
        stack.callback(site.sandboxes.remove, sandbox.name)
        api, name = site.api, sandbox.name
        streams: list[bytes] = []

        def stream() -> None:
            streams[:] = [api.exec_stream(name, COMMAND, output_limit_bytes=OUTPUT_LIMIT_BYTES)]

        contestants = [Contestant(OURS, timed(stream))]
        left_out = []
        try:
            docker = DockerBaseline(sandbox.id)
            stack.callback(docker.close)
        except BaselineFailed as error:
            left_out.append(f"docker exec through a pipe: {error}")
        else:
            contestants.append(Contestant(DOCKER, timed(lambda: docker.exec_by_cli(COMMAND))))
        samples = take_turns(contestants, rounds=site.sizes.stream_rounds, warm_ups=1)
        _check_stream(streams[0])
    summaries = {contestant: summarise(taken) for contestant, taken in samples.items()}
    theirs = summaries.get(DOCKER)
    baseline = None if theirs is None else baseline_of(DOCKER, theirs)
    rows = [Row(GROUP, OURS, summaries[OURS], baseline=baseline, note=_speed(summaries[OURS]))]
    if theirs is not None:
        rows.append(Row(GROUP, DOCKER, theirs, note=_speed(theirs), ours=False))
    return Part(rows=tuple(rows), left_out=tuple(left_out))


def _check_stream(stream: bytes) -> None:
    """Not while it is measured: the reader's own work is not the platform's."""
    events = list(read_events(stream.split(b"\n")))
    received = sum(len(event.data) for event in events if event.type == "stdout")
    if events[-1].type != "complete" or received != OUTPUT_BYTES:
        raise PlatformRefused(
            f"a stream of {OUTPUT_BYTES} bytes brought {received} and ended in {events[-1].type}"
        )


def _speed(summary: Summary) -> str:
    return f"{OUTPUT_BYTES / MB / summary.median * 1000:.0f} MB/s"
