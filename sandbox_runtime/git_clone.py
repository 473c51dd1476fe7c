"""Clones one git repository, in the delegate."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox_runtime.as_user import Channel
from sandbox_runtime.delegate_messages import Clone, CloneBegan
from sandbox_runtime.git_failures import reason_of
from sandbox_runtime.git_python import CommandError, GitRefused, git, words_of
from sandbox_runtime.git_urls import REMOTE_SCHEMES
from sandbox_runtime.protocol.events import Progress
from sandbox_runtime.protocol.git import GitHead

PROGRESS_INTERVAL_S = 0.1

MAX_WORDS_CHARS = 64 * 1024
"""Of what git says beside its progress; the last of it is kept."""

FULL_BELOW_BYTES = 8 * 1024 * 1024
"""Git writes so much at once; where a piece does not fit, its room may be left."""

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

PHASES = {
    git.RemoteProgress.COUNTING: "Counting objects",
    git.RemoteProgress.COMPRESSING: "Compressing objects",
    git.RemoteProgress.RECEIVING: "Receiving objects",
    git.RemoteProgress.RESOLVING: "Resolving deltas",
    git.RemoteProgress.FINDING_SOURCES: "Finding sources",
    git.RemoteProgress.CHECKING_OUT: "Checking out files",
}


def clone(order: Clone, channel: Channel) -> GitHead:
    """What is checked out then. Raises `GitRefused`."""
    progress = _Progress(channel)
    os.environ["GIT_ALLOW_PROTOCOL"] = order.protocols
    try:
        repo = _Checkout(channel, order, progress).make()
    except CommandError as error:
        words = f"{progress.words()}\n{words_of(error)}".strip()
        code = reason_of(words.replace(order.url, ""), "checkout_failed")
        if code == "checkout_failed" and "unable to write" in words and _is_full(order.target):
            code = "disk_full"  # Git does not say why it could not.
        raise GitRefused(code, words) from error
    except OSError as error:
        raise GitRefused("checkout_failed", f"{error.filename}: {error.strerror}") from error
    return head_of(repo.git)


def head_of(repository: git.Git) -> GitHead:
    """What is checked out."""
    return GitHead(branch=_branch(repository), commit=resolved(repository, "HEAD^{commit}"))


def resolved(repository: git.Git, revision: str) -> str | None:
    """The full name of an object; None where there is none."""
    try:
        return str(repository.rev_parse("--verify", "--quiet", "--end-of-options", revision))
    except CommandError:
        return None


def _is_full(path: str) -> bool:
    volume = os.statvfs(path)
    return volume.f_bavail * volume.f_frsize < FULL_BELOW_BYTES or volume.f_favail == 0


class _Checkout:
    """One clone, from the check of its target to the checkout of what was asked for."""

    def __init__(self, channel: Channel, order: Clone, progress: _Progress) -> None:
        self._channel = channel
        self._order = order
        self._progress = progress

    def make(self) -> git.Repo:
        self._begin()
        repo = self._cloned()
        if self._order.submodules:
            self._fetch_submodules(repo)
        return repo

    def _cloned(self) -> git.Repo:
        ref = self._order.ref
        if ref is None:
            return self._clone()
        for prefix in ("refs/heads/", "refs/tags/"):
            ref = ref.removeprefix(prefix)
        if not COMMIT.fullmatch(ref) and not ref.startswith("refs/"):
            return self._clone(branch=ref)
        repo = self._clone(no_checkout=True)
        commit = self._fetched(repo, ref)
        repo.git.checkout("--detach", commit)
        return repo

    def _begin(self) -> None:
        target = Path(self._order.target)
        try:
            if next(target.iterdir(), None) is not None:
                raise GitRefused("target_not_empty")
            existed = True
        except NotADirectoryError:
            raise GitRefused("target_not_empty") from None
        except FileNotFoundError:
            existed = False
        target.mkdir(parents=True, exist_ok=True)
        self._channel.send(CloneBegan(target_existed=existed))

    def _clone(self, **options: Any) -> git.Repo:
        if self._order.depth is not None:
            options["depth"] = str(self._order.depth)
        return git.Repo.clone_from(
            self._order.url,
            self._order.target,
            progress=self._progress,  # type: ignore[arg-type]  # It is one by another way.
            # Copied, not linked; and `depth` would be ignored.
            no_local=True,
            # Checked in the runtime, by a list of what is allowed; theirs refuses IPv6 addresses.
            allow_unsafe_protocols=True,
            **options,
        )

    def _fetched(self, repo: git.Repo, ref: str) -> str:
        """The commit that `ref` is, fetched where the clone did not bring it."""
        if (commit := resolved(repo.git, f"{ref}^{{commit}}")) is not None:
            return commit
        depth = [] if self._order.depth is None else [f"--depth={self._order.depth}"]
        try:
            repo.git.fetch(*depth, "--", "origin", ref)
        except CommandError:
            if not depth or not COMMIT.fullmatch(ref):
                raise
            # The server gives out what it advertises alone: all of it, then.
            repo.git.fetch("--unshallow", "--", "origin", "+refs/*:refs/remotes/origin/*")
        for name in (ref, "FETCH_HEAD"):
            if (commit := resolved(repo.git, f"{name}^{{commit}}")) is not None:
                return commit
        raise GitRefused("ref_not_found")

    def _fetch_submodules(self, repo: git.Repo) -> None:
        depth = [] if self._order.depth is None else [f"--depth={self._order.depth}"]
        with repo.git.custom_environment(GIT_ALLOW_PROTOCOL=":".join(REMOTE_SCHEMES)):
            repo.git.submodule("update", "--init", "--recursive", *depth)


class _Progress(git.RemoteProgress):
    """Reports what git says of how far it is, and keeps the rest of its words."""

    def __init__(self, channel: Channel, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._channel = channel
        self._clock = clock
        self._told_at = float("-inf")
        self._words = ""

    def words(self) -> str:
        return "\n".join([self._words, *self.error_lines]).strip()

    def line_dropped(self, line: str) -> None:
        self.other_lines.clear()
        self._words = f"{self._words}\n{line}"[-MAX_WORDS_CHARS:]

    def update(
        self,
        op_code: int,
        cur_count: str | float,
        max_count: str | float | None = None,
        message: str = "",
    ) -> None:
        if self._clock() - self._told_at < PROGRESS_INTERVAL_S:
            return
        self._told_at = self._clock()
        percent = None
        if max_count:
            percent = max(0, min(100, int(float(cur_count or 0) * 100 / float(max_count))))
        phase = PHASES.get(op_code & self.OP_MASK, "Working")
        self._channel.send(
            Progress(timestamp="", phase=phase, percent=percent, message=message[:500])
        )


def _branch(repository: git.Git) -> str | None:
    try:
        return str(repository.symbolic_ref("--short", "--quiet", "HEAD"))
    except CommandError:
        return None
