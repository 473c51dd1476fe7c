"""What a cell asks its caller with `input()`, and how it gets its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.protocol.errors import InputNotWanted
from sandbox_runtime.protocol.events import InputRequest
from sandbox_runtime.protocol.requests import InputReply

Reply = Callable[[str], Awaitable[None]]


class Questions:
    """The questions of one execution, one at a time. Lives on one event loop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._number = 0
        self._reply: Reply | None = None

    def ask(self, prompt: str, *, password: bool, reply: Reply) -> None:
        """Tells the question; `reply` is given its answer. One that was asked before is void."""
        self._number += 1
        self._reply = reply
        self._journal.append(
            InputRequest(
                timestamp=timestamp(), input=self._number, prompt=prompt, password=password
            )
        )

    def withdraw(self) -> None:
        """Nobody waits for an answer any more."""
        self._reply = None

    async def answer(self, answer: InputReply) -> None:
        """Raises `InputNotWanted`."""
        if self._reply is None:
            raise InputNotWanted("it does not wait for input now")
        if answer.input not in (None, self._number):
            raise InputNotWanted(f"it waits for input {self._number}, not {answer.input}")
        reply, self._reply = self._reply, None
        await reply(answer.value)
