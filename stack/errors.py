"""The errors of running the platform on one machine, each with what to do about it.

StackError
├── EnvironmentFailed     a Python environment could not be made
├── StateBusy             another command is at work on the same state directory
├── StateDirUnusable      the state directory cannot be what it has to be
├── PortTaken             the API's port belongs to somebody else
├── RedisFailed           the Redis that was named does not answer, or ours did not start
├── CertificatesFailed    certificates for the web or a node could not be made
├── DriverUnavailable     this machine can make no sandboxes in the way that was asked for
├── ProgramFailed         a program ended, or did not become ready in time
├── SandboxesLeft         sandboxes could not be removed
└── TourFailed            a tour's job did not end as it should
"""

from __future__ import annotations

from typing import ClassVar


class StackError(Exception):
    """Something the operator can mend: `str()` says what is wrong, `hint` what to do."""

    code: ClassVar[str] = "stack_error"

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class EnvironmentFailed(StackError):
    """A Python environment could not be made."""

    code = "environment_failed"


class StateBusy(StackError):
    """Another command is at work on the same state directory."""

    code = "state_busy"


class StateDirUnusable(StackError):
    """The state directory cannot be what it has to be."""

    code = "state_dir_unusable"


class PortTaken(StackError):
    """The API's port belongs to somebody else."""

    code = "port_taken"


class RedisFailed(StackError):
    """The Redis that was named does not answer, or ours did not start."""

    code = "redis_failed"


class CertificatesFailed(StackError):
    """Certificates for the web or a node could not be made."""

    code = "certificates_failed"


class DriverUnavailable(StackError):
    """This machine can make no sandboxes in the way that was asked for."""

    code = "driver_unavailable"


class ProgramFailed(StackError):
    """A program ended, or did not become ready in time."""

    code = "program_failed"


class SandboxesLeft(StackError):
    """Sandboxes could not be removed."""

    code = "sandboxes_left"


class TourFailed(StackError):
    """A tour's job did not end as it should."""

    code = "tour_failed"
