"""Carries out one command on a repository, in the delegate.

Commands that change a repository wait for each other: they hold a lock on a file in its `.git`
directory, which the kernel lets go of however they end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sandbox_runtime.delegate_messages import Command
from sandbox_runtime.git_clone import head_of, resolved
from sandbox_runtime.git_failures import reason_of
from sandbox_runtime.git_output import (
    LOG_FORMAT,
    REFS_FORMAT,
    branches_of,
    commits_of,
    status_of,
)
from sandbox_runtime.git_python import CommandError, GitRefused, git, words_of
from sandbox_runtime.git_urls import checked_ref, checked_revision, origin_of
from sandbox_runtime.protocol.errors import RuntimeFault
from sandbox_runtime.protocol.git import (
    MAX_DIFF_BYTES,
    MAX_LISTED,
    AddCommand,
    BranchesCommand,
    CommitCommand,
    CreateBranchCommand,
    DeleteBranchCommand,
    DiffCommand,
    GitBranches,
    GitChange,
    GitDiff,
    GitHead,
    GitLog,
    GitLook,
    GitStatus,
    LogCommand,
    PullCommand,
    PushCommand,
    StatusCommand,
    SwitchCommand,
)

MAX_OUTPUT_BYTES = 8 * 1024 * 1024
"""Of git, of which an answer is made; what comes after it is not read."""

LOCK = "coldframe.lock"

AUTHOR = ("Coldframe", "sandbox@coldframe.invalid")
"""Where neither the request nor git's configuration names one."""

_SHOW_PLAINLY = ("--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")


def carry_out(order: Command) -> msgspec.Struct:
    """The answer. Raises `GitRefused`."""
    try:
        repository = _Repository(order.command.path, Path(order.workspace))
        command = order.command
        if isinstance(command, GitLook):
            return _look(repository, command)
        with repository.turn():
            return _change(repository, command)
    except CommandError as error:
        words = words_of(error)
        raise GitRefused(reason_of(words, "git_failed"), words) from error
    except OSError as error:
        words = f"{error.filename}: {error.strerror}"
        raise GitRefused(reason_of(words, "git_failed"), words) from error
    except RuntimeFault as fault:
        raise GitRefused(fault.code, fault.message) from fault


def _look(repository: _Repository, command: GitLook) -> msgspec.Struct:
    match command:
        case StatusCommand():
            return repository.status()
        case LogCommand():
            return repository.log(command)
        case DiffCommand():
            return repository.diff(command)
        case BranchesCommand():
            return repository.branches()


def _change(repository: _Repository, command: GitChange) -> msgspec.Struct:
    match command:
        case AddCommand():
            return repository.add(command)
        case CommitCommand():
            return repository.commit(command)
        case CreateBranchCommand():
            return repository.create_branch(command)
        case SwitchCommand():
            return repository.switch(command)
        case DeleteBranchCommand():
            return repository.delete_branch(command)
        case PullCommand():
            return repository.pull(command)
        case PushCommand():
            return repository.push(command)


class _Repository:
    """The one that a directory lies in."""

    def __init__(self, path: str, workspace: Path) -> None:
        """Raises `GitRefused`, `CommandError`."""
        directory = Path(os.path.realpath(path))
        if not directory.is_dir():
            raise GitRefused("not_a_repository", f"{path} is no directory")
        self._workspace = workspace.resolve()
        self._git = git.Git(directory)
        self._directory = self._git_directory("--absolute-git-dir", directory)
        self._git_directory("--git-common-dir", directory)

    def status(self) -> GitStatus:
        output, truncated = self._read(
            *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all"),
            *("--ahead-behind", "--ignore-submodules=dirty"),
        )
        return status_of(output, limit=MAX_LISTED, truncated=truncated)

    def log(self, command: LogCommand) -> GitLog:
        if command.revision == "HEAD" and resolved(self._git, "HEAD") is None:
            return GitLog(commits=[])
        output, truncated = self._read(
            *("log", "-z", f"--format={LOG_FORMAT}", "--no-show-signature", "--no-patch"),
            *(f"--max-count={command.limit}", f"--skip={command.skip}", *_SHOW_PLAINLY),
            *("--end-of-options", checked_revision(command.revision), "--", *command.files),
        )
        return GitLog(commits=commits_of(output), truncated=truncated)

    def diff(self, command: DiffCommand) -> GitDiff:
        revision = [] if command.revision is None else [checked_revision(command.revision)]
        output, truncated = self._read(
            *("diff", *_SHOW_PLAINLY, *(["--cached"] if command.staged else [])),
            *("--end-of-options", *revision, "--", *command.files),
            limit_bytes=MAX_DIFF_BYTES,
        )
        return GitDiff(diff=output.decode(errors="replace"), truncated=truncated)

    def branches(self) -> GitBranches:
        output, _ = self._read(
            *("for-each-ref", f"--format={REFS_FORMAT}", f"--count={MAX_LISTED + 1}"),
            *("refs/heads", "refs/remotes"),
        )
        return branches_of(output, limit=MAX_LISTED)

    def add(self, command: AddCommand) -> GitStatus:
        self._git.add("--all", "--", *command.files)
        return self.status()

    def commit(self, command: CommitCommand) -> GitHead:
        empty = ["--allow-empty"] if command.allow_empty else []
        with self._identity(command.author_name, command.author_email):
            self._git.commit(
                *("--quiet", "--no-verify", "--cleanup=whitespace", *empty),
                f"--message={command.message}",
            )
        return head_of(self._git)

    def create_branch(self, command: CreateBranchCommand) -> GitHead:
        branch, start = checked_ref(command.branch), checked_revision(command.start)
        if command.switch:
            self._git.switch("--quiet", "--no-track", "--create", branch, start)
        else:
            self._git.branch("--no-track", "--end-of-options", branch, start)
        return head_of(self._git)

    def switch(self, command: SwitchCommand) -> GitHead:
        self._git.switch("--quiet", checked_ref(command.branch))
        return head_of(self._git)

    def delete_branch(self, command: DeleteBranchCommand) -> GitHead:
        force = ["--force"] if command.force else []
        self._git.branch("--delete", *force, "--end-of-options", checked_ref(command.branch))
        return head_of(self._git)

    def pull(self, command: PullCommand) -> GitHead:
        protocols, branch = self._protocols(command.remote), self._branch(command)
        if resolved(self._git, "MERGE_HEAD") is not None:
            raise GitRefused("uncommitted_changes", "a merge is going on")
        with self._identity(), self._git.custom_environment(GIT_ALLOW_PROTOCOL=protocols):
            self._git.fetch(
                *("--quiet", "--no-recurse-submodules", "--upload-pack=git-upload-pack"),
                *("--", command.remote, f"refs/heads/{branch}"),
            )
            try:
                self._git.merge("--quiet", "--no-edit", "--no-verify", "FETCH_HEAD")
            except CommandError:
                if resolved(self._git, "MERGE_HEAD") is not None:
                    self._git.merge("--abort")
                raise
        return head_of(self._git)

    def push(self, command: PushCommand) -> GitHead:
        protocols, branch = self._protocols(command.remote, "--push"), self._branch(command)
        options = ["--receive-pack=git-receive-pack"]
        if command.force:
            options.append("--force-with-lease")
        if command.set_upstream:
            options.append("--set-upstream")
        with self._git.custom_environment(GIT_ALLOW_PROTOCOL=protocols):
            self._git.push(
                *("--porcelain", "--no-verify", "--recurse-submodules=no", *options),
                *("--", command.remote, f"refs/heads/{branch}:refs/heads/{branch}"),
            )
        return head_of(self._git)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other command of ours changes the repository, and holds it in the block.

        The lock's file says whether its last holder was killed. Then git may have been, too, and
        have left its own lock on the index behind, which nobody else would ever remove.
        """
        descriptor = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size:
                self._remove_stale_lock(os.fstat(descriptor).st_mtime_ns)
            os.pwrite(descriptor, b"held\n", 0)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _remove_stale_lock(self, since_ns: int) -> None:
        index_lock = self._directory / "index.lock"
        if index_lock.exists() and index_lock.lstat().st_mtime_ns >= since_ns:
            index_lock.unlink()

    def _git_directory(self, option: str, directory: Path) -> Path:
        """It is in the workspace, or where one is without any link. Raises `GitRefused`."""
        said = self._git.rev_parse(option, stdout_as_string=False)
        found = Path(os.path.realpath(directory / os.fsdecode(said)))
        if found.is_relative_to(self._workspace) or found.parent in (directory, *directory.parents):
            return found
        raise GitRefused("not_a_repository", f"its repository is {found}, outside the workspace")

    def _protocols(self, remote: str, *options: str) -> str:
        """Those that git may use for a remote, whose URLs programs of the sandbox can have set."""
        if remote not in self._git.remote().splitlines():
            raise GitRefused("remote_not_found")
        urls = self._git.remote("get-url", "--all", *options, "--", remote).splitlines()
        found = {origin_of(url, self._workspace).protocols for url in urls}
        return ":".join(found)

    def _branch(self, command: PullCommand | PushCommand) -> str:
        if command.branch is not None:
            return checked_ref(command.branch)
        branch = head_of(self._git).branch
        if branch is None:
            raise GitRefused("ref_not_found", "no branch is checked out: name one")
        return branch

    @contextmanager
    def _identity(self, name: str | None = None, email: str | None = None) -> Iterator[None]:
        """Who commits in the block: as said, else as configured, else ours."""
        variables = {}
        for part, given, ours in (("NAME", name, AUTHOR[0]), ("EMAIL", email, AUTHOR[1])):
            if given is None and self._is_configured(f"user.{part.lower()}"):
                continue
            for who in ("AUTHOR", "COMMITTER"):
                variable = f"GIT_{who}_{part}"
                variables[variable] = given or os.environ.get(variable, ours)
        with self._git.custom_environment(**variables):
            yield

    def _is_configured(self, option: str) -> bool:
        try:
            return bool(self._git.config("--get", option))
        except CommandError:
            return False

    def _read(self, *arguments: str, limit_bytes: int = MAX_OUTPUT_BYTES) -> tuple[bytes, bool]:
        """What a git command writes, to a bound, and whether there is more."""
        process = self._git.execute(["git", *arguments], as_process=True)
        output = process.stdout.read(limit_bytes + 1)
        if len(output) > limit_bytes:
            del process  # Which ends it.
            return output[:limit_bytes], True
        process.wait()
        return output, False
