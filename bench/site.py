"""What every measurement works with: the platform, the bench's sandboxes, how much to take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.api import Api
from bench.processes import PlatformProcess
from bench.sandboxes import Sandboxes
from bench.settings import Settings
from bench.sizes import Sizes


@dataclass(frozen=True, slots=True)
class Site:
    """One platform, for one run."""

    settings: Settings
    sizes: Sizes
    run_id: str
    """Part of each name that the run leaves anywhere, until it has removed it."""
    api: Api
    sandboxes: Sandboxes
    processes: tuple[PlatformProcess, ...]
    """Empty where the platform runs on another machine, or as another user."""
    redis_url: str | None
    """None: it could not be learnt."""

    def run_dir(self, sandbox_id: str) -> Path:
        """Where the socket of a sandbox's runtime lies."""
        return self.settings.state_dir / "sandboxes" / sandbox_id / "run"

    def pids(self, program: str) -> list[int]:
        return [process.pid for process in self.processes if process.program == program]
