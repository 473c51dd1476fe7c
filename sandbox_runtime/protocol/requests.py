"""What the runtime can be asked over its socket.

HTTP/1.1 on a Unix socket; each request carries `Authorization: Bearer <token>`.

    GET    /ping                              → Pong
    PUT    /executions/{id}?after=N           body ExecutionRequest; starts it, or attaches to it;
                                              → 200, application/x-ndjson: events from N+1 to the
                                              end, and an empty line every HEARTBEAT_S
           Coldframe-Boot-Id: <bootId>        optional; another boot answers 409 sandbox_restarted
    POST   /executions/{id}/cancel            body CancelRequest → 204
    POST   /executions/{id}/input             body InputReply → 204
    POST   /acks                              body Acknowledgements → 204
    GET    /executions                        → [ExecutionStatus]
    DELETE /sessions/{name}                   → 204, also where there is none: ends its shell
    PUT    /contexts/{id}                     body CodeContext → 204: its kernel is there
    DELETE /contexts/{id}                     → 204, also where there is none: ends its kernel
    PUT    /spares                            body Spares → 204: kernels are there for contexts that
                                              will be asked for, and no others
    POST   /contexts/{id}/interrupt           → ContextInterrupted
    POST   /contexts/{id}/restart             → 204, also where there is none: ends its kernel, for
                                              the next cell to have a new one
    PUT    /archive?path=/workspace/source    body: a tar archive → 204; unpacked as the user

A failed request answers with `errors.ErrorBody`. An execution's id is the caller's; starting is
idempotent by it. An execution goes on when its reader leaves.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

MAX_COMMAND_BYTES = 1024 * 1024
"""A command, a cell or an argument list, in UTF-8; the shell itself would take more."""

MAX_INPUT_CHARS = 1024 * 1024
"""One answer to a cell that asks for input."""

MAX_STDIN_BYTES = 4 * 1024 * 1024

MAX_OUTPUT_LIMIT_BYTES = 256 * 1024 * 1024
"""The most that an execution's output cap can be raised to."""

MAX_LINE_BYTES = 32 * 1024 * 1024
"""One event on the wire. Output events stay far below; a picture may be large."""

MAX_DEPTH = 2**31 - 1
"""Of a checkout, in commits: git's own bound."""

HEARTBEAT_S = 5.0
"""Between two signs of life in a stream of events in which nothing happens."""

SILENCE_LIMIT_S = 4 * HEARTBEAT_S
"""For who reads such a stream: longer silence is a fault."""

BOOT_ID_HEADER = "Coldframe-Boot-Id"

USERS = 16
"""A sandbox's: the first, as which all runs that asks for no other, and isolated sessions'."""


def user_name(user: int) -> str:
    """As /etc/passwd has it."""
    return f"session-{user}" if user else "sandbox"


OutputLimit = Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTPUT_LIMIT_BYTES)]
Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=64 * 1024)]
TimeoutMs = Annotated[int, msgspec.Meta(gt=0)]


class Encoding(StrEnum):
    """How output bytes become text: decoded with U+FFFD for what is not UTF-8, or as they are."""

    UTF8 = "utf-8"
    BASE64 = "base64"


class _Request(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    pass


class Session(_Request, frozen=True):
    """The session that a command runs in; its shell is started on first use.

    `cwd` is where its shell starts. What changes in `env` is applied before the next command; None
    unsets.
    """

    name: str = "default"
    cwd: str = "/workspace"
    env: dict[str, str | None] = {}
    user: Annotated[int, msgspec.Meta(ge=0, lt=USERS)] = 0
    """Which of the sandbox's users it is, as of its first command; all share one group."""


class ExecRequest(_Request, frozen=True, tag="exec", tag_field="kind"):
    """Run a shell command in a session, or (`argv`) a program directly, without a shell.

    `cwd` and `env` hold for this call alone. `env` maps a name to None to unset it.
    """

    command: str | None = None
    argv: list[str] | None = None
    session: Session = Session()
    cwd: str | None = None
    env: dict[str, str | None] = {}
    stdin: str | None = None
    timeout_ms: TimeoutMs | None = None
    output_limit_bytes: OutputLimit = 16 * 1024 * 1024
    encoding: Encoding = Encoding.UTF8


class CodeContext(_Request, frozen=True):
    """The kernel that a cell runs in; it is started on first use.

    What changes in `env` is applied before the next cell, where the kernel is one of ours.
    """

    id: str
    language: str = "python"
    cwd: str = "/workspace"
    env: dict[str, str | None] = {}
    """None unsets."""


class Spares(_Request, frozen=True):
    """What to have ready. A spare kernel has the sandbox's own environment."""

    languages: list[str]


class CodeRequest(_Request, frozen=True, tag="code", tag_field="kind"):
    """Run a cell in a code context."""

    code: str
    context: CodeContext
    env: dict[str, str | None] = {}
    """For this cell alone; None unsets."""
    allow_input: bool = False
    """It may ask for input, by `input_request` events; else asking raises in it."""
    ansi_traceback: bool = False
    """An exception's traceback keeps its colours, as ANSI escapes."""
    timeout_ms: TimeoutMs | None = None
    output_limit_bytes: OutputLimit = 16 * 1024 * 1024


class Credentials(_Request, frozen=True):
    """What a git remote is shown: a token over http(s), a key over ssh. Never logged or kept."""

    token: Secret | None = None
    """For http and https."""
    username: Secret | None = None
    """The token's; most servers take any."""
    ssh_key: Secret | None = None
    """A private key without a passphrase."""


class CheckoutRequest(_Request, frozen=True, tag="checkout", tag_field="kind"):
    """Clone a git repository into `target_dir`, as the session's user.

    The token, and credentials in the URL, are for the URL's host alone and are not kept.
    """

    repo_url: str
    target_dir: str | None = None
    """Relative to the session's directory; None: in the workspace, by the repository's name."""
    ref: str | None = None
    """A branch, a tag or a commit; None: the remote's default branch."""
    depth: Annotated[int, msgspec.Meta(ge=1, le=MAX_DEPTH)] | None = None
    submodules: bool = False
    credentials: Credentials = Credentials()
    session: Session = Session()
    timeout_ms: TimeoutMs | None = None
    output_limit_bytes: OutputLimit = 16 * 1024 * 1024


ExecutionRequest = ExecRequest | CodeRequest | CheckoutRequest


class CancelReason(StrEnum):
    """Why an execution is ended early; it becomes the code of its `error` event."""

    CANCELLED = "cancelled"
    SANDBOX_LOST = "sandbox_lost"
    SUPERSEDED = "superseded"


class CancelRequest(_Request, frozen=True):
    reason: CancelReason = CancelReason.CANCELLED


class InputReply(_Request, frozen=True):
    """The answer to an `input_request`."""

    value: Annotated[str, msgspec.Meta(max_length=MAX_INPUT_CHARS)]
    """A line, without its end."""
    input: int | None = None
    """The number of the request that it answers; None: of the one that waits."""


class Acknowledgements(_Request, frozen=True):
    """The caller has safely kept all events of these executions up to and with number `n`.

    Executions that are not known, or were forgotten, are passed over.
    """

    acks: dict[str, Annotated[int, msgspec.Meta(ge=0)]]
    """Execution's id → n."""


class Pong(msgspec.Struct, frozen=True, rename="camel"):
    """The runtime's answer to a ping."""

    boot_id: str
    """Random at each start of the runtime."""
    uptime_ms: int
    executions: int
    sessions: list[str]
    contexts: list[str]


class ContextInterrupted(msgspec.Struct, frozen=True, rename="camel"):
    interrupted: bool
    """A cell ran, and was told to end; how it ends, its own events tell."""


class ExecutionStatus(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    running: bool
    last_n: int
    acknowledged_n: int
