"""What a sandbox is and may become, with its sessions and code contexts."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from sandbox_runtime.protocol.requests import CodeContext, Session
from workers.contract.jobs import JobError
from workers.contract.networks import Network, NetworkPolicy

DEFAULT_SESSION = "default"
WORKSPACE = "/workspace"
DEFAULT_CONTEXT_PREFIX = "default-"
"""`default-python` is the context of code that names no other."""

LANGUAGES = {
    "python": "python",
    "python3": "python",
    "py": "python",
    "javascript": "javascript",
    "js": "javascript",
    "node": "javascript",
    "typescript": "typescript",
    "ts": "typescript",
}
"""Names that a client may use, and the language that they stand for."""


class SandboxState(StrEnum):
    """Where a sandbox is in its life."""

    CREATING = "creating"
    """Also while one that was stopped is started again."""
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Without a container; its volume and its record are kept."""
    REMOVING = "removing"
    REMOVED = "removed"
    FAILED = "failed"


class _Value(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    pass


class SandboxSpec(_Value, frozen=True):
    """What was asked for; what is None is the node's default."""

    image: str = "default"
    network: NetworkPolicy = Network.NONE
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    cpus: float | None = None
    memory_mb: int | None = None
    pids: int | None = None
    disk_mb: int | None = None
    idle_timeout_ms: int | None = None
    """Without a job for so long, it is stopped."""
    max_lifetime_ms: int | None = None
    """So long after it was made it is removed; None: never."""
    keep_alive: bool = False
    """It is never stopped for being idle."""


def pool_kind(spec: SandboxSpec) -> str:
    """What a sandbox that is ready before it is asked for must have been made with.

    None is kept of the kind `allow`, whose ranges are each sandbox's own.
    """
    network = spec.network.value if isinstance(spec.network, Network) else "allow"
    return f"{spec.image}/{network}/{spec.disk_mb or 'default'}"


class Sandbox(_Value, frozen=True):
    """An isolated place for one user's work, pinned to its node for life."""

    id: str
    name: str
    owner: str
    spec: SandboxSpec
    created_at: str
    state: SandboxState = SandboxState.CREATING
    node: str | None = None
    """The node that made it; None until one has claimed it."""
    boot_id: str | None = None
    """Which start of its runtime is the current one."""
    error: JobError | None = None
    """Why it failed."""
    env: dict[str, str | None] = {}
    """What was set since it was made, over the spec's; None unsets."""
    idle_timeout_ms: int | None = None
    """The spec's, or what it was renewed with."""
    expires_at: str | None = None
    """When it is removed; None: never."""

    @property
    def user_env(self) -> dict[str, str | None]:
        """What its programs get besides the image's own; None unsets."""
        return {**self.spec.env, **self.env}


class SessionRecord(_Value, frozen=True):
    """A persistent shell: its name and what it starts with."""

    name: str
    created_at: str
    cwd: str = WORKSPACE
    env: dict[str, str] = {}
    timeout_ms: int | None = None
    """Of its commands that say none themselves."""
    user: int = 0
    """Which of the sandbox's users it runs as; an isolated session has one of its own."""


class ContextRecord(_Value, frozen=True):
    """A code context: its language and what its kernel starts with."""

    id: str
    language: str
    created_at: str
    cwd: str = WORKSPACE
    env_vars: dict[str, str] = {}


class NodeRecord(_Value, frozen=True):
    """What a node says of itself with each heartbeat."""

    id: str
    driver: str
    ready: bool
    """True where it can make sandboxes now."""
    problem: str = ""
    """Why it is not ready, for a person."""
    images: list[str] = []
    """Names of those that its sandboxes can start from."""
    sandboxes: int = 0
    states: dict[str, int] = {}
    """How many of them are in which state."""
    pooled: int = 0
    """Made before they were asked for."""
    running_jobs: int = 0
    job_limit: int = 0
    heartbeat_at: str = ""
    warnings: list[str] = []
    engine: str = ""
    """What makes its sandboxes, with its version."""
    egress: bool = False
    """True where its sandboxes can have a network now."""
    egress_problem: str = ""
    """Why they cannot, for a person."""
    relay: str = ""
    """`host:port` where its relay listens for the web; empty: on a socket of the web's machine."""
    drained: bool = False
    """It was told to take nothing new."""
    full: str = ""
    """Why it takes nothing new, for a person; empty where it does."""
    sandbox_limit: int = 0
    cpus: int = 0
    memory_mb: int = 0
    memory_free_mb: int = 0
    disk_mb: int = 0
    disk_free_mb: int = 0
    preview_url: str = ""
    """How its previews and terminals are called; empty: as the web's settings say."""

    @property
    def has_room(self) -> bool:
        """Whether it takes new sandboxes and builds."""
        return self.ready and not self.drained and not self.full


def runtime_context(sandbox: Sandbox, context: ContextRecord) -> CodeContext:
    """What a code context is to the sandbox's runtime."""
    return CodeContext(
        id=context.id,
        language=context.language,
        cwd=context.cwd,
        env={**sandbox.user_env, **context.env_vars},
    )


def runtime_session(sandbox: Sandbox, session: SessionRecord | None) -> Session:
    """What a session is to the sandbox's runtime; None is the implicit one."""
    if session is None:
        return Session(name=DEFAULT_SESSION, env=sandbox.user_env)
    return Session(
        name=session.name,
        cwd=session.cwd,
        env={**sandbox.user_env, **session.env},
        user=session.user,
    )
