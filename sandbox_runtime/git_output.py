"""Reads what git writes for programs."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_runtime.protocol.git import (
    Branch,
    Change,
    Commit,
    FileStatus,
    GitBranches,
    GitStatus,
    Person,
)

LOG_FORMAT = "%H%n%P%n%an%n%ae%n%aI%n%cn%n%ce%n%cI%n%B"
"""No field but the last, the message, can have a line end: none is possible in a commit's head."""

REFS_FORMAT = "%(HEAD) %(objectname) %(upstream:short) %(refname)"
"""No ref's name can have a space or a control character."""

_CHANGES = {
    ".": Change.UNMODIFIED,
    "M": Change.MODIFIED,
    "T": Change.TYPE_CHANGED,
    "A": Change.ADDED,
    "D": Change.DELETED,
    "R": Change.RENAMED,
    "C": Change.COPIED,
    "U": Change.CONFLICTED,
}

_FIELDS = {"1": 8, "2": 9, "u": 10}
"""Before a path, by the record's kind."""


def status_of(output: bytes, *, limit: int, truncated: bool) -> GitStatus:
    """From `git status --porcelain=v2 --branch -z`."""
    heads: dict[str, str] = {}
    files: list[FileStatus] = []
    records = _records(output)
    for record in records:
        kind, _, rest = record.partition(" ")
        if kind == "#":
            name, _, value = rest.partition(" ")
            heads[name] = value
        elif len(files) == limit:
            truncated = True
            break
        else:
            files.append(_file(kind, record, records))
    ahead, behind = _distances(heads.get("branch.ab"))
    return GitStatus(
        branch=_unless(heads.get("branch.head"), "(detached)"),
        commit=_unless(heads.get("branch.oid"), "(initial)"),
        upstream=heads.get("branch.upstream"),
        ahead=ahead,
        behind=behind,
        files=files,
        truncated=truncated,
    )


def commits_of(output: bytes) -> list[Commit]:
    """From `git log -z --format=LOG_FORMAT`."""
    return [_commit(record) for record in _records(output)]


def branches_of(output: bytes, *, limit: int) -> GitBranches:
    """From `git for-each-ref --format=REFS_FORMAT`."""
    current = None
    branches: list[Branch] = []
    lines = output.decode(errors="replace").split("\n")[:-1]
    for line in lines[:limit]:
        mark, commit, upstream, ref = (line[:1], *line[2:].split(" ", 2))
        _, kind, name = ref.split("/", 2)
        remote = kind == "remotes"
        if remote and name.endswith("/HEAD"):
            continue  # It stands for another one.
        if mark == "*":
            current = name
        branches.append(Branch(name=name, commit=commit, remote=remote, upstream=upstream or None))
    return GitBranches(current=current, branches=branches, truncated=len(lines) > limit)


def _records(output: bytes) -> Iterator[str]:
    """Those that are whole: each ends with a NUL."""
    return iter([record.decode(errors="replace") for record in output.split(b"\0")[:-1]])


def _file(kind: str, record: str, records: Iterator[str]) -> FileStatus:
    if kind == "?":
        return FileStatus(path=record[2:], index=Change.UNTRACKED, worktree=Change.UNTRACKED)
    fields = record.split(" ", _FIELDS[kind])
    conflicted = kind == "u"
    return FileStatus(
        path=fields[-1],
        index=Change.CONFLICTED if conflicted else _CHANGES[fields[1][0]],
        worktree=Change.CONFLICTED if conflicted else _CHANGES[fields[1][1]],
        original_path=next(records, None) if kind == "2" else None,
    )


def _distances(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    ahead, behind = text.split(" ")
    return int(ahead), -int(behind)


def _unless(value: str | None, nothing: str) -> str | None:
    return None if value == nothing else value


def _commit(record: str) -> Commit:
    commit, parents, *people, message = record.split("\n", 8)
    return Commit(
        commit=commit,
        parents=parents.split(),
        author=Person(name=people[0], email=people[1], date=people[2]),
        committer=Person(name=people[3], email=people[4], date=people[5]),
        message=message,
    )
