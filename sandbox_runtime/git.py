"""Has git check repositories out, and do what it is asked in them, as the sandbox's user."""

from __future__ import annotations

import asyncio
import posixpath
import subprocess
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from sandbox_runtime.cancellation import TIMED_OUT, Cancellation, cut_off
from sandbox_runtime.delegate_messages import Clone, CloneBegan, Command, Done, Refused
from sandbox_runtime.git_credentials import Secrets, secrets_of
from sandbox_runtime.git_programs import GitPrograms
from sandbox_runtime.git_urls import checked_ref, checked_server, checked_target, origin_of
from sandbox_runtime.journal import Journal, error_of, timestamp
from sandbox_runtime.output import Output
from sandbox_runtime.programs import UserPrograms
from sandbox_runtime.protocol.errors import (
    FAULTS,
    CheckoutFailed,
    DiskFull,
    GitFault,
    GitTimedOut,
    InvalidRepositoryUrl,
    RuntimeFault,
    TargetNotEmpty,
)
from sandbox_runtime.protocol.events import Complete, Conclusion, Error, Progress, Start, Stream
from sandbox_runtime.protocol.git import ANSWERS, GitCommand, GitHead, PullCommand, PushCommand
from sandbox_runtime.protocol.requests import CheckoutRequest, Credentials, Session
from sandbox_runtime.settings import Settings

REMOVAL_TIMEOUT_S = 60.0
"""For what a failed checkout left behind."""

LOCAL_TIMEOUT_S = 50.0
"""For a command that asks no server; who asked for it waits a minute."""

REMOTE_TIMEOUT_S = 600.0
"""For one that does, where the request does not say."""

MAX_MESSAGE_CHARS = 1000
"""Of git's own words in an error's message."""

log = structlog.get_logger()

DirectoryOf = Callable[[Session], str]
"""Where a session is; relative paths are relative to it."""


class GitCommands:
    """Commands on repositories. Lives on one event loop."""

    def __init__(self, settings: Settings, git: GitPrograms, directory_of: DirectoryOf) -> None:
        self._settings = settings
        self._git = git
        self._directory_of = directory_of

    async def run(self, command: GitCommand, cancellation: Cancellation) -> msgspec.Struct:
        """The answer to a command, as `ANSWERS` has it. Raises `RuntimeFault`."""
        path = posixpath.join(self._directory_of(command.session), command.path)
        order = msgspec.structs.replace(command, path=path)
        secrets, timeout_s = Secrets(), LOCAL_TIMEOUT_S
        if isinstance(order, PullCommand | PushCommand):
            server = None if order.host is None else checked_server(order.host)
            secrets = secrets_of(order.credentials, server)
            timeout_s = order.timeout_ms / 1000 if order.timeout_ms else REMOTE_TIMEOUT_S
            order = msgspec.structs.replace(order, credentials=Credentials())
        deadline = asyncio.get_running_loop().call_later(timeout_s, cancellation.set, TIMED_OUT)
        try:
            outcome = await self._git.run(
                Command(workspace=str(self._settings.workspace), command=order),
                session=command.session,
                secrets=secrets,
                cancellation=cancellation,
            )
        finally:
            deadline.cancel()
        if cancellation.code == TIMED_OUT:
            raise GitTimedOut(f"git took longer than {timeout_s:.0f} s")
        match outcome:
            case Done(answer=answer):
                found: msgspec.Struct = _decoded(answer, ANSWERS[type(command)])
                return found
            case Refused():
                raise _fault_of(outcome)
            case None:
                raise GitFault("git was ended before it was done")


class Checkouts:
    """The checkouts that run. Lives on one event loop."""

    def __init__(
        self,
        settings: Settings,
        programs: UserPrograms,
        git: GitPrograms,
        directory_of: DirectoryOf,
    ) -> None:
        self._settings = settings
        self._programs = programs
        self._git = git
        self._directory_of = directory_of
        self._targets: set[str] = set()
        """The directories that are being filled."""

    async def run(
        self,
        request: CheckoutRequest,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
    ) -> Complete | Error:
        """Clones a repository. Where that fails, nothing of it stays in the target directory.

        Raises `RuntimeFault` where it cannot begin.
        """
        origin = origin_of(request.repo_url, self._settings.workspace)
        order = Clone(
            url=origin.url,
            target=self._target(request, origin.name),
            ref=None if request.ref is None else checked_ref(request.ref),
            depth=request.depth,
            submodules=request.submodules,
            protocols=origin.protocols,
        )
        secrets = secrets_of(request.credentials, origin.server, origin.login)
        if order.target in self._targets:
            raise TargetNotEmpty("Another checkout fills this directory.")
        if cancellation.code is not None:
            return cut_off(cancellation.code)
        self._targets.add(order.target)
        try:
            return await self._fill(order, request.session, secrets, journal, output, cancellation)
        finally:
            self._targets.discard(order.target)

    def _target(self, request: CheckoutRequest, name: str) -> str:
        """Raises `CheckoutFailed`, `InvalidRepositoryUrl`."""
        if request.target_dir is not None:
            return checked_target(request.target_dir, self._directory_of(request.session))
        if name in ("", ".", ".."):
            raise InvalidRepositoryUrl("The URL names no repository: name a target directory.")
        return checked_target(name, str(self._settings.workspace))

    async def _fill(
        self,
        order: Clone,
        session: Session,
        secrets: Secrets,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
    ) -> Complete | Error:
        started = time.monotonic()
        journal.append(Start(timestamp=timestamp(), command=f"git clone {order.url}"))
        began: CloneBegan | None = None
        outcome: Done | Refused | None = None

        def tell(report: CloneBegan | Progress) -> None:
            nonlocal began
            if isinstance(report, CloneBegan):
                began = report
            elif output.has_room_now():
                journal.append(_stamped(report))

        try:
            outcome = await self._git.run(
                order, session=session, secrets=secrets, cancellation=cancellation, told=tell
            )
        finally:
            if not isinstance(outcome, Done) or cancellation.code is not None:
                await self._remove(order.target, began, session.user)
        if cancellation.code is not None:
            return cut_off(cancellation.code)
        match outcome:
            case Done(answer=answer):
                head = _decoded(answer, GitHead)
                return Complete(
                    timestamp=timestamp(),
                    conclusion=Conclusion.SUCCESS,
                    duration_ms=round((time.monotonic() - started) * 1000),
                    commit=head.commit,
                    branch=head.branch,
                    target_dir=order.target,
                )
            case Refused(message=message, words=words):
                if words:
                    output.write(Stream.STDERR, f"{words}\n".encode())
                return error_of(_fault_class(outcome.code, CheckoutFailed)(message))
            case None:
                return error_of(CheckoutFailed("Git was ended before the checkout was."))

    async def _remove(self, target: str, began: CloneBegan | None, user: int) -> None:
        """Removes what git left in the target, as the user: it is no path of ours."""
        if began is None:
            return
        if began.target_existed:
            argv = ["find", target, "-mindepth", "1", "-delete"]
        else:
            argv = ["rm", "-rf", "--", target]
        group = self._programs.new_group("checkout-removal")
        try:
            process = self._programs.spawn(
                argv,
                cwd="/",
                env=self._programs.environment({}, user=user),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                group=group,
                user=user,
            )
            await asyncio.wait_for(self._programs.wait(process), REMOVAL_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            log.warning("checkout not removed", reason=type(error).__name__)
        finally:
            await group.close()


def _decoded(answer: msgspec.Raw, kind: type[Any]) -> Any:
    """What the delegate answers is the user's doing, so it is not trusted. Raises `GitFault`."""
    try:
        return msgspec.json.Decoder(kind).decode(answer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise GitFault("git's delegate answers what it never would") from error


def _fault_of(refused: Refused) -> RuntimeFault:
    words = refused.words[-MAX_MESSAGE_CHARS:].strip()
    message = f"{refused.message} {words}" if words else refused.message
    return _fault_class(refused.code, GitFault)(message)


def _fault_class(code: str, otherwise: type[GitFault]) -> type[RuntimeFault]:
    """What the delegate calls it, if it is something that git can fail with."""
    found = FAULTS.get(code, otherwise)
    return found if issubclass(found, GitFault | DiskFull) else otherwise


def _stamped(report: Progress) -> Progress:
    return msgspec.structs.replace(report, timestamp=timestamp(), step=None)
