"""What requests may say and what answers look like, as types.

Fields that a request leaves out are `UNSET`, or have the default that the type shows; fields that
it has too many are refused. What one field alone can be wrong about is said by the types; what
several have to do with each other is checked where a request becomes a spec.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sandbox_runtime.protocol.events import CellException, Conclusion, Display, Result
from sandbox_runtime.protocol.requests import (
    MAX_COMMAND_BYTES,
    MAX_INPUT_CHARS,
    MAX_OUTPUT_LIMIT_BYTES,
    MAX_STDIN_BYTES,
    Encoding,
)
from web.errors import InvalidField, LanguageUnsupported
from workers.contract.jobs import (
    DEFAULT_OUTPUT_LIMIT_BYTES,
    DEFAULT_TIMEOUT_MS,
    MAX_RETRIES,
    MAX_STEPS,
    MAX_TIMEOUT_MS,
    BuildSandbox,
    BuildSpec,
    BuildStep,
    CodeSpec,
    ExecSpec,
    Job,
    JobError,
    JobKind,
    Spec,
    Status,
    StepRecord,
    StepStatus,
)
from workers.contract.networks import (
    MAX_ALLOWED,
    AllowedNetwork,
    Network,
    NetworkPolicy,
    canonical,
    parse_cidr,
)
from workers.contract.sandboxes import (
    DEFAULT_SESSION,
    LANGUAGES,
    WORKSPACE,
    ContextRecord,
    NodeRecord,
    Sandbox,
    SandboxSpec,
    SandboxState,
    SessionRecord,
)

_CREDENTIALS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/]*@")

CHECKOUT = "checkout"
"""The step that every build begins with."""

MAX_ENV_VALUE = 120_000
"""Characters; Linux itself takes 128 KiB for one variable with its name."""

MAX_PAGE = 100

T = TypeVar("T")

# `$` alone would let a newline pass at the end; the rest is the same in Python and ECMAScript.
_END = r"$(?!\n)"
_NO_NUL = r"^[^\x00]*$"

SandboxName: TypeAlias = Annotated[
    str, Meta(pattern=rf"^[a-z0-9]([a-z0-9-]{{0,61}}[a-z0-9])?{_END}")
]
SessionName: TypeAlias = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}{_END}")]
StepName: TypeAlias = Annotated[str, Meta(pattern=rf"^[^\x00-\x1f\x7f]{{1,100}}{_END}")]
ContextId: TypeAlias = SessionName
EnvName: TypeAlias = Annotated[str, Meta(pattern=rf"^[A-Za-z_][A-Za-z0-9_]{{0,255}}{_END}")]
Text: TypeAlias = Annotated[str, Meta(pattern=_NO_NUL)]
EnvValue: TypeAlias = Annotated[str, Meta(pattern=_NO_NUL, max_length=MAX_ENV_VALUE)]
Env: TypeAlias = Annotated[dict[EnvName, EnvValue], Meta(max_length=1000)]
ExecEnv: TypeAlias = Annotated[dict[EnvName, EnvValue | None], Meta(max_length=1000)]
Path: TypeAlias = Annotated[str, Meta(pattern=_NO_NUL, min_length=1, max_length=4096)]
ImageName: TypeAlias = Annotated[str, Meta(pattern=rf"^[a-z0-9][a-z0-9._-]{{0,99}}{_END}")]
Labels: TypeAlias = Annotated[
    dict[
        Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._/-]{{0,62}}{_END}")],
        Annotated[str, Meta(pattern=_NO_NUL, max_length=255)],
    ],
    Meta(max_length=64),
]
Cidr: TypeAlias = Annotated[str, Meta(pattern=rf"^[0-9./]{{7,31}}{_END}")]
Cpus: TypeAlias = Annotated[float, Meta(ge=0.01, le=256)]
MemoryMb: TypeAlias = Annotated[int, Meta(ge=64, le=1_048_576)]
Pids: TypeAlias = Annotated[int, Meta(ge=32, le=65_536)]
DiskMb: TypeAlias = Annotated[int, Meta(ge=64, le=1_048_576)]
IdleTimeoutMs: TypeAlias = Annotated[int, Meta(ge=1000, le=30 * 24 * 3600 * 1000)]
LifetimeMs: TypeAlias = Annotated[int, Meta(ge=1000, le=365 * 24 * 3600 * 1000)]
TimeoutMs: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_TIMEOUT_MS)]
OutputLimit: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_OUTPUT_LIMIT_BYTES)]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
Cursor: TypeAlias = Annotated[str, Meta(max_length=100)]

_LANGUAGE = re.compile(r"[a-z0-9][a-z0-9.+#_-]{0,39}")
_REPOSITORY = re.compile(r"(https?|git|ssh)://[^\s\x00-\x1f]{1,2000}|[\w.-]+@[\w.-]+:[^\s]{1,2000}")
_REF = re.compile(r"[^\s\x00-\x1f-][^\s\x00-\x1f]{0,254}")


class _Request(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    pass


class AllowedNetworkRequest(_Request, frozen=True, kw_only=True):
    """The only IPv4 ranges that a sandbox reaches, besides the DNS resolver."""

    allow: Annotated[list[Cidr], Meta(min_length=1, max_length=MAX_ALLOWED)]

    def to_policy(self, field: str) -> AllowedNetwork:
        """`field` is where the request says it. Raises `InvalidField`."""
        for index, cidr in enumerate(self.allow):
            try:
                parse_cidr(cidr)
            except ValueError as error:
                raise InvalidField(
                    f"{field}.allow[{index}]",
                    f"Must be an IPv4 range, like 203.0.113.0/24: {error}.",
                ) from error
        return AllowedNetwork(canonical(self.allow))


class SandboxRequest(_Request, frozen=True, kw_only=True):
    """A sandbox to find or to make; what is left out is the node's default."""

    image: ImageName | UnsetType = UNSET
    network: Network | AllowedNetworkRequest | UnsetType = UNSET
    """Left out: `egress` where the nodes can give it, else `none`; the answer says which."""
    env: Env | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    cpus: Cpus | UnsetType = UNSET
    memory_mb: MemoryMb | UnsetType = UNSET
    pids: Pids | UnsetType = UNSET
    disk_mb: DiskMb | UnsetType = UNSET
    idle_timeout_ms: IdleTimeoutMs | UnsetType = UNSET
    """Without a job or a renewal for so long, it is stopped."""
    max_lifetime_ms: LifetimeMs | UnsetType = UNSET
    """So long after it was made it is removed."""
    keep_alive: bool | UnsetType = UNSET
    """It is never stopped for being idle."""

    def to_spec(self) -> SandboxSpec:
        """Raises `InvalidField`."""
        return msgspec.structs.replace(SandboxSpec(), **self._given())

    def asked_network(self) -> NetworkPolicy | None:
        """None: the request names none. Raises `InvalidField`."""
        return None if self.network is UNSET else _policy(self.network, "network")

    def differences(self, spec: SandboxSpec) -> list[str]:
        """The fields, in their wire form, in which a sandbox is not what this asks for."""
        return [
            field.encode_name
            for field in msgspec.structs.fields(SandboxSpec)
            if field.name in (given := self._given())
            and getattr(spec, field.name) != given[field.name]
        ]

    def _given(self) -> dict[str, object]:
        values = {
            field.name: getattr(self, field.name) for field in msgspec.structs.fields(SandboxSpec)
        }
        given = {name: value for name, value in values.items() if value is not UNSET}
        if (network := self.asked_network()) is not None:
            given["network"] = network
        return given


class NewSandboxRequest(SandboxRequest, frozen=True, kw_only=True):
    """As `SandboxRequest`; without a name it gets one."""

    name: SandboxName | UnsetType = UNSET


class ExecRequest(_Request, frozen=True, kw_only=True):
    """A command for a session's shell, or (`argv`) a program to run without one."""

    command: Annotated[str, Meta(pattern=_NO_NUL, min_length=1)] | UnsetType = UNSET
    argv: Annotated[list[Text], Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    session: SessionName = DEFAULT_SESSION
    cwd: Path | None = None
    env: ExecEnv = {}
    stdin: str | None = None
    timeout_ms: TimeoutMs | UnsetType = UNSET
    encoding: Encoding = Encoding.UTF8
    output_limit_bytes: OutputLimit = DEFAULT_OUTPUT_LIMIT_BYTES
    cancel_on_disconnect: bool = False

    def to_spec(self) -> ExecSpec:
        """Raises `InvalidField`."""
        command = None if self.command is UNSET else self.command
        argv = None if self.argv is UNSET else self.argv
        if (command is None) == (argv is None):
            raise InvalidField("command", "Give either `command` or `argv`, and not both.")
        if command is not None:
            _check_bytes("command", [command], MAX_COMMAND_BYTES)
        if argv is not None:
            _check_bytes("argv", argv, MAX_COMMAND_BYTES)
            if not argv[0]:
                raise InvalidField("argv[0]", "The program's name is empty.")
        if self.stdin is not None:
            _check_bytes("stdin", [self.stdin], MAX_STDIN_BYTES)
        return ExecSpec(
            command=command,
            argv=argv,
            session=self.session,
            cwd=self.cwd,
            env=self.env,
            stdin=self.stdin,
            timeout_ms=DEFAULT_TIMEOUT_MS if self.timeout_ms is UNSET else self.timeout_ms,
            output_limit_bytes=self.output_limit_bytes,
            encoding=self.encoding,
        )


class CodeRequest(_Request, frozen=True, kw_only=True):
    """A cell for a code context; without one, for the sandbox's own context of the language."""

    code: str
    context: ContextId | UnsetType = UNSET
    language: str | UnsetType = UNSET
    env: ExecEnv = {}
    allow_input: bool = False
    ansi_traceback: bool = False
    timeout_ms: TimeoutMs = DEFAULT_TIMEOUT_MS
    output_limit_bytes: OutputLimit = DEFAULT_OUTPUT_LIMIT_BYTES

    def asked_language(self) -> str | None:
        """Raises `LanguageUnsupported`. None: the request names none."""
        return None if self.language is UNSET else language_of(self.language)

    def to_spec(self, context: ContextRecord) -> CodeSpec:
        """Raises `InvalidField`."""
        _check_bytes("code", [self.code], MAX_COMMAND_BYTES)
        return CodeSpec(
            code=self.code,
            context=context.id,
            language=context.language,
            env=self.env,
            allow_input=self.allow_input,
            ansi_traceback=self.ansi_traceback,
            timeout_ms=self.timeout_ms,
            output_limit_bytes=self.output_limit_bytes,
        )


class InputRequest(_Request, frozen=True, kw_only=True):
    """The answer to an `input_request` event of a cell."""

    value: Annotated[str, Meta(max_length=MAX_INPUT_CHARS)]
    input: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class StepRequest(_Request, frozen=True, kw_only=True):
    """Commands that run one after another in one shell; the first that fails ends the step."""

    name: StepName
    commands: Annotated[
        list[Annotated[str, Meta(pattern=_NO_NUL, min_length=1)]],
        Meta(min_length=1, max_length=1000),
    ]
    env: Env = {}


class BuildSandboxRequest(_Request, frozen=True, kw_only=True):
    """The sandbox that a build gets for itself."""

    image: ImageName = "default"
    network: Network | AllowedNetworkRequest | None = None
    cpus: Cpus | None = None
    memory_mb: MemoryMb | None = None
    pids: Pids | None = None
    disk_mb: DiskMb | None = None


class BuildRequest(_Request, frozen=True, kw_only=True):
    """A repository, or an archive, and steps to run in it, in a sandbox of its own."""

    steps: Annotated[list[StepRequest], Meta(min_length=1, max_length=MAX_STEPS)]
    repo_url: str | UnsetType = UNSET
    archive: bytes | UnsetType = UNSET
    """A tar archive, plain or compressed, in base64. In a multipart body: the part `archive`."""
    ref: str | None = None
    depth: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    env: Env = {}
    timeout_ms: TimeoutMs = DEFAULT_TIMEOUT_MS
    retries: Annotated[int, Meta(ge=0, le=MAX_RETRIES)] = 0
    """How often it may be run again from its beginning, where its node is lost."""
    sandbox: BuildSandboxRequest = BuildSandboxRequest()

    def to_spec(self) -> BuildSpec:
        """Raises `InvalidField`."""
        repo_url = None if self.repo_url is UNSET else self.repo_url
        if (repo_url is None) == (self.archive is UNSET):
            raise InvalidField("repoUrl", "Give either `repoUrl` or `archive`, and not both.")
        if repo_url is not None and not _REPOSITORY.fullmatch(repo_url):
            raise InvalidField("repoUrl", "Must be an https, http, git or ssh URL of a repository.")
        if self.ref is not None and not _REF.fullmatch(self.ref):
            raise InvalidField("ref", "Must be a branch, a tag or a commit.")
        seen = {CHECKOUT}
        for index, step in enumerate(self.steps):
            if step.name in seen:
                raise InvalidField(
                    f"steps[{index}].name",
                    f"{step.name!r} is taken; steps have different names, none of them {CHECKOUT}.",
                )
            seen.add(step.name)
            _check_bytes(f"steps[{index}].commands", step.commands, MAX_COMMAND_BYTES)
        return BuildSpec(
            steps=[BuildStep(name=s.name, commands=s.commands, env=s.env) for s in self.steps],
            repo_url=repo_url,
            ref=self.ref,
            depth=self.depth,
            env=self.env,
            timeout_ms=self.timeout_ms,
            retries=self.retries,
            sandbox=BuildSandbox(
                image=self.sandbox.image,
                network=_policy(self.sandbox.network, "sandbox.network"),
                cpus=self.sandbox.cpus,
                memory_mb=self.sandbox.memory_mb,
                pids=self.sandbox.pids,
                disk_mb=self.sandbox.disk_mb,
            ),
        )


class SessionRequest(_Request, frozen=True, kw_only=True):
    """A persistent shell, and what it starts with."""

    name: SessionName
    cwd: Path = WORKSPACE
    env: Env = {}
    timeout_ms: TimeoutMs | UnsetType = UNSET
    """Of its commands that say none themselves."""
    isolation: bool = False
    """It runs as a user of its own: other sessions cannot end its programs, nor see their
    environment. Files are shared."""


class RenewRequest(_Request, frozen=True, kw_only=True):
    """What counts from now on; what is left out stays as it is."""

    idle_timeout_ms: IdleTimeoutMs | UnsetType = UNSET
    max_lifetime_ms: LifetimeMs | UnsetType = UNSET


class EnvRequest(_Request, frozen=True, kw_only=True):
    """Variables to add to those of a sandbox; null unsets one."""

    env: ExecEnv


class ContextRequest(_Request, frozen=True, kw_only=True):
    """A code context, and what its kernel starts with."""

    language: str
    cwd: Path = WORKSPACE
    env_vars: Env = {}


class SandboxesQuery(_Request, frozen=True, kw_only=True):
    """Which part of a list, and which sandboxes."""

    cursor: Cursor | None = None
    limit: Limit = MAX_PAGE
    state: SandboxState | None = None
    label: str | None = None
    """`key` or `key=value`."""


class JobsQuery(_Request, frozen=True, kw_only=True):
    """Which part of the list of jobs, and which of them."""

    cursor: Cursor | None = None
    limit: Limit = 50
    kind: JobKind | None = None
    status: Status | None = None
    sandbox: str | None = None


class BuildsQuery(_Request, frozen=True, kw_only=True):
    """Which part of the list of builds, and which of them."""

    cursor: Cursor | None = None
    limit: Limit = 50
    status: Status | None = None


class EventsQuery(_Request, frozen=True, kw_only=True):
    """Where to go on reading; the header `Last-Event-ID` says it first."""

    last_event_id: str | None = None


class JobErrorView(_Answer, frozen=True, kw_only=True):
    """Why a job could not be run, or was cut off."""

    code: str
    message: str
    hint: str | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET
    """The shell's own, where the code is `session_exited`."""


class StepView(_Answer, frozen=True, kw_only=True):
    """How far one step of a build is."""

    name: str
    status: StepStatus
    conclusion: Conclusion | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET
    duration_ms: int | UnsetType = UNSET
    commit: str | UnsetType = UNSET
    """Of the step `checkout`."""


class JobView(_Answer, frozen=True, kw_only=True):
    """A job as its record has it."""

    id: str
    kind: JobKind
    status: Status
    conclusion: Conclusion | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET
    sandbox: str | UnsetType = UNSET
    session: str | UnsetType = UNSET
    spec: Spec
    attempt: int
    created_at: str
    started_at: str | UnsetType = UNSET
    completed_at: str | UnsetType = UNSET
    node: str | UnsetType = UNSET
    error: JobErrorView | UnsetType = UNSET
    steps: list[StepView] | UnsetType = UNSET


class JobsPage(_Answer, frozen=True, kw_only=True):
    """Jobs, newest first."""

    jobs: list[JobView]
    next_cursor: str | UnsetType = UNSET


class JobCancelled(_Answer, frozen=True, kw_only=True):
    """Where a job is, now that its end was asked for."""

    id: str
    status: Status


class ExecResult(_Answer, frozen=True, kw_only=True):
    """What became of a command."""

    job_id: str
    stdout: str
    stderr: str
    exit_code: int | None
    """None where the program did not run to its end."""
    success: bool
    duration_ms: int | None
    truncated: bool
    conclusion: Conclusion
    session_restarted: bool | UnsetType = UNSET
    oom_killed: bool | UnsetType = UNSET
    """True where memory ran out while it ran."""
    error: JobErrorView | UnsetType = UNSET


class Logs(_Answer, frozen=True, kw_only=True):
    """What a cell printed, in pieces as they came."""

    stdout: list[str]
    stderr: list[str]


class CodeResult(_Answer, frozen=True, kw_only=True):
    """What became of a cell."""

    job_id: str
    logs: Logs
    results: list[Result | Display]
    exception: CellException | UnsetType = UNSET
    error: JobErrorView | UnsetType = UNSET
    execution_count: int | None
    truncated: bool
    conclusion: Conclusion
    duration_ms: int | None
    oom_killed: bool | UnsetType = UNSET
    """True where memory ran out while it ran."""


class SandboxView(_Answer, frozen=True, kw_only=True):
    """A sandbox. Its environment is not shown: it may hold secrets."""

    id: str
    name: str
    state: SandboxState
    node: str | None
    image: str
    network: NetworkPolicy
    labels: dict[str, str]
    cpus: float | UnsetType = UNSET
    memory_mb: int | UnsetType = UNSET
    pids: int | UnsetType = UNSET
    disk_mb: int | UnsetType = UNSET
    idle_timeout_ms: int | UnsetType = UNSET
    keep_alive: bool
    created_at: str
    expires_at: str | UnsetType = UNSET
    """When it is removed."""
    error: JobErrorView | UnsetType = UNSET


class SandboxesPage(_Answer, frozen=True, kw_only=True):
    """Sandboxes, by name."""

    sandboxes: list[SandboxView]
    next_cursor: str | UnsetType = UNSET


class Pong(_Answer, frozen=True, kw_only=True):
    """That a sandbox is there."""

    state: SandboxState
    node: str | None


class SessionView(_Answer, frozen=True, kw_only=True):
    """A session. Its environment is not shown: it may hold secrets."""

    name: str
    cwd: str
    isolation: bool
    timeout_ms: int | UnsetType = UNSET
    created_at: str


class SessionsPage(_Answer, frozen=True, kw_only=True):
    """A sandbox's sessions, the implicit one first."""

    sessions: list[SessionView]


class ContextView(_Answer, frozen=True, kw_only=True):
    """A code context. Its environment is not shown: it may hold secrets."""

    id: str
    language: str
    cwd: str
    created_at: str


class ContextsPage(_Answer, frozen=True, kw_only=True):
    """A sandbox's code contexts, oldest first."""

    contexts: list[ContextView]


class NodeView(_Answer, frozen=True, kw_only=True):
    """What a node last said of itself."""

    id: str
    driver: str
    ready: bool
    problem: str | UnsetType = UNSET
    images: list[str]
    sandboxes: int
    running_jobs: int
    job_limit: int
    heartbeat_at: str
    warnings: list[str]
    engine: str
    """What makes its sandboxes, with its version."""
    drained: bool
    full: str | UnsetType = UNSET
    """Why it takes no new sandboxes."""
    sandbox_limit: int
    cpus: int
    memory_mb: int
    memory_free_mb: int
    disk_mb: int
    disk_free_mb: int
    egress: bool
    """Whether its sandboxes can have a network."""
    egress_problem: str | UnsetType = UNSET
    """Why they cannot, for a person."""


class NodesPage(_Answer, frozen=True, kw_only=True):
    """The nodes whose heartbeat is fresh."""

    nodes: list[NodeView]


class NodeHealth(_Answer, frozen=True, kw_only=True):
    """Whether a node makes sandboxes. Seen without a key, so its warnings are only counted."""

    id: str
    ready: bool
    problem: str | UnsetType = UNSET
    warnings: int


class Health(_Answer, frozen=True, kw_only=True):
    """That a program is up, or (`ready`) that it can be of use."""

    status: str
    nodes: list[NodeHealth] | UnsetType = UNSET
    """Of `GET /healthz`, while Redis answers."""


def language_of(name: str) -> str:
    """The language that a client's word stands for. Raises `LanguageUnsupported`."""
    language = LANGUAGES.get(name.lower(), name.lower())
    if not _LANGUAGE.fullmatch(language):
        raise LanguageUnsupported(name, sorted(set(LANGUAGES.values())))
    return language


def sandbox_view(sandbox: Sandbox) -> SandboxView:
    spec = sandbox.spec
    return SandboxView(
        id=sandbox.id,
        name=sandbox.name,
        state=sandbox.state,
        node=sandbox.node,
        image=spec.image,
        network=spec.network,
        labels=spec.labels,
        cpus=_or_unset(spec.cpus),
        memory_mb=_or_unset(spec.memory_mb),
        pids=_or_unset(spec.pids),
        disk_mb=_or_unset(spec.disk_mb),
        idle_timeout_ms=_or_unset(sandbox.idle_timeout_ms),
        keep_alive=spec.keep_alive,
        created_at=sandbox.created_at,
        expires_at=_or_unset(sandbox.expires_at),
        error=error_view(sandbox.error),
    )


def job_view(job: Job) -> JobView:
    return JobView(
        id=job.id,
        kind=job.kind,
        status=job.status,
        conclusion=_or_unset(job.conclusion),
        exit_code=_or_unset(job.exit_code),
        sandbox=_or_unset(job.sandbox),
        session=_or_unset(job.session),
        spec=_without_credentials(job.spec),
        attempt=job.attempt,
        created_at=job.created_at,
        started_at=_or_unset(job.started_at),
        completed_at=_or_unset(job.completed_at),
        node=_or_unset(job.node),
        error=error_view(job.error),
        steps=[_step_view(step) for step in job.steps] if job.kind is JobKind.BUILD else UNSET,
    )


def _without_credentials(spec: Spec) -> Spec:
    """Who may look at a job need not know what its repository is opened with."""
    if isinstance(spec, BuildSpec) and spec.repo_url is not None:
        return msgspec.structs.replace(spec, repo_url=_CREDENTIALS.sub(r"\1***@", spec.repo_url))
    return spec


def session_view(session: SessionRecord) -> SessionView:
    return SessionView(
        name=session.name,
        cwd=session.cwd,
        isolation=session.user > 0,
        timeout_ms=_or_unset(session.timeout_ms),
        created_at=session.created_at,
    )


def context_view(context: ContextRecord) -> ContextView:
    return ContextView(
        id=context.id, language=context.language, cwd=context.cwd, created_at=context.created_at
    )


def node_view(node: NodeRecord) -> NodeView:
    return NodeView(
        id=node.id,
        driver=node.driver,
        ready=node.ready,
        problem=node.problem or UNSET,
        images=node.images,
        sandboxes=node.sandboxes,
        running_jobs=node.running_jobs,
        job_limit=node.job_limit,
        heartbeat_at=node.heartbeat_at,
        warnings=node.warnings,
        engine=node.engine,
        drained=node.drained,
        full=node.full or UNSET,
        sandbox_limit=node.sandbox_limit,
        cpus=node.cpus,
        memory_mb=node.memory_mb,
        memory_free_mb=node.memory_free_mb,
        disk_mb=node.disk_mb,
        disk_free_mb=node.disk_free_mb,
        egress=node.egress,
        egress_problem=node.egress_problem or UNSET,
    )


def node_health(node: NodeRecord) -> NodeHealth:
    return NodeHealth(
        id=node.id,
        ready=node.ready,
        problem=node.problem or UNSET,
        warnings=len(node.warnings),
    )


def error_view(error: JobError | None) -> JobErrorView | UnsetType:
    if error is None:
        return UNSET
    return JobErrorView(code=error.code, message=error.message, hint=error.hint or UNSET)


def _policy(asked: Network | AllowedNetworkRequest | None, field: str) -> NetworkPolicy | None:
    return asked.to_policy(field) if isinstance(asked, AllowedNetworkRequest) else asked


def _or_unset(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _step_view(step: StepRecord) -> StepView:
    return StepView(
        name=step.name,
        status=step.status,
        conclusion=_or_unset(step.conclusion),
        exit_code=_or_unset(step.exit_code),
        duration_ms=_or_unset(step.duration_ms),
        commit=_or_unset(step.commit),
    )


def _check_bytes(field: str, texts: list[str], limit_bytes: int) -> None:
    if sum(map(len, texts)) * 4 <= limit_bytes:
        return  # Too short to be too long, whatever the characters.
    if sum(len(text.encode()) for text in texts) > limit_bytes:
        raise InvalidField(field, f"Longer than {limit_bytes} bytes in UTF-8.")
