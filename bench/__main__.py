"""Measures a running platform and prints one table: `python -m bench`."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from bench.api import Api
from bench.chart import render_chart
from bench.errors import BenchError
from bench.machine import describe_machine
from bench.measure_code import measure_code
from bench.measure_create import measure_create
from bench.measure_idle import measure_idle
from bench.measure_memory import measure_memory
from bench.measure_neighbours import measure_neighbours
from bench.measure_previews import measure_previews
from bench.measure_readers import measure_readers
from bench.measure_streaming import measure_streaming
from bench.measure_tenants import measure_tenants
from bench.measure_volleys import measure_volleys
from bench.measure_warm import measure_warm
from bench.processes import environment_of, platform_processes
from bench.report import Part, Report, joined
from bench.report_json import render_json
from bench.sandboxes import Sandboxes
from bench.settings import Settings
from bench.site import Site
from bench.sizes import FULL, QUICK
from bench.table import render_table

DEFAULT_SVG = Path("docs/bench.svg")
ENDED_BY_SIGNAL = 128

MEASUREMENTS: dict[str, Callable[[Site], Part]] = {
    "warm": measure_warm,
    "code": measure_code,
    "create": measure_create,
    "volleys": measure_volleys,
    "streaming": measure_streaming,
    "readers": measure_readers,
    "previews": measure_previews,
    "memory": measure_memory,
    "neighbours": measure_neighbours,
    "tenants": measure_tenants,
    "idle": measure_idle,
}


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    title = describe_machine() + (" · --quick: too few samples to quote" if options.quick else "")
    try:
        parts = _measure(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; what it made is removed", file=sys.stderr)
        return ENDED_BY_SIGNAL + signal.SIGINT
    report = joined(title, parts)
    print(render_table(report), end="")
    _write_files(options, report)
    return 0


def _measure(options: argparse.Namespace) -> list[Part]:
    """Removes what it made, also when it is interrupted."""
    settings = Settings.from_env()
    run_id = secrets.token_hex(4)
    parts = []
    with ExitStack() as stack:
        api = stack.enter_context(Api(settings))
        api.check_ready()
        sandboxes = Sandboxes(settings, run_id)
        stack.callback(sandboxes.close)
        site = _site(options, settings, run_id, api, sandboxes)
        # Entered last, left first: nothing interrupts the cleaning.
        stack.callback(_ignore_interrupts)
        for name in options.only or MEASUREMENTS:
            print(f"measuring: {name} …", file=sys.stderr, flush=True)
            parts.append(MEASUREMENTS[name](site))
    return parts


def _site(
    options: argparse.Namespace, settings: Settings, run_id: str, api: Api, sandboxes: Sandboxes
) -> Site:
    processes = tuple(platform_processes(settings.state_dir))
    told = (environment_of(process.pid).get("COLDFRAME_REDIS_URL") for process in processes)
    return Site(
        settings=settings,
        sizes=QUICK if options.quick else FULL,
        run_id=run_id,
        api=api,
        sandboxes=sandboxes,
        processes=processes,
        redis_url=settings.redis_url or next((url for url in told if url), None),
    )


def _write_files(options: argparse.Namespace, report: Report) -> None:
    # A smoke test's numbers, or a part of them, do not replace the chart that the docs show.
    svg = options.svg or (None if options.quick or options.only else DEFAULT_SVG)
    if svg is not None:
        svg.write_text(render_chart(report))
    if options.json is not None:
        options.json.write_text(render_json(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help=f"write the chart there (full run: {DEFAULT_SVG})"
    )
    parser.add_argument(
        "--only", action="append", choices=tuple(MEASUREMENTS), help="this part alone; repeatable"
    )
    return parser.parse_args()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Ctrl-C or SIGTERM ends a run; a second one does not keep it from removing what it made."""
    _ignore_interrupts()
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
