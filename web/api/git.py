"""The routes of git, in the repositories of a sandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Protocol, TypeVar

import msgspec
from flask import Response, request

from sandbox_runtime.protocol import codec, git
from sandbox_runtime.protocol.calls import CALL_TIMEOUT_S, Answer, RuntimeCalls
from sandbox_runtime.protocol.errors import FAULTS, RuntimeUnreachable
from sandbox_runtime.protocol.events import TERMINAL, Complete, Error, RuntimeEvent, Stderr
from sandbox_runtime.protocol.requests import SILENCE_LIMIT_S
from web import sse
from web.door import Door
from web.errors import RuntimeRefused, SandboxUnreachable
from web.operations import Operation, json_answer, no_content, reaching_in
from web.readers import CLIENT_GONE, client_left
from web.requests import wants_events
from web.schemas_git import (
    CheckedOut,
    GitAddRequest,
    GitBranchQuery,
    GitBranchRequest,
    GitCheckoutRequest,
    GitCommitRequest,
    GitDiffQuery,
    GitLogQuery,
    GitPullRequest,
    GitPushRequest,
    GitQuery,
    GitSwitchRequest,
)
from web.shells import shell_of
from workers.contract.clock import timestamp
from workers.contract.sandboxes import Sandbox
from workers.contract.store import SandboxStore

MARGIN_S = 30.0
"""What the runtime may take over its own deadline, to end what it began."""

MAX_WORDS_CHARS = 1000
"""Of git's own words in the message of an error."""


class Pieces(Protocol):
    """An answer's body, as it comes."""

    def pieces(self) -> Iterator[bytes]: ...


A = TypeVar("A", bound=msgspec.Struct)


class GitRoutes:
    """Calls, not jobs: git is ended when its caller leaves."""

    def __init__(self, *, door: Door, sandboxes: SandboxStore) -> None:
        self._door = door
        self._sandboxes = sandboxes

    def operations(self) -> list[Operation]:
        top = "/v1/sandboxes/{name}/git"
        branches = f"{top}/branches"
        return reaching_in(
            [
                Operation(
                    "POST", f"{top}/checkout", self.checkout, {200: CheckedOut}, streams=True
                ),
                Operation("GET", f"{top}/status", self.status, {200: git.GitStatus}),
                Operation("GET", f"{top}/log", self.log, {200: git.GitLog}),
                Operation("GET", f"{top}/diff", self.diff, {200: git.GitDiff}),
                Operation("GET", branches, self.branches, {200: git.GitBranches}),
                Operation("POST", branches, self.create_branch, {201: git.GitHead}),
                Operation("DELETE", branches, self.delete_branch, {204: None}),
                Operation("POST", f"{top}/switch", self.switch, {200: git.GitHead}),
                Operation("POST", f"{top}/add", self.add, {200: git.GitStatus}),
                Operation("POST", f"{top}/commit", self.commit, {200: git.GitHead}),
                Operation("POST", f"{top}/pull", self.pull, {200: git.GitHead}),
                Operation("POST", f"{top}/push", self.push, {200: git.GitHead}),
            ]
        )

    def checkout(self, owner: str, name: str, body: GitCheckoutRequest) -> Response:
        """Clone a repository, and tell what is checked out, or how it goes as a stream."""

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> Answer:
            wanted = body.to_runtime(shell_of(self._sandboxes, sandbox, body.session))
            return calls.open(
                "POST", "/git/checkout", body=codec.encode(wanted), timeout_s=SILENCE_LIMIT_S
            )

        answer = self._door.use(owner, name, act)
        events = checkout_events(answer, time.monotonic() + body.timeout_ms / 1000 + MARGIN_S)
        if wants_events(request):
            response = Response(_frames(events), headers=sse.HEADERS)
            response.call_on_close(answer.close)
            return response
        with closing(answer):
            return _checked_out(events)

    def status(self, owner: str, name: str, query: GitQuery) -> Response:
        """What was changed since the last commit."""
        return json_answer(self._ask(owner, name, query, git.StatusCommand, git.GitStatus))

    def log(self, owner: str, name: str, query: GitLogQuery) -> Response:
        """Commits, newest first."""
        return json_answer(self._ask(owner, name, query, git.LogCommand, git.GitLog))

    def diff(self, owner: str, name: str, query: GitDiffQuery) -> Response:
        """Changes as a patch."""
        return json_answer(self._ask(owner, name, query, git.DiffCommand, git.GitDiff))

    def branches(self, owner: str, name: str, query: GitQuery) -> Response:
        """The branches, those of remotes too."""
        return json_answer(self._ask(owner, name, query, git.BranchesCommand, git.GitBranches))

    def create_branch(self, owner: str, name: str, body: GitBranchRequest) -> Response:
        """Make a branch."""
        head = self._ask(owner, name, body, git.CreateBranchCommand, git.GitHead)
        return json_answer(head, 201)

    def delete_branch(self, owner: str, name: str, query: GitBranchQuery) -> Response:
        """Delete a branch."""
        self._ask(owner, name, query, git.DeleteBranchCommand, git.GitHead)
        return no_content()

    def switch(self, owner: str, name: str, body: GitSwitchRequest) -> Response:
        """Check a branch out."""
        return json_answer(self._ask(owner, name, body, git.SwitchCommand, git.GitHead))

    def add(self, owner: str, name: str, body: GitAddRequest) -> Response:
        """Stage files; the status then."""
        return json_answer(self._ask(owner, name, body, git.AddCommand, git.GitStatus))

    def commit(self, owner: str, name: str, body: GitCommitRequest) -> Response:
        """Commit what is staged."""
        return json_answer(self._ask(owner, name, body, git.CommitCommand, git.GitHead))

    def pull(self, owner: str, name: str, body: GitPullRequest) -> Response:
        """Fetch a branch and merge it; where they do not go together, nothing is changed."""
        return json_answer(self._ask(owner, name, body, git.PullCommand, git.GitHead))

    def push(self, owner: str, name: str, body: GitPushRequest) -> Response:
        """Send a branch to a remote."""
        return json_answer(self._ask(owner, name, body, git.PushCommand, git.GitHead))

    def _ask(
        self,
        owner: str,
        name: str,
        asked: GitQuery,
        command: type[git.GitCommand],
        answer: type[A],
    ) -> A:
        timeout_s = CALL_TIMEOUT_S
        if isinstance(asked, GitPullRequest):
            timeout_s = asked.timeout_ms / 1000 + MARGIN_S
        environ = request.environ

        def act(sandbox: Sandbox, calls: RuntimeCalls) -> A:
            shell = shell_of(self._sandboxes, sandbox, asked.session)
            body = codec.encode(asked.to_command(command, shell))
            return calls.call(
                "POST",
                "/git",
                kind=answer,
                body=body,
                timeout_s=timeout_s,
                is_wanted=lambda: not client_left(environ),
            )

        return self._door.use(owner, name, act)


def checkout_events(answer: Pieces, deadline: float) -> Iterator[RuntimeEvent | None]:
    """To exactly one terminal event, whatever the runtime does; None where nothing happened."""
    decoder = codec.LineDecoder()
    try:
        for piece in answer.pieces():
            batch = decoder.feed(piece)
            for numbered in batch:
                yield numbered.event
                if isinstance(numbered.event, TERMINAL):
                    return
            if not batch:
                yield None
            if time.monotonic() > deadline:
                raise RuntimeUnreachable("it goes on long after its deadline")
        raise RuntimeUnreachable("its answer has no end")
    except RuntimeUnreachable as fault:
        yield Error(timestamp=timestamp(), code=fault.code, error=fault.message, hint=fault.hint)


def _frames(events: Iterator[RuntimeEvent | None]) -> Iterator[bytes]:
    yield sse.OPENING
    for event in events:
        yield sse.HEARTBEAT if event is None else sse.frame_without_id(codec.encode(event))


def _checked_out(events: Iterator[RuntimeEvent | None]) -> Response:
    words = ""
    for event in events:
        match event:
            case None if client_left(request.environ):
                return Response(status=CLIENT_GONE)
            case Stderr(data=data):
                words = (words + data)[-MAX_WORDS_CHARS:]
            case Complete(target_dir=str(target), branch=branch, commit=commit):
                return json_answer(CheckedOut(target_dir=target, branch=branch, commit=commit))
            case Error(code=code, error=sentence):
                message = f"{sentence} {words}".strip()
                if code not in FAULTS or code == RuntimeUnreachable.code:
                    raise SandboxUnreachable(message)
                raise RuntimeRefused(FAULTS[code](message))
    raise SandboxUnreachable("The sandbox's runtime does not say what was checked out.")
