"""Has programs of ours that are the user do what takes long: look through trees, and watch them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import structlog

from sandbox_runtime import delegates
from sandbox_runtime.delegate_messages import (
    Changed,
    Done,
    Fault,
    FileOrder,
    FileReport,
    Refused,
    WatchBegan,
    WatchFiles,
)
from sandbox_runtime.delegates import Delegate, DelegateLost
from sandbox_runtime.file_answers import text_of
from sandbox_runtime.journal import error_of, timestamp
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.protocol.errors import (
    FAULTS,
    FileFault,
    RuntimeFault,
    TooManyWatches,
)
from sandbox_runtime.protocol.files import (
    ChangesLost,
    FileWatch,
    FileWatchEvent,
    Watching,
)
from sandbox_runtime.protocol.requests import HEARTBEAT_S
from sandbox_runtime.settings import Settings

TIMEOUT_S = 50.0
"""For a search or a replacement in a tree, and for a watch to begin."""

MAX_WATCHES = 16
"""Each is a process, which takes of the sandbox's own memory."""

MAX_MESSAGE_CHARS = 2000

log = structlog.get_logger()

T = TypeVar("T")


class FileOrders:
    """A program for each; what fails raises `RuntimeFault`."""

    def __init__(self, settings: Settings, programs: UserPrograms) -> None:
        self._settings = settings
        self._programs = programs
        self._watching: set[FileWatching] = set()

    async def answer(self, user: int, order: FileOrder, answer: msgspec.json.Decoder[T]) -> T:
        """The program ends when this is cancelled."""
        group = self._programs.new_group("files")
        try:
            with _translated():
                async with asyncio.timeout(TIMEOUT_S):
                    delegate = await self._start(user, group)
                    try:
                        await delegate.order(order)
                        report = await delegate.report()
                    finally:
                        await delegate.close()
                if not isinstance(report, Done):
                    raise _fault_of(report)
                return answer.decode(report.answer)
        finally:
            await group.close()

    async def watch(self, user: int, path: str, order: FileWatch) -> FileWatching:
        """To be closed."""
        if len(self._watching) >= MAX_WATCHES:
            raise TooManyWatches(f"There are {MAX_WATCHES} watches already.")
        watching = FileWatching(path, self._programs.new_group("watch"), self._watching.discard)
        self._watching.add(watching)
        try:
            with _translated():
                async with asyncio.timeout(TIMEOUT_S):
                    await watching.begin(await self._start(user, watching.group), order)
        except BaseException:
            await watching.close()
            raise
        return watching

    async def _start(self, user: int, group: JobGroup) -> Delegate:
        """Raises `OSError`."""
        return await delegates.start(
            "sandbox_runtime.file_delegate",
            programs=self._programs,
            settings=self._settings,
            env=self._programs.environment({}, user=user),
            group=group,
            reports=FileReport,
            user=user,
        )


class FileWatching:
    """A watch, which tells what changes from its beginning on."""

    def __init__(
        self, path: str, group: JobGroup, on_closed: Callable[[FileWatching], None]
    ) -> None:
        self.group = group
        self._path = path
        self._on_closed = on_closed
        self._delegate: Delegate | None = None

    async def begin(self, delegate: Delegate, order: FileWatch) -> None:
        """Raises what the delegate says against it, or `DelegateLost`."""
        self._delegate = delegate
        await delegate.order(WatchFiles(path=sent(self._path), order=order))
        report = await delegate.report()
        if not isinstance(report, WatchBegan):
            raise _fault_of(report)

    async def events(self) -> AsyncGenerator[FileWatchEvent | None, None]:
        """To the end of what is watched; None where nothing happened for a while."""
        assert self._delegate is not None
        yield Watching(path=text_of(self._path)[0], timestamp=timestamp())
        while True:
            reading = asyncio.ensure_future(self._delegate.report())
            try:
                while not (await asyncio.wait((reading,), timeout=HEARTBEAT_S))[0]:
                    yield None
                report = reading.result()
            except DelegateLost:
                yield error_of(FileFault("The watch was ended."))
                return
            finally:
                reading.cancel()
            match report:
                case Changed(changes=None):
                    yield ChangesLost(timestamp=timestamp())
                case Changed(changes=list(changes)):
                    now = timestamp()
                    for change in changes:
                        yield msgspec.structs.replace(change, timestamp=now)
                case _:
                    yield error_of(_fault_of(report))
                    return

    async def close(self) -> None:
        try:
            if self._delegate is not None:
                await self._delegate.close()
            await self.group.close()
        finally:
            self._on_closed(self)


def sent(path: str) -> str:
    """As delegates are told of it: each byte is one character."""
    return os.fsencode(path).decode("latin-1")


def _fault_of(report: Done | Refused | WatchBegan | Changed | Fault) -> RuntimeFault:
    """Of one that was to be another."""
    if isinstance(report, Refused):
        return FAULTS.get(report.code, FileFault)(report.message[:MAX_MESSAGE_CHARS])
    return FileFault("It failed.")


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what becomes of a delegate into a fault: it takes too long, is killed, or forged."""
    try:
        yield
    except TimeoutError:
        raise FileFault(f"Not done within {TIMEOUT_S:.0f} s.") from None
    except (DelegateLost, OSError, msgspec.DecodeError, RecursionError) as error:
        log.warning("file delegate failed", reason=type(error).__name__)
        raise FileFault("It was ended before it was done.") from error
