"""What requests about git repositories may say. Their answers are the runtime's, field by field."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from sandbox_runtime.protocol.git import MAX_COMMITS, Files, GitCommand, Message, Text
from sandbox_runtime.protocol.requests import (
    MAX_DEPTH,
    CheckoutRequest,
    Credentials,
    Session,
)
from web.schemas import SessionName
from workers.contract.sandboxes import DEFAULT_SESSION

DEFAULT_TIMEOUT_MS = 600_000
MAX_TIMEOUT_MS = 1_800_000

Timeout = Annotated[int, Meta(ge=1, le=MAX_TIMEOUT_MS)]

C = TypeVar("C", bound=GitCommand)


class _Shape(msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True):
    session: SessionName = DEFAULT_SESSION


class GitCheckoutRequest(_Shape, frozen=True, kw_only=True):
    """A repository to clone, and what of it to check out."""

    repo_url: Text
    target_dir: Text | None = None
    """Relative to the session's directory; left out: `/workspace/` and the repository's name."""
    ref: Text | None = None
    """A branch, a tag or a commit; left out: the remote's default branch."""
    depth: Annotated[int, Meta(ge=1, le=MAX_DEPTH)] | None = None
    submodules: bool = False
    credentials: Credentials = Credentials()
    timeout_ms: Timeout = DEFAULT_TIMEOUT_MS

    def to_runtime(self, session: Session) -> CheckoutRequest:
        return CheckoutRequest(**_given(self), session=session)  # type: ignore[arg-type]


class GitQuery(_Shape, frozen=True, kw_only=True):
    """The repository that a directory lies in, relative to the session's."""

    path: Text = "."

    def to_command(self, kind: type[C], session: Session) -> C:
        """The runtime's command, whose fields have the same names."""
        return kind(**_given(self), session=session)  # type: ignore[arg-type]


class GitLogQuery(GitQuery, frozen=True, kw_only=True):
    """Which commits, newest first."""

    revision: Text = "HEAD"
    """Or a range, as `main..feature`."""
    file: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_COMMITS)] = 50
    skip: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class GitDiffQuery(GitQuery, frozen=True, kw_only=True):
    """Of the working tree, or with `staged` of the index; against the index, or a revision."""

    revision: Text | None = None
    staged: bool = False
    file: Text | None = None


class GitBranchQuery(GitQuery, frozen=True, kw_only=True):
    """Which branch to delete."""

    branch: Text
    force: bool = False
    """Also where it has commits that are in no other."""


class GitAddRequest(GitQuery, frozen=True, kw_only=True):
    """Files to stage as they are, deleted ones too; a directory is all that is in it."""

    files: Annotated[Files, Meta(min_length=1)]


class GitCommitRequest(GitQuery, frozen=True, kw_only=True):
    """What to say of the staged changes."""

    message: Message
    author_name: Text | None = None
    author_email: Text | None = None
    """Left out: those of git's configuration in the sandbox, else ours."""
    allow_empty: bool = False


class GitBranchRequest(GitQuery, frozen=True, kw_only=True):
    """A branch to make."""

    branch: Text
    start: Text = "HEAD"
    switch: bool = False
    """Also check it out."""


class GitSwitchRequest(GitQuery, frozen=True, kw_only=True):
    """A branch to check out; one that only the remote has is made."""

    branch: Text


class GitPullRequest(GitQuery, frozen=True, kw_only=True):
    """What to get from where."""

    remote: Text = "origin"
    branch: Text | None = None
    """Left out: the branch that is checked out."""
    credentials: Credentials = Credentials()
    host: Text | None = None
    """The one server that the token is for: `github.com`, `http://localhost:3000`. A token needs
    it, as programs of the sandbox can change where the remote is."""
    timeout_ms: Timeout = DEFAULT_TIMEOUT_MS


class GitPushRequest(GitPullRequest, frozen=True, kw_only=True):
    """What to send where."""

    force: bool = False
    """Over what the remote has, if that is what was fetched last."""
    set_upstream: bool = False


class CheckedOut(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What was checked out, and where."""

    target_dir: str
    branch: str | None
    """None: no branch, HEAD is detached."""
    commit: str | None
    """None: the repository is empty."""


def _given(request: msgspec.Struct) -> dict[str, object]:
    given = {name: getattr(request, name) for name in request.__struct_fields__}
    given.pop("session")
    if "file" in given:
        file = given.pop("file")
        given["files"] = [] if file is None else [file]
    return given
