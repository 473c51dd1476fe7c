"""The platform's errors: one tree, each class one sentence and a stable code.

Fault
├── StoreUnavailable        Redis cannot be reached, or refuses
├── StoreFull               Redis is near its memory limit
├── NodeNotFound / NodeRunning    no node has this name; it cannot be removed while it is there
├── NodeTaken               another worker has this node's name
├── NoCapacity              the nodes have no room for another sandbox
├── NoNode                  no node that is ready could take a sandbox
├── ImageNotFound           no node has an image of this name
├── SandboxNotFound
├── SandboxExists           a sandbox of this name differs from what was asked
├── SandboxNotRunning       the sandbox is in a state that does not take this
├── SandboxPaused           the sandbox is frozen until it is resumed
├── UnsupportedByDriver     the driver of the sandbox's node cannot do this
├── SandboxFailed           the sandbox could not be made
├── SessionNotFound / SessionExists / TooManyIsolatedSessions
├── ContextNotFound / ContextLanguageDiffers
├── PreviewTokenTaken       another port of the sandbox is exposed with this token
├── JobNotFound
├── EventsExpired           the job's events are no longer kept
├── LineFull                too many jobs wait in this session or context
├── TooManyJobs / TooManySandboxes    as many as the request's key allows
└── IdempotencyConflict     the key was used for another request
"""

from __future__ import annotations

from typing import ClassVar


class Fault(Exception):
    """Base of what web and workers tell each other, and in the end a client, to be wrong."""

    code: ClassVar[str] = "internal_error"
    hint: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class StoreUnavailable(Fault):
    """Redis cannot be reached, or refuses to answer."""

    code = "store_unavailable"
    hint = "Redis is away. Accepted jobs are kept; send this request again in a moment."


class StoreFull(Fault):
    """Redis is so near its memory limit that nothing new is accepted."""

    code = "store_full"
    hint = "Wait for jobs to expire, or give Redis more memory."


class NoNode(Fault):
    """No node is ready to take a sandbox."""

    code = "no_node"
    hint = "Start a worker, or look at GET /readyz for what is missing on it (Docker, image)."


class NodeNotFound(Fault):
    """No node has this name, or it was removed."""

    code = "node_not_found"


class NodeRunning(Fault):
    """A node whose worker is there cannot be removed."""

    code = "node_running"
    hint = "End its worker first; drain it before, to end none of its sandboxes."


class NodeTaken(Fault):
    """Another worker serves the node of this name."""

    code = "node_taken"
    hint = "Give each worker a COLDFRAME_NODE of its own, or end the other one."


class NoCapacity(Fault):
    """The nodes that are ready have no room for another sandbox."""

    code = "no_capacity"
    hint = "Send the request again later; GET /v1/nodes says what each node lacks."


class ImageNotFound(Fault):
    """No node has an image of this name."""

    code = "image_not_found"
    hint = "Add it on a node: make image NAME=… FROM=…"


class SandboxNotFound(Fault):
    """No sandbox of this owner has this name."""

    code = "sandbox_not_found"
    hint = "Create it with PUT /v1/sandboxes/{name}."


class SandboxExists(Fault):
    """A sandbox of this name exists and differs from what was asked."""

    code = "sandbox_exists"
    hint = "Remove it first, or ask for it as it is."


class SandboxNotRunning(Fault):
    """The sandbox is not in a state that takes this request."""

    code = "sandbox_not_running"
    hint = "Look at its state with GET /v1/sandboxes/{name}."

    def __init__(self, name: str | None, state: str) -> None:
        super().__init__(f"The sandbox {name} is {state}.")


class SandboxPaused(Fault):
    """The sandbox is frozen until it is resumed."""

    code = "sandbox_paused"
    hint = "Resume it with POST /v1/sandboxes/{name}/resume."


class UnsupportedByDriver(Fault):
    """The driver of the sandbox's node cannot do this."""

    code = "unsupported_by_driver"
    hint = "Driver local cannot; docker can."


class EgressUnavailable(Fault):
    """No node that is ready can give a sandbox the network that was asked for."""

    code = "egress_unavailable"
    hint = "GET /v1/nodes has what stands in the way; `network: none` is always there."


class SandboxFailed(Fault):
    """The sandbox could not be made."""

    code = "sandbox_failed"
    hint = "The worker's log has the reason; try again when it is mended."


class SessionNotFound(Fault):
    """The sandbox has no session of this name."""

    code = "session_not_found"
    hint = "Create it with POST /v1/sandboxes/{name}/sessions."


class SessionExists(Fault):
    """The sandbox already has a session of this name."""

    code = "session_exists"


class TooManyIsolatedSessions(Fault):
    """Each has a user of its own, and a sandbox has so many."""

    code = "too_many_isolated_sessions"
    hint = "Delete one that is not needed any more, or use another sandbox."


class ContextNotFound(Fault):
    """The sandbox has no code context of this id."""

    code = "context_not_found"
    hint = "Create it with POST /v1/sandboxes/{name}/contexts."


class ContextLanguageDiffers(Fault):
    """The context speaks another language than the one that was asked for."""

    code = "context_language_differs"


class JobNotFound(Fault):
    """No job of this owner has this id, or it is no longer kept."""

    code = "job_not_found"


class EventsExpired(Fault):
    """The job is known, but its events are no longer kept."""

    code = "events_expired"


class LineFull(Fault):
    """Too many jobs wait in this session or context."""

    code = "line_full"
    hint = "Wait for some of them to end, or use another session."


class TooManyJobs(Fault):
    """The owner has as many open jobs as the request's key may have."""

    code = "too_many_jobs"
    hint = "Wait until some of them have ended, or cancel them."


class TooManySandboxes(Fault):
    """The owner has as many sandboxes as the request's key may have."""

    code = "too_many_sandboxes"
    hint = "Remove those that nobody uses: GET /v1/sandboxes lists them."


class IdempotencyConflict(Fault):
    """The idempotency key was used before, for another request."""

    code = "idempotency_conflict"
    hint = "Use a new key for a new request."


class PreviewTokenTaken(Fault):
    """Another port of the sandbox is exposed with this token."""

    code = "preview_token_taken"
    hint = "Give each port a token of its own, or none: then it gets one."
