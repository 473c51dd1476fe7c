"""Runs all tests in two processes side by side, shows what they printed, and counts honestly."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
REPORTS = REPOSITORY / "build" / "tests"
TIMEOUT_S = 45 * 60
SIGN_OF_LIFE_S = 30.0

GROUPS = {
    "quick": ("tests/unit", "tests/shared", "tests/integration", "tests/fleet"),
    "slow": ("tests/e2e", "tests/security"),
}
"""Two processes keep two cores busy: the slow ones mostly wait for containers.

`fleet` starts platforms of its own, and so is in the group that has no other one.
"""


@dataclass(frozen=True)
class Count:
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


class Run:
    """One pytest process: its output goes to a file, its count to another."""

    def __init__(self, name: str, directories: tuple[str, ...]) -> None:
        self.name = name
        self.log = REPORTS / f"{name}.log"
        self._report = REPORTS / f"{name}.xml"
        self._report.unlink(missing_ok=True)
        # Each has its own: two that tidy up the same one trip over each other.
        own = f"--basetemp={Path(tempfile.mkdtemp(prefix='cf-')) / 't'}"
        command = [sys.executable, "-m", "pytest", own, f"--junitxml={self._report}", *directories]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def succeeded(self) -> bool:
        return self._process.returncode == 0

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)

    def count(self) -> Count:
        """Without a report nothing is known to have passed."""
        if not self._report.exists():
            return Count()
        total = Count()
        for suite in ET.parse(self._report).getroot().iter("testsuite"):
            tests, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
            failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
            total += Count(max(0, tests - failed - skipped), failed, skipped)
        return total


def main() -> int:
    started_s = time.monotonic()
    REPORTS.mkdir(parents=True, exist_ok=True)
    runs = [Run(name, directories) for name, directories in GROUPS.items()]
    timed_out = _wait_for(runs, deadline_s=started_s + TIMEOUT_S)
    for run in runs:
        _say(f"\n===== {run.name}: {run.log}\n{run.log.read_text(errors='replace')}")
    failed = timed_out or not all(run.succeeded for run in runs)
    each = "; ".join(f"{run.name}: {run.count()}" for run in runs)
    total = sum((run.count() for run in runs), Count())
    reason = " (stopped at the time limit)" if timed_out else ""
    verdict = "FAILED" if failed else "PASSED"
    _say(f"{verdict}{reason}: {total} in {time.monotonic() - started_s:.0f} s ({each})")
    return 1 if failed else 0


def _wait_for(runs: list[Run], *, deadline_s: float) -> bool:
    """Whether they had to be stopped. Says now and then what is still running."""
    said_s = time.monotonic()
    while running := [run for run in runs if not run.has_ended]:
        now_s = time.monotonic()
        if now_s > deadline_s:
            for run in running:
                run.end()
            return True
        if now_s - said_s > SIGN_OF_LIFE_S:
            said_s = now_s
            _say(f"still running: {', '.join(run.name for run in running)}")
        time.sleep(0.2)
    return False


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
