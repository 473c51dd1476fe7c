"""Makes the bench's sandboxes and sees to it that none stays behind."""

from __future__ import annotations

import sys

from bench.api import Api, Sandbox
from bench.errors import BenchError
from bench.settings import Settings


class Sandboxes:
    """Made by one thread; `close` removes all that were made."""

    def __init__(self, settings: Settings, run_id: str) -> None:
        self._settings = settings
        self._run_id = run_id
        self._names: list[str] = []
        self._made = 0

    def new_name(self) -> str:
        """A name that nobody has; who uses it need not remove the sandbox."""
        self._made += 1
        name = f"bench-{self._run_id}-{self._made}"
        # Before the sandbox is there: an interrupt may come while it is being made.
        self._names.append(name)
        return name

    def new_owner(self) -> str:
        """A name that nobody has."""
        self._made += 1
        return f"bench-{self._run_id}-{self._made}"

    def make(self, api: Api) -> Sandbox:
        return api.put_sandbox(self.new_name())

    def remove(self, name: str) -> None:
        """Ends its jobs too."""
        # By a connection of its own: an interrupted one may stand in the middle of an answer.
        with Api(self._settings) as api:
            api.delete_sandbox(name)
        self._names.remove(name)

    def close(self) -> None:
        for name in tuple(self._names):
            try:
                self.remove(name)
            except BenchError as error:
                print(f"could not remove the sandbox {name}: {error}", file=sys.stderr)
