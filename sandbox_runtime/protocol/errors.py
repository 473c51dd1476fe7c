"""The runtime's errors: one tree, each class one sentence and a stable code.

RuntimeFault
├── InvalidRequest        the request cannot be read, or a field is wrong
├── NotAuthorized         the token is missing or wrong
├── SandboxRestarted      another boot of the runtime than the one that the caller means
├── ExecutionNotFound     no execution has this id
├── ExecutionConflict     an execution of this id runs something else
├── ExecutionForgotten    the execution ended and its journal was acknowledged
├── TooManyExecutions     the runtime already holds as many executions as it may
├── ContextUnavailable    the interpreter of a code context cannot be started
├── ArchiveRefused        an uploaded archive cannot be unpacked
├── PortNotListening      nothing in the sandbox listens on this port
├── DiskFull              what was to be written has no room on the sandbox's volume
└── RuntimeUnreachable    nobody answers on the sandbox's socket, or what answers is not our runtime
"""

from __future__ import annotations

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


class ContextUnavailable(RuntimeFault):
    """The interpreter of a code context cannot be started."""

    code = "context_unavailable"
    http_status = 501


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


class PortNotListening(RuntimeFault):
    """Nothing in the sandbox listens on this port."""

    code = "port_not_listening"
    http_status = 502
    hint = "Start the server, and wait for its port: POST …/processes/{id}/wait."


class RuntimeUnreachable(RuntimeFault):
    """Nobody answers on the sandbox's socket, or what answers is not our runtime."""

    code = "runtime_unreachable"
    http_status = 502


FAULTS: dict[str, type[RuntimeFault]] = {
    fault.code: fault
    for fault in (
        InvalidRequest,
        NotAuthorized,
        SandboxRestarted,
        ExecutionNotFound,
        ExecutionConflict,
        ExecutionForgotten,
        TooManyExecutions,
        ContextUnavailable,
        ArchiveRefused,
        DiskFull,
        PortNotListening,
        RuntimeUnreachable,
    )
}


def fault_from(body: ErrorBody) -> RuntimeFault:
    """The exception that an error body stands for; an unknown code becomes the base class."""
    return FAULTS.get(body.code, RuntimeFault)(body.message)
