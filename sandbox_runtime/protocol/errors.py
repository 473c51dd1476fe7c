"""The runtime's errors: one tree, each class one sentence and a stable code.

RuntimeFault
├── InvalidRequest        the request cannot be read, or a field is wrong
├── NotAuthorized         the token is missing or wrong
├── SandboxRestarted      another boot of the runtime than the one that the caller means
├── ExecutionNotFound     no execution has this id
├── ExecutionConflict     an execution of this id runs something else
├── ExecutionForgotten    the execution ended and its journal was acknowledged
├── TooManyExecutions     the runtime already holds as many executions as it may
├── InputNotWanted        the execution waits for no input, or for another one
├── LanguageUnsupported   the sandbox has no interpreter for a language of this name
├── InterpreterMissing    the sandbox lacks the interpreter of a language, or a part of it
├── ContextUnavailable    the interpreter of a code context cannot be started
├── TooManyContexts       the sandbox holds as many code contexts as it may
├── ArchiveRefused        an uploaded archive cannot be unpacked
├── PortNotListening      nothing in the sandbox listens on this port
├── DiskFull              what was to be written has no room on the sandbox's volume
├── FileFault             a file cannot be read or changed; below it, one class for each reason
├── TooManyWatches        as much is watched as may be
├── ProcessNotFound       no process has this id
├── ProcessExists         a process of this id is there
├── ProcessNotRunning     the process has ended
├── ProcessEnded          the process ended before it did what was waited for
├── ProcessWaitTimedOut   the process did not do in time what was waited for
├── TooManyProcesses      the sandbox runs as many processes as it may
├── TerminalNotFound      no terminal has this id
├── TerminalNotStarted    the program of a terminal cannot be started
├── TerminalInputRefused  the program on a terminal does not read what is typed
├── TooManyTerminals      as many terminals, or viewers of one, are there as may be
├── IdempotencyConflict   the key was used before, for another request
├── GitFault              git cannot do what it was asked; below it, one class for each reason
└── RuntimeUnreachable    nobody answers on the sandbox's socket, or what answers is not our runtime
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec


class ErrorBody(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The JSON of an error on the runtime's socket."""

    code: str
    message: str
    hint: str = ""


class RuntimeFault(Exception):
    """Base of all that can go wrong between a program of ours and the runtime."""

    code: ClassVar[str] = "runtime_fault"
    http_status: ClassVar[int] = 500
    hint: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def body(self) -> ErrorBody:
        return ErrorBody(code=self.code, message=self.message, hint=self.hint)


class InvalidRequest(RuntimeFault):
    """The request cannot be read, or one of its fields is wrong."""

    code = "invalid_request"
    http_status = 422


class NotAuthorized(RuntimeFault):
    """The token is missing or wrong."""

    code = "not_authorized"
    http_status = 401


class SandboxRestarted(RuntimeFault):
    """The runtime was started anew: what the caller means is gone."""

    code = "sandbox_restarted"
    http_status = 409
    hint = "The sandbox was restarted; its sessions and variables are gone. Send the job again."


class ExecutionNotFound(RuntimeFault):
    """No execution has this id."""

    code = "execution_not_found"
    http_status = 404


class ExecutionConflict(RuntimeFault):
    """An execution of this id exists and was asked to do something else."""

    code = "execution_conflict"
    http_status = 409


class ExecutionForgotten(RuntimeFault):
    """The execution ended, its end was acknowledged, its journal is gone."""

    code = "execution_forgotten"
    http_status = 410


class TooManyExecutions(RuntimeFault):
    """The runtime holds as many executions as it may."""

    code = "too_many_executions"
    http_status = 429
    hint = "Wait for running jobs of this sandbox to end, or use another sandbox."


class InputNotWanted(RuntimeFault):
    """The execution does not wait for input, or waits for another one than is answered."""

    code = "input_not_wanted"
    http_status = 409
    hint = "Answer each input_request once, while its job runs; the job's events tell the next one."


class LanguageUnsupported(RuntimeFault):
    """The sandbox has no interpreter for a language of this name."""

    code = "language_unsupported"
    http_status = 422
    hint = "An image can have more languages: Jupyter kernels in /usr/local/share/jupyter/kernels."


class InterpreterMissing(RuntimeFault):
    """The sandbox lacks the interpreter of a language that we know, or a part of it."""

    code = "interpreter_missing"
    http_status = 501
    hint = "Use an image that has it: python3 with the package ipykernel, or Node.js."


class ContextUnavailable(RuntimeFault):
    """The interpreter of a code context is there, and cannot be started."""

    code = "context_unavailable"
    http_status = 409
    hint = "Check the context's directory and environment, and the memory of the sandbox."


class TooManyContexts(RuntimeFault):
    """The sandbox holds as many code contexts as it may."""

    code = "too_many_contexts"
    http_status = 429
    hint = "Delete a code context that is no longer used."


class ArchiveRefused(RuntimeFault):
    """An uploaded archive cannot be unpacked."""

    code = "archive_refused"
    http_status = 422
    hint = "Send a tar archive: plain, or compressed with gzip, bzip2 or xz."


class DiskFull(RuntimeFault):
    """What was to be written has no room on the sandbox's volume."""

    code = "disk_full"
    http_status = 507
    hint = "Delete files that are no longer needed, or use a sandbox with a larger diskMb."


class FileFault(RuntimeFault):
    """A file cannot be read or changed, for a reason that has no code of its own."""

    code = "file_failed"
    http_status = 409


class NameInvalid(FileFault):
    """The path is empty, too long, or has a character that no name has."""

    code = "name_invalid"
    http_status = 400
    hint = "A path has 1 to 4095 bytes, each name in it at most 255, and no NUL."


class FileMissing(FileFault):
    """There is nothing under this path."""

    code = "file_not_found"
    http_status = 404
    hint = "Check path; a relative one is looked for in the session's directory."


class FileExists(FileFault):
    """There is something under this path already."""

    code = "file_exists"


class IsDirectory(FileFault):
    """The path leads to a directory, where a file is needed."""

    code = "is_directory"
    hint = "To list one: GET …/files/list; to delete one: recursive=true."


class NotADirectory(FileFault):
    """The path, or a part of it, leads to what is no directory."""

    code = "not_a_directory"
    http_status = 400


class DirectoryNotEmpty(FileFault):
    """A directory that has entries is in the way."""

    code = "directory_not_empty"


class NotAFile(FileFault):
    """A FIFO, a socket or a device, which has no content to be read or replaced."""

    code = "not_a_file"
    http_status = 422


class PermissionDenied(FileFault):
    """The sandbox's user may not do this."""

    code = "permission_denied"
    http_status = 403
    hint = "The file API may do what a command of the same session may."


class FileTooLong(FileFault):
    """Text is replaced in memory; this file is more than is taken into it, or would become so."""

    code = "file_too_large"
    http_status = 413
    hint = "Use a program in the sandbox, as sed, which works in place."


class RangeNotSatisfiable(FileFault):
    """The range begins behind the file's end."""

    code = "range_not_satisfiable"
    http_status = 416


class PortNotListening(RuntimeFault):
    """Nothing in the sandbox listens on this port."""

    code = "port_not_listening"
    http_status = 502
    hint = "Start the server, and wait for its port: POST …/processes/{id}/wait."


class TooManyWatches(RuntimeFault):
    """As much is watched as may be."""

    code = "too_many_watches"
    http_status = 429
    hint = "End other watches, or leave out directories by `exclude`."


class ProcessNotFound(RuntimeFault):
    """No process has this id."""

    code = "process_not_found"
    http_status = 404
    hint = "It may have ended long ago, or with its session or sandbox."


class ProcessExists(RuntimeFault):
    """A process of this id is there; it may have ended."""

    code = "process_exists"
    http_status = 409
    hint = "Choose another id, or none; or delete that process: of one that has ended, the record."


class ProcessNotRunning(RuntimeFault):
    """The process has ended: no signal reaches it."""

    code = "process_not_running"
    http_status = 409


class ProcessEnded(RuntimeFault):
    """The process ended before it did what was waited for."""

    code = "process_ended"
    http_status = 409
    hint = "Its logs say why."


class ProcessWaitTimedOut(RuntimeFault):
    """The process did not do in time what was waited for; it goes on."""

    code = "process_wait_timed_out"
    http_status = 408
    hint = "Wait longer, or look at its logs."


class TooManyProcesses(RuntimeFault):
    """The sandbox runs as many processes as it may."""

    code = "too_many_processes"
    http_status = 429
    hint = "End processes that are no longer needed, or use another sandbox."


class TerminalNotFound(RuntimeFault):
    """No terminal has this id."""

    code = "terminal_not_found"
    http_status = 404
    hint = "Terminals end with their session and their sandbox; start another."


class TerminalNotStarted(RuntimeFault):
    """The program of a terminal cannot be started."""

    code = "terminal_not_started"
    http_status = 422
    hint = "Look at the program's name and the directory."


class TerminalInputRefused(RuntimeFault):
    """The program on a terminal does not read what is typed."""

    code = "terminal_input_refused"
    http_status = 409


class TooManyTerminals(RuntimeFault):
    """As many terminals, or viewers of one, are there as may be."""

    code = "too_many_terminals"
    http_status = 429
    hint = "End terminals that are not needed any more."


class IdempotencyConflict(RuntimeFault):
    """The idempotency key was used before, for another request."""

    code = "idempotency_conflict"
    http_status = 409
    hint = "Use a new key for a new request."


class GitFault(RuntimeFault):
    """Git cannot do what it was asked, for a reason that has no code of its own."""

    code = "git_failed"
    http_status = 409


class CheckoutFailed(GitFault):
    """Git cannot check a repository out, for a reason that has no code of its own."""

    code = "checkout_failed"
    hint = "Git's own words are in the output."


class InvalidRepositoryUrl(GitFault):
    """The URL is none that may be cloned, or fetched from."""

    code = "invalid_repository_url"
    http_status = 422
    hint = "Use https://, http://, git://, ssh:// or git@host:path."


class RepositoryNotFound(GitFault):
    """The remote has no such repository."""

    code = "repository_not_found"
    http_status = 404
    hint = "Check the URL."


class RefNotFound(GitFault):
    """The repository has no such branch, tag or commit."""

    code = "ref_not_found"
    http_status = 404
    hint = "Check the name; a commit is given in full, with 40 digits."


class RemoteNotFound(GitFault):
    """The repository has no remote of this name."""

    code = "remote_not_found"
    http_status = 404


class PathNotFound(GitFault):
    """The repository has no such file."""

    code = "path_not_found"
    http_status = 404


class NotARepository(GitFault):
    """The directory is in no repository, or its repository lies where it may not."""

    code = "not_a_repository"
    http_status = 404
    hint = "Check path; a relative one is looked for in the session's directory."


class AuthenticationFailed(GitFault):
    """The remote refuses access. Not 401, which is about the API's own key."""

    code = "authentication_failed"
    http_status = 403
    hint = (
        "Check the credentials. Where there are none, the repository may also not exist: "
        "servers do not tell."
    )


class NetworkError(GitFault):
    """The remote cannot be reached, or broke the connection."""

    code = "network_error"
    http_status = 502
    hint = "Check the URL, and that the sandbox has network access."


class GitTimedOut(GitFault):
    """Git took longer than it may."""

    code = "timed_out"
    http_status = 408
    hint = "Allow it more time, or do less at once."


class TargetNotEmpty(GitFault):
    """There are files where a repository was to be checked out."""

    code = "target_not_empty"
    hint = "Choose another target directory, or remove this one first."


class NothingToCommit(GitFault):
    """No change is staged."""

    code = "nothing_to_commit"
    hint = "Add the files first."


class PushRejected(GitFault):
    """The remote does not take what was pushed."""

    code = "push_rejected"
    hint = "Pull first, where the remote has commits that are not here."


class MergeConflict(GitFault):
    """What was pulled does not go together with what is here; nothing was changed."""

    code = "merge_conflict"
    hint = "Merge in a session of the sandbox."


class UncommittedChanges(GitFault):
    """Changes that are not committed would be lost."""

    code = "uncommitted_changes"
    hint = "Commit them first, or undo them."


class BranchExists(GitFault):
    """A branch of this name is there."""

    code = "branch_exists"


class BranchNotMerged(GitFault):
    """The branch has commits that are in no other."""

    code = "branch_not_merged"
    hint = "With force it is deleted nevertheless."


class RepositoryLocked(GitFault):
    """Another program's git holds the repository's lock."""

    code = "repository_locked"
    hint = "Wait for it; where none runs any more, delete index.lock in its .git directory."


class GitMissing(GitFault):
    """The sandbox has no git."""

    code = "git_missing"
    http_status = 501
    hint = "Use an image with git, or send an archive."


class RuntimeUnreachable(RuntimeFault):
    """Nobody answers on the sandbox's socket, or what answers is not our runtime."""

    code = "runtime_unreachable"
    http_status = 502


def _below(kind: type[RuntimeFault]) -> Iterator[type[RuntimeFault]]:
    for fault in kind.__subclasses__():
        yield fault
        yield from _below(fault)


FAULTS: dict[str, type[RuntimeFault]] = {fault.code: fault for fault in _below(RuntimeFault)}


def fault_from(body: ErrorBody) -> RuntimeFault:
    """The exception that an error body stands for; an unknown code becomes the base class."""
    return FAULTS.get(body.code, RuntimeFault)(body.message)
