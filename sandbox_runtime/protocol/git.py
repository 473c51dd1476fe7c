"""What git can be asked in a sandbox, besides the checkout of `requests`.

    POST /git/checkout      body CheckoutRequest → 200, application/x-ndjson: events as of an
                            execution, and an empty line every HEARTBEAT_S; ends when the caller
                            leaves
    POST /git               body GitCommand → its answer, as `ANSWERS` has it; ends when the caller
                            leaves

Text of repositories is UTF-8 with U+FFFD for what is not. Paths in answers are relative to the top
of the working tree, paths in commands to `path`; they are names, not patterns.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from sandbox_runtime.protocol.requests import Credentials, Session, TimeoutMs

MAX_LISTED = 10_000
"""Files in a status, branches in a list; what is above it is left out."""

MAX_COMMITS = 1000
"""In one answer; `skip` leads to the next."""

MAX_FILES = 10_000
"""Named in one command."""

MAX_DIFF_BYTES = 4 * 1024 * 1024

NO_NUL = r"^[^\x00]*$"
"""No program can be given one."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=NO_NUL)]
Message = Annotated[str, msgspec.Meta(min_length=1, max_length=64 * 1024, pattern=NO_NUL)]
Files = Annotated[list[Text], msgspec.Meta(max_length=MAX_FILES)]


class _Command(
    msgspec.Struct,
    frozen=True,
    rename="camel",
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="command",
):
    path: Text = "."
    """A directory in the repository; relative to the session's."""
    session: Session = Session()


class StatusCommand(_Command, frozen=True, tag="status"):
    pass


class LogCommand(_Command, frozen=True, tag="log"):
    """Newest first."""

    revision: Text = "HEAD"
    """Or a range, as `main..feature`."""
    files: Files = []
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_COMMITS)] = 50
    skip: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class DiffCommand(_Command, frozen=True, tag="diff"):
    """Of the working tree, or with `staged` of the index; against the index, or a revision."""

    revision: Text | None = None
    staged: bool = False
    files: Files = []


class BranchesCommand(_Command, frozen=True, tag="branches"):
    pass


class AddCommand(_Command, frozen=True, tag="add"):
    """Stage files as they are, deleted ones too."""

    files: Files


class CommitCommand(_Command, frozen=True, tag="commit"):
    """Commit what is staged."""

    message: Message
    author_name: Text | None = None
    author_email: Text | None = None
    allow_empty: bool = False


class CreateBranchCommand(_Command, frozen=True, tag="create_branch"):
    branch: Text
    start: Text = "HEAD"
    switch: bool = False
    """Also check it out."""


class SwitchCommand(_Command, frozen=True, tag="switch"):
    """Check a branch out; one that only the remote has is made."""

    branch: Text


class DeleteBranchCommand(_Command, frozen=True, tag="delete_branch"):
    branch: Text
    force: bool = False
    """Also where it has commits that are in no other."""


class _RemoteCommand(_Command, frozen=True):
    remote: Text = "origin"
    branch: Text | None = None
    """None: the branch that is checked out."""
    credentials: Credentials = Credentials()
    host: Text | None = None
    """The one server that the token is for, as `github.com` or `http://localhost:3000`. A token
    needs it: what the remote's URL is, programs of the sandbox can change."""
    timeout_ms: TimeoutMs | None = None


class PullCommand(_RemoteCommand, frozen=True, tag="pull"):
    """Fetch a branch and merge it. Where that fails, the working tree is as it was."""


class PushCommand(_RemoteCommand, frozen=True, tag="push"):
    force: bool = False
    """Over what the remote has, if that is what was fetched last."""
    set_upstream: bool = False


GitLook = StatusCommand | LogCommand | DiffCommand | BranchesCommand

GitChange = (
    AddCommand
    | CommitCommand
    | CreateBranchCommand
    | SwitchCommand
    | DeleteBranchCommand
    | PullCommand
    | PushCommand
)
"""Those on one repository wait for each other."""

GitCommand = GitLook | GitChange


class _Answer(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class GitHead(_Answer, frozen=True):
    """What is checked out."""

    branch: str | None
    """None: no branch, HEAD is detached."""
    commit: str | None
    """None: the branch has no commit yet."""


class Change(StrEnum):
    UNMODIFIED = "unmodified"
    MODIFIED = "modified"
    TYPE_CHANGED = "type_changed"
    ADDED = "added"
    DELETED = "deleted"
    RENAMED = "renamed"
    COPIED = "copied"
    CONFLICTED = "conflicted"
    UNTRACKED = "untracked"


class FileStatus(_Answer, frozen=True):
    path: str
    index: Change
    """What is staged, against the commit."""
    worktree: Change
    """What is not, against the index."""
    original_path: str | None = None
    """Of a file that was renamed or copied."""


class GitStatus(GitHead, frozen=True):
    files: list[FileStatus]
    upstream: str | None = None
    ahead: int | None = None
    behind: int | None = None
    truncated: bool = False


class Person(_Answer, frozen=True):
    name: str
    email: str
    date: str
    """ISO 8601 with zone, as the commit says; empty where it says nothing that is a time."""


class Commit(_Answer, frozen=True):
    commit: str
    parents: list[str]
    author: Person
    committer: Person
    message: str


class GitLog(_Answer, frozen=True):
    commits: list[Commit]
    truncated: bool = False
    """The messages were too long: there are fewer than asked for, though not the last."""


class GitDiff(_Answer, frozen=True):
    diff: str
    """A patch, as of `git diff`."""
    truncated: bool = False


class Branch(_Answer, frozen=True):
    name: str
    """As `main`, or of a remote as `origin/main`."""
    commit: str
    remote: bool = False
    upstream: str | None = None


class GitBranches(_Answer, frozen=True):
    current: str | None
    """None: no branch, HEAD is detached."""
    branches: list[Branch]
    truncated: bool = False


ANSWERS: dict[type[GitCommand], type[msgspec.Struct]] = {
    StatusCommand: GitStatus,
    LogCommand: GitLog,
    DiffCommand: GitDiff,
    BranchesCommand: GitBranches,
    AddCommand: GitStatus,
    CommitCommand: GitHead,
    CreateBranchCommand: GitHead,
    SwitchCommand: GitHead,
    DeleteBranchCommand: GitHead,
    PullCommand: GitHead,
    PushCommand: GitHead,
}
