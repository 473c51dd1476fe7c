"""Tells a running execution that it is to end early, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandbox_runtime.journal import timestamp
from sandbox_runtime.protocol.events import Error

TIMED_OUT = "timed_out"

_SENTENCES = {
    "cancelled": ("It was cancelled.", ""),
    TIMED_OUT: ("It ran longer than it may.", "Allow it more time, or do less at once."),
    "sandbox_lost": (
        "The sandbox was ended from outside, as by an engine that stops.",
        "The next call on its name makes a new one.",
    ),
    "superseded": ("It was replaced by a later one.", ""),
}


class Cancellation:
    """Set at most once. Lives on one event loop."""

    def __init__(self) -> None:
        self._code: str | None = None
        self._callbacks: list[Callable[[], object]] = []

    @property
    def code(self) -> str | None:
        """The code of the error event to come; None while nothing is to end."""
        return self._code

    def set(self, code: str) -> None:
        """Says that the execution is to end. The first reason stays."""
        if self._code is None:
            self._code = code
            for callback in self._callbacks:
                callback()
            self._callbacks.clear()

    def call(self, callback: Callable[[], object]) -> None:
        """Has `callback` called when it is set: at once where it is set already."""
        if self._code is not None:
            callback()
        else:
            self._callbacks.append(callback)

    def forget(self, callback: Callable[[], object]) -> None:
        """Undoes `call`."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    async def wait(self) -> str:
        """The code, as soon as there is one."""
        if self._code is None:
            event = asyncio.Event()
            self.call(event.set)
            try:
                await event.wait()
            finally:
                self.forget(event.set)
        assert self._code is not None
        return self._code


def cut_off(code: str) -> Error:
    """The terminal event of an execution that was ended early, for the reason `code`."""
    sentence, hint = _SENTENCES[code]
    return Error(timestamp=timestamp(), code=code, error=sentence, hint=hint)
