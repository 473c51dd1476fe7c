"""Runs git's delegate, from its order to its end, and keeps secrets out of what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import structlog

from sandbox_runtime import delegates
from sandbox_runtime.cancellation import Cancellation
from sandbox_runtime.delegate_messages import (
    Clone,
    CloneBegan,
    Command,
    Done,
    Fault,
    GitReport,
    Refused,
)
from sandbox_runtime.delegates import DelegateLost
from sandbox_runtime.git_credentials import Secrets, handed_over
from sandbox_runtime.git_environment import git_environment
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.protocol.events import Progress
from sandbox_runtime.protocol.requests import Session
from sandbox_runtime.settings import Settings

MAX_AT_ONCE = 8
"""Each is a Python of its own, of some 30 MB, and what git takes."""

log = structlog.get_logger()


class GitPrograms:
    """The gits that run. Lives on one event loop."""

    def __init__(self, settings: Settings, programs: UserPrograms) -> None:
        self._settings = settings
        self._programs = programs
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def run(
        self,
        order: Clone | Command,
        *,
        session: Session,
        secrets: Secrets,
        cancellation: Cancellation,
        told: Callable[[CloneBegan | Progress], None] = lambda report: None,
    ) -> Done | Refused | None:
        """How it ended; None where it was ended before it could. Nothing outlives this."""
        if not await self._takes_place(cancellation):
            return None
        try:
            if cancellation.code is not None:
                return None
            return await self._run(order, session, secrets, cancellation, told)
        finally:
            self._places.release()

    async def _takes_place(self, cancellation: Cancellation) -> bool:
        """False where the cancellation came first."""
        acquiring = asyncio.create_task(self._places.acquire())
        cancellation.call(acquiring.cancel)
        try:
            await asyncio.wait((acquiring,))
        finally:
            cancellation.forget(acquiring.cancel)
        return not acquiring.cancelled()

    async def _run(
        self,
        order: Clone | Command,
        session: Session,
        secrets: Secrets,
        cancellation: Cancellation,
        told: Callable[[CloneBegan | Progress], None],
    ) -> Done | Refused | None:
        group = self._programs.new_group("git")
        cancellation.call(group.kill_all)
        outcome: Done | Refused | None = None
        try:
            async with aclosing(self._reports(order, session, secrets, group)) as reports:
                async for report in reports:
                    match report:
                        case CloneBegan():
                            told(report)
                        case Progress(message=message):
                            told(msgspec.structs.replace(report, message=secrets.redact(message)))
                        case Done():
                            outcome = report
                        case Refused(message=message, words=words):
                            outcome = msgspec.structs.replace(
                                report,
                                message=secrets.redact(message),
                                words=secrets.redact(words),
                            )
                        case Fault(message=message):
                            log.warning("git's delegate failed", reason=secrets.redact(message))
        except OSError as error:
            log.warning("git not started", reason=error.strerror)
        finally:
            cancellation.forget(group.kill_all)
            await group.close()
        return outcome

    async def _reports(
        self, order: Clone | Command, session: Session, secrets: Secrets, group: JobGroup
    ) -> AsyncGenerator[Any, None]:
        """What the delegate reports, to its end."""
        given = self._programs.environment(session.env, user=session.user)
        with handed_over(
            secrets, programs=self._programs, settings=self._settings, user=session.user
        ) as handover:
            delegate = await delegates.start(
                "sandbox_runtime.git_delegate",
                programs=self._programs,
                settings=self._settings,
                env=git_environment(given, handover, user=session.user),
                group=group,
                reports=GitReport,
                user=session.user,
            )
            try:
                await delegate.order(order)
                while True:
                    yield await delegate.report()
            except DelegateLost:
                return
            finally:
                await delegate.close()
