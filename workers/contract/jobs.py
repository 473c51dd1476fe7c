"""What a job is and may become."""

from __future__ import annotations

import base64
import hashlib
import secrets
from enum import StrEnum

import msgspec

from sandbox_runtime.protocol.events import Conclusion
from sandbox_runtime.protocol.requests import Encoding
from workers.contract.networks import NetworkPolicy

DEFAULT_TIMEOUT_MS = 60 * 60 * 1000
MAX_TIMEOUT_MS = 24 * 60 * 60 * 1000
DEFAULT_OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024
MAX_STEPS = 100
MAX_RETRIES = 10


class JobKind(StrEnum):
    """What is run; also the end of the Celery task's name."""

    EXEC = "exec"
    CODE = "code"
    BUILD = "build"


class Status(StrEnum):
    """Where a job is in its life; it only ever moves down this list."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"


class _Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    pass


class ExecSpec(_Value, frozen=True, tag="exec", tag_field="kind"):
    """A command for a session's shell, or (`argv`) a program run without one."""

    command: str | None = None
    argv: list[str] | None = None
    session: str = "default"
    cwd: str | None = None
    env: dict[str, str | None] = {}
    stdin: str | None = None
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES
    encoding: Encoding = Encoding.UTF8


class CodeSpec(_Value, frozen=True, tag="code", tag_field="kind"):
    """A cell for a code context."""

    code: str
    context: str
    language: str
    env: dict[str, str | None] = {}
    allow_input: bool = False
    ansi_traceback: bool = False
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES


class BuildStep(_Value, frozen=True):
    """Commands that run one after another in one shell; the first that fails ends the step."""

    name: str
    commands: list[str]
    env: dict[str, str] = {}


class BuildSandbox(_Value, frozen=True):
    """The sandbox that a build gets for itself; what is None is the node's default."""

    image: str = "default"
    network: NetworkPolicy | None = None
    cpus: float | None = None
    memory_mb: int | None = None
    pids: int | None = None
    disk_mb: int | None = None


class BuildSpec(_Value, frozen=True, tag="build", tag_field="kind"):
    """A repository, or an archive that was uploaded with the request, and steps to run in it."""

    steps: list[BuildStep]
    repo_url: str | None = None
    ref: str | None = None
    depth: int | None = None
    env: dict[str, str] = {}
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES
    retries: int = 0
    """How often it may be run again from its beginning, where its node is lost."""
    sandbox: BuildSandbox = BuildSandbox()


Spec = ExecSpec | CodeSpec | BuildSpec


class StepStatus(StrEnum):
    """As a job's status, with `skipped` for what never started."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    SKIPPED = "skipped"


class StepRecord(_Value, frozen=True):
    """How far one step of a build is. The checkout is a step, named `checkout`."""

    name: str
    status: StepStatus = StepStatus.QUEUED
    conclusion: Conclusion | None = None
    exit_code: int | None = None
    duration_ms: int | None = None
    commit: str | None = None
    """Of the checkout: the commit that is checked out."""


class JobError(_Value, frozen=True):
    """Why a job could not be run, or was cut off."""

    code: str
    message: str
    hint: str = ""


class Job(_Value, frozen=True):
    """One request for work, from queued to completed."""

    id: str
    kind: JobKind
    owner: str
    spec: Spec
    created_at: str
    status: Status = Status.QUEUED
    sandbox_id: str | None = None
    """None for a build that has not started: it gets a sandbox of its own."""
    sandbox: str | None = None
    """The sandbox's name; None for a build."""
    line: str | None = None
    """The jobs of one line run one after another, in the order of submission; None: at once."""
    attempt: int = 1
    fence: int = 0
    """Grows with each claim. Only the writer that holds the newest may add events."""
    node: str | None = None
    conclusion: Conclusion | None = None
    exit_code: int | None = None
    error: JobError | None = None
    steps: list[StepRecord] = []
    cancel: str | None = None
    """Why the job is to end early: the code of the `error` event to come. None: nobody asked."""
    started_at: str | None = None
    completed_at: str | None = None

    @property
    def build_sandbox(self) -> str:
        """The id of the sandbox that a build has for itself, in this attempt: known to all."""
        return self.id if self.attempt == 1 else _id_from(f"{self.id}.{self.attempt}")

    @property
    def session(self) -> str | None:
        return self.spec.session if isinstance(self.spec, ExecSpec) else None


def new_id() -> str:
    """128 random bits in lower-case base32: 26 characters that fit host names, labels, paths."""
    return _text_of(secrets.token_bytes(16))


def _id_from(text: str) -> str:
    """Always the same, and nobody else's."""
    return _text_of(hashlib.sha256(text.encode()).digest()[:16])


def _text_of(bits: bytes) -> str:
    return base64.b32encode(bits).decode().rstrip("=").lower()


def line_of(sandbox_id: str, spec: ExecSpec | CodeSpec) -> str | None:
    """The line that a job waits in. A program run without a shell waits for nobody."""
    if isinstance(spec, CodeSpec):
        return f"{sandbox_id}/context/{spec.context}"
    return f"{sandbox_id}/session/{spec.session}" if spec.argv is None else None
