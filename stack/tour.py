"""Shows what the platform does: a command, a piece of Python and the build of a project."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

from stack.api import Api, ApiFailed, Event
from stack.client_env import ClientEnv
from stack.errors import TourFailed
from stack.sample_project import STEPS, sample_archive

SANDBOX = "tour"
NARROW = 100  # columns of a terminal that a line of the tour may take

COMMAND = 'for word in one command, streamed as it runs; do echo "$word"; sleep 0.2; done'
CODE = """\
import pandas as pd

numbers = pd.DataFrame({"n": range(1, 6), "square": [n * n for n in range(1, 6)]})
print("a table and its plot:")
numbers.plot(x="n", y="square")
numbers
"""


def show(client_env: ClientEnv) -> None:
    """Prints three streams as they come. Raises `TourFailed` where one does not end well."""
    api = Api(client_env)
    try:
        _show(api)
    except ApiFailed as error:
        raise TourFailed(f"The tour broke off: {error}", hint="See: make status, make logs") from (
            error
        )


def describe(event: Event) -> list[str]:
    """The lines in which a person is told of an event."""
    place = f"[{event.step}] " if event.step else ""
    match event.type:
        case "stdout" | "stderr":
            return [f"{event.type:<8} {place}{line}" for line in str(event.data).splitlines()]
        case "result":
            lines = [f"result   {line}" for line in event.text.splitlines()]
            if event.png:
                lines.append(f"result   a PNG of {len(base64.b64decode(event.png)):,} bytes")
            return lines
        case "step":
            ending = "" if event.exit_code is None else f", exit code {event.exit_code}"
            return [f"step     {event.name} {event.status}{ending}"]
        case "complete":
            ending = "" if event.exit_code is None else f", exit code {event.exit_code}"
            return [f"complete {event.conclusion}{ending}"]
        case "progress":
            percent = "" if event.percent is None else f" {event.percent} %"
            return [f"progress {place}{event.phase}{percent}"]
        case "exception":
            return [f"{event.name}: {event.value}"]
        case "error":
            return [f"error    {event.code}: {event.error}"]
        case _:
            return [event.type]


def follow(events: Iterator[Event]) -> list[Event]:
    """Prints a job's events with their times; all of them, once it has succeeded."""
    started_s = time.monotonic()
    seen = []
    for event in events:
        seen.append(event)
        for line in describe(event):
            elapsed_s = time.monotonic() - started_s
            print(f"  {elapsed_s:6.2f} s  {line[:NARROW].rstrip()}", flush=True)
    if not seen or seen[-1].type != "complete" or seen[-1].conclusion != "success":
        last = " ".join(describe(seen[-1])) if seen else "nothing"
        raise TourFailed(
            f"A stream of the tour ended with: {last}", hint="See: make status, make logs P=worker"
        )
    return seen


def _show(api: Api) -> None:
    started_s = time.monotonic()
    print(f"\nA short tour. First a sandbox, named {SANDBOX}:", flush=True)
    api.call("PUT", f"/v1/sandboxes/{SANDBOX}", {})
    print(f"  it runs after {time.monotonic() - started_s:.2f} s")
    try:
        print(f"\nA command in it:\n  {COMMAND}", flush=True)
        follow(api.stream(f"/v1/sandboxes/{SANDBOX}/exec", {"command": COMMAND}))
        print("\nA piece of Python:\n  " + CODE.strip().replace("\n", "\n  "), flush=True)
        events = follow(
            api.stream(f"/v1/sandboxes/{SANDBOX}/code", {"code": CODE, "language": "python"})
        )
        if not any(event.png for event in events):
            raise TourFailed("The code gave no plot.", hint="See: make logs P=worker")
        _show_build(api)
    finally:
        api.call("DELETE", f"/v1/sandboxes/{SANDBOX}")
    print(f"\nThe tour took {time.monotonic() - started_s:.1f} s; its sandbox is removed.")


def _show_build(api: Api) -> None:
    print("\nThe build of a project that is sent along, in a sandbox of its own:", flush=True)
    follow(api.stream("/v1/builds", {"archive": sample_archive(), "steps": list(STEPS)}))
