"""Checks git repositories out, as the sandbox's user."""

from __future__ import annotations

import asyncio
import posixpath
import re
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
import structlog

from sandbox_runtime import delegates
from sandbox_runtime.cancellation import Cancellation, cut_off
from sandbox_runtime.delegate_messages import (
    Clone,
    CloneBegan,
    Cloned,
    CloneReport,
    Fault,
    NotCloned,
)
from sandbox_runtime.delegates import DelegateLost
from sandbox_runtime.journal import Journal, timestamp
from sandbox_runtime.output import Output
from sandbox_runtime.programs import JobGroup, UserPrograms
from sandbox_runtime.protocol.errors import DiskFull
from sandbox_runtime.protocol.events import Complete, Conclusion, Error, Progress, Start, Stream
from sandbox_runtime.protocol.requests import CheckoutRequest
from sandbox_runtime.settings import Settings

REMOTE_SCHEMES = ("https", "http", "git", "ssh")

REMOVAL_TIMEOUT_S = 60.0
"""For what a failed checkout left behind."""

MAX_URL_CHARS = 4096

# What git asks while it clones, it is told here: to ask nobody, and to run nothing of the
# repository's or of its server's choice.
GIT_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/true",
    "SSH_ASKPASS": "/bin/true",
    "GIT_OPTIONAL_LOCKS": "0",
}

GIT_OPTIONS = {
    "protocol.ext.allow": "never",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "submodule.recurse": "false",
    "advice.detachedHead": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}

SSH_COMMAND = "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new"
"""Unless the user's environment has one: nobody is there to be asked about a host's key."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCP_LIKE = re.compile(r"(?:[\w.][\w.+-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*:(?![:/]{2})[^-:][^:]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[?[0-9A-Fa-f:.]+\]?")
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/]*@")

_HINTS = {
    "disk_full": DiskFull.hint,
    "ref_not_found": "Check the name; a commit is given in full, with 40 digits.",
    "authentication_failed": (
        "Check the credentials. Where there are none, the repository may also not exist: "
        "servers do not tell."
    ),
    "network_error": "Check the URL, and that the sandbox has network access.",
    "repository_not_found": "Check the URL.",
    "target_not_empty": "Choose another target directory, or remove this one first.",
    "invalid_repository_url": "Use https://, http://, git://, ssh:// or git@host:path.",
    "git_missing": "Use an image with git, or send an archive.",
    "checkout_failed": "Git's own words are in the output.",
}

log = structlog.get_logger()


class CheckoutRefused(Exception):
    """The request cannot be handed to git. `code` is that of the error event."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Origin(NamedTuple):
    """What git is given to clone, and whether it lies in the sandbox itself."""

    url: str
    is_local: bool


class Checkouts:
    """The checkouts that run. Lives on one event loop."""

    def __init__(self, settings: Settings, programs: UserPrograms) -> None:
        self._settings = settings
        self._programs = programs
        self._targets: set[str] = set()
        """The directories that are being filled."""

    async def run(
        self,
        request: CheckoutRequest,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
    ) -> Complete | Error:
        """Clones a repository. Where that fails, nothing of it stays in the target directory."""
        try:
            origin = origin_of(request.repo_url, self._settings.workspace)
            ref = None if request.ref is None else checked_ref(request.ref)
            target = checked_target(request.target_dir, self._settings.workspace)
            if target in self._targets:
                raise CheckoutRefused("target_not_empty", "Another checkout fills this directory.")
        except CheckoutRefused as refusal:
            return _error(refusal.code, str(refusal))
        order = Clone(url=origin.url, target=target, ref=ref, depth=request.depth)
        checkout = _Checkout(order, origin, self._settings, self._programs)
        self._targets.add(target)
        try:
            return await checkout.run(journal, output, cancellation)
        finally:
            self._targets.discard(target)


class _Checkout:
    """One checkout that runs."""

    def __init__(
        self, order: Clone, origin: Origin, settings: Settings, programs: UserPrograms
    ) -> None:
        self._order = order
        self._origin = origin
        self._settings = settings
        self._programs = programs
        self._began: CloneBegan | None = None

    async def run(
        self, journal: Journal, output: Output, cancellation: Cancellation
    ) -> Complete | Error:
        if cancellation.code is not None:
            return cut_off(cancellation.code)
        began = time.monotonic()
        command = f"git clone {redacted(self._order.url)}"
        journal.append(Start(timestamp=timestamp(), command=command))
        group = self._programs.new_group("checkout")
        cancellation.call(group.kill_all)
        outcome: Cloned | NotCloned | None = None
        try:
            async with aclosing(self._reports(group)) as reports:
                async for report in reports:
                    match report:
                        case CloneBegan():
                            self._began = report
                        case Progress() if output.has_room_now():
                            journal.append(_progress(report))
                        case Cloned() | NotCloned():
                            outcome = report
                        case Fault(message=message):
                            log.warning("checkout's delegate failed", reason=redacted(message))
        except OSError as error:
            log.warning("checkout not started", reason=error.strerror)
        finally:
            cancellation.forget(group.kill_all)
            await group.close()
            if not isinstance(outcome, Cloned) or cancellation.code is not None:
                await self._remove_target()
        if cancellation.code is not None:
            return cut_off(cancellation.code)
        match outcome:
            case Cloned(commit=commit, branch=branch):
                return Complete(
                    timestamp=timestamp(),
                    conclusion=Conclusion.SUCCESS,
                    duration_ms=round((time.monotonic() - began) * 1000),
                    commit=commit,
                    branch=branch,
                )
            case NotCloned(code=code, message=message, stderr=stderr):
                if stderr:
                    output.write(Stream.STDERR, f"{redacted(stderr)}\n".encode())
                return _error(code if code in _HINTS else "checkout_failed", message)
            case None:
                return _error("checkout_failed", "Git was ended before the checkout was.")

    async def _reports(self, group: JobGroup) -> AsyncGenerator[Any, None]:
        """What the delegate reports, to its end."""
        delegate = await delegates.start(
            "sandbox_runtime.git_clone",
            programs=self._programs,
            settings=self._settings,
            env=self._environment(),
            group=group,
            reports=CloneReport,
        )
        try:
            await delegate.order(self._order)
            while True:
                yield await delegate.report()
        except DelegateLost:
            return
        finally:
            await delegate.close()

    def _environment(self) -> dict[str, str]:
        given = self._programs.environment({})
        options: dict[str, str] = {"GIT_CONFIG_COUNT": str(len(GIT_OPTIONS))}
        for number, (name, value) in enumerate(GIT_OPTIONS.items()):
            options[f"GIT_CONFIG_KEY_{number}"] = name
            options[f"GIT_CONFIG_VALUE_{number}"] = value
        protocols = "file" if self._origin.is_local else ":".join(REMOTE_SCHEMES)
        return {
            "GIT_SSH_COMMAND": SSH_COMMAND,
            **given,
            **GIT_ENVIRONMENT,
            **options,
            "GIT_ALLOW_PROTOCOL": protocols,
        }

    async def _remove_target(self) -> None:
        """Removes what git left in the target, as the user: it is no path of ours."""
        if self._began is None:
            return
        target = self._order.target
        if self._began.target_existed:
            argv = ["find", target, "-mindepth", "1", "-delete"]
        else:
            argv = ["rm", "-rf", "--", target]
        group = self._programs.new_group("checkout-removal")
        try:
            process = self._programs.spawn(
                argv,
                cwd="/",
                env=self._programs.environment({}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                group=group,
            )
            await asyncio.wait_for(self._programs.wait(process), REMOVAL_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            log.warning("checkout not removed", reason=type(error).__name__)
        finally:
            await group.close()


def origin_of(url: str, workspace: Path) -> Origin:
    """What git may be given for a request's URL. Raises `CheckoutRefused`.

    Remote schemes and `user@host:path` are taken as they are; a `file://` URL or a plain path has
    to lie in the workspace. Everything else could have git start a program of the URL's choice.
    """
    if not url or len(url) > MAX_URL_CHARS or _CONTROL.search(url) or url.startswith("-"):
        raise _invalid_url("it is empty, too long, or has characters that no URL has")
    scheme, separator, rest = url.partition("://")
    if not separator:
        if _SCP_LIKE.fullmatch(url):
            return Origin(url, is_local=False)
        if ":" in url:
            raise _invalid_url("its form is not known")
        return Origin(_in_workspace(url, workspace), is_local=True)
    if scheme == "file" and rest.startswith("/"):
        return Origin(_in_workspace(unquote(rest), workspace), is_local=True)
    if scheme not in REMOTE_SCHEMES:
        raise _invalid_url(f"the scheme {scheme[:40]!r} is not allowed")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        raise _invalid_url("it cannot be read") from None
    user = unquote(parts.username or "")
    if not _HOST.fullmatch(host) or user.startswith("-") or " " in url:
        raise _invalid_url("its host or user is not one")
    return Origin(url, is_local=False)


def checked_ref(ref: str) -> str:
    """A branch, tag or commit that cannot be an option of git's. Raises `CheckoutRefused`."""
    if not ref or ref.startswith("-") or _CONTROL.search(ref) or re.search(r"[ ~^:?*\[\\]", ref):
        raise CheckoutRefused("ref_not_found", "This cannot be a branch, a tag or a commit.")
    return ref


def checked_target(target: str, workspace: Path) -> str:
    """The absolute path of the target directory. Raises `CheckoutRefused`."""
    if not target or _CONTROL.search(target):
        raise CheckoutRefused("checkout_failed", "The target directory's name is not one.")
    return posixpath.normpath(posixpath.join(workspace, target))


def redacted(text: str) -> str:
    """`text` without the credentials of the URLs in it."""
    return _CREDENTIALS.sub(r"\1***@", text)


def _in_workspace(path: str, workspace: Path) -> str:
    full = posixpath.normpath(posixpath.join(workspace, path))
    if not Path(full).is_relative_to(workspace) or _CONTROL.search(full):
        raise _invalid_url("a path has to lie in the workspace")
    return full


def _invalid_url(reason: str) -> CheckoutRefused:
    return CheckoutRefused("invalid_repository_url", f"This URL cannot be cloned: {reason}.")


def _progress(report: Progress) -> Progress:
    return msgspec.structs.replace(
        report, timestamp=timestamp(), message=redacted(report.message), step=None
    )


def _error(code: str, message: str) -> Error:
    hint = _HINTS[code]
    return Error(timestamp=timestamp(), code=code, error=redacted(message), hint=hint)
