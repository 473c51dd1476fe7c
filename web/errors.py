"""What a client is told to be wrong: one table from error class to HTTP status, and the bodies.

RequestFault (a `Fault` of the web's own)
├── Unauthorized            the API key is missing or wrong
├── ScopeMissing            the API key is right, and may not do this
├── RateLimited             the API key makes more requests than it may
├── KeyNotFound             no API key has this id
├── DatabaseUnavailable     the database does not answer
├── CrossSiteRequest        a browser sends what another site asked it to send
├── RouteNotFound / MethodNotAllowed
├── UnreadableBody          the body is not JSON, or not what its type says
├── UnsupportedMediaType    the body is of a type that the route does not take
├── BodyTooLarge
├── FileTooLarge            a file is larger than what is held of one in JSON
├── InvalidField            one field of the body, the query or a header is wrong
├── LanguageUnsupported     no code context speaks this language
├── InvalidEventId          `Last-Event-ID` is not an event's id of this job
├── SandboxStarting         the sandbox takes longer than a request may wait
├── TooManyReaders          as many streams and waiting requests as one process may hold
├── FlowerUnavailable       Flower does not answer
├── RuntimeRefused          the sandbox's runtime refuses; code, hint and status are its own
├── SandboxUnreachable      the relay or the sandbox's runtime does not answer
├── AnswerTooLarge          what a server in a sandbox answers is more than an answer may hold
└── NotReady                Redis or the nodes are not there
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from sandbox_runtime.protocol.errors import RuntimeFault
from workers.contract.errors import (
    ContextLanguageDiffers,
    ContextNotFound,
    EgressUnavailable,
    EventsExpired,
    Fault,
    IdempotencyConflict,
    ImageNotFound,
    JobNotFound,
    LineFull,
    NoCapacity,
    NodeNotFound,
    NodeRunning,
    NodeTaken,
    NoNode,
    PreviewTokenTaken,
    SandboxExists,
    SandboxFailed,
    SandboxNotFound,
    SandboxNotRunning,
    SandboxPaused,
    SessionExists,
    SessionNotFound,
    StoreFull,
    StoreUnavailable,
    TooManyIsolatedSessions,
    TooManyJobs,
    TooManySandboxes,
    UnsupportedByDriver,
)

Details = Mapping[str, str | int | list[str]]

MAX_MESSAGE_CHARS = 2000
"""Of what a sandbox's runtime says."""


class RequestFault(Fault):
    """Base of what is wrong with a request, or with the web itself."""

    def __init__(self, message: str, details: Details | None = None) -> None:
        super().__init__(message)
        self.details = details


class Unauthorized(RequestFault):
    """The API key is missing or wrong."""

    code = "unauthorized"
    hint = "Send the key as `Authorization: Bearer <key>` or as `X-API-Key`."

    def __init__(self) -> None:
        super().__init__("This needs an API key, and a right one.")


class ScopeMissing(RequestFault):
    """The API key is right, and may not do this."""

    code = "scope_missing"
    hint = "Use a key that has the scope, or ask who runs the platform for one."

    def __init__(self, scope: str, scopes: list[str]) -> None:
        super().__init__(
            f"This needs a key with the scope {scope}; this one has {', '.join(scopes)}.",
            {"scope": scope, "scopes": scopes},
        )


class RateLimited(RequestFault):
    """The API key makes more requests than it may."""

    code = "rate_limited"
    hint = "Wait as long as `Retry-After` says."

    def __init__(self, per_second: int) -> None:
        super().__init__(
            f"This key may make {per_second} requests a second.", {"limit": per_second}
        )


class KeyNotFound(RequestFault):
    """No API key has this id."""

    code = "key_not_found"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"No API key {key_id}.")


class DatabaseUnavailable(RequestFault):
    """The database does not answer, or its tables are not there."""

    code = "database_unavailable"
    hint = "Look at COLDFRAME_DATABASE_URL; `python -m web migrate` makes the tables."


class CrossSiteRequest(RequestFault):
    """A browser that knows the key sends what another site asked it to send."""

    code = "cross_site_request"

    def __init__(self) -> None:
        super().__init__("A page of another site cannot change anything here.")


class RouteNotFound(RequestFault):
    """There is nothing under this path."""

    code = "route_not_found"
    hint = "All routes are in GET /v1/openapi.json."

    def __init__(self) -> None:
        super().__init__("There is nothing under this path.")


class MethodNotAllowed(RequestFault):
    """The path is there, for other methods."""

    code = "method_not_allowed"

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(f"This path takes {', '.join(allowed)}.", {"allowed": allowed})


class UnreadableBody(RequestFault):
    """The body is not JSON, or not what its type says."""

    code = "unreadable_body"


class UnsupportedMediaType(RequestFault):
    """The body is of a type that the route does not take."""

    code = "unsupported_media_type"


class BodyTooLarge(RequestFault):
    """The body is over the limit."""

    code = "body_too_large"

    def __init__(self, limit_bytes: int | None) -> None:
        if limit_bytes is None:
            super().__init__("The body is too large.")
        else:
            super().__init__(
                f"The body is larger than {limit_bytes} bytes.", {"limitBytes": limit_bytes}
            )


class FileTooLarge(RequestFault):
    """A file is larger than what is held of one in JSON."""

    code = "file_too_large"
    hint = "Send or read it raw, without JSON."

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"The file has {size_bytes} bytes; in JSON, {limit_bytes} are possible.",
            {"sizeBytes": size_bytes, "limitBytes": limit_bytes},
        )


class InvalidField(RequestFault):
    """One field of the body, the query or a header is wrong."""

    code = "invalid_field"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message, {"field": field})


class LanguageUnsupported(RequestFault):
    """No code context speaks this language."""

    code = "language_unsupported"

    def __init__(self, language: str, supported: list[str]) -> None:
        super().__init__(
            f"{language!r} is not among the languages: {', '.join(supported)}.",
            {"field": "language", "supported": supported},
        )


class InvalidEventId(RequestFault):
    """`Last-Event-ID` is not the id of an event of this job."""

    code = "invalid_event_id"
    hint = "Send the `id` of the last event that you have, or nothing to read from the start."


class SandboxStarting(RequestFault):
    """The sandbox takes longer to come, or to go, than a request may wait."""

    code = "sandbox_starting"
    hint = "Send the request again; it goes on waiting."


class TooManyReaders(RequestFault):
    """As many streams and waiting requests as one process may hold are open."""

    code = "too_many_readers"
    hint = "Try again in a moment, or with `Prefer: respond-async`."


class FlowerUnavailable(RequestFault):
    """Flower does not answer."""

    code = "flower_unavailable"


class RuntimeRefused(RequestFault):
    """The sandbox's runtime refuses; code, hint and status are its own."""

    code = "runtime_fault"

    def __init__(self, fault: RuntimeFault) -> None:
        super().__init__(fault.message[:MAX_MESSAGE_CHARS])
        self.code = fault.code  # type: ignore[misc]
        self.hint = fault.hint  # type: ignore[misc]
        self.row = Row(fault.http_status, retry_after_s=2 if fault.http_status == 429 else None)


class SandboxUnreachable(RequestFault):
    """The relay of the sandbox's node, or the sandbox's runtime, does not answer."""

    code = "sandbox_unreachable"
    hint = "Send the request again in a moment; `make status` shows whether the relay runs."


class AnswerTooLarge(RequestFault):
    """What a server in a sandbox answers is more than an answer here may hold."""

    code = "answer_too_large"
    hint = "Expose the port, and fetch it by its preview's URL."

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The answer is larger than {limit_bytes} bytes.", {"limitBytes": limit_bytes}
        )


class NotReady(RequestFault):
    """Redis or the nodes are not there."""

    code = "not_ready"

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(" ".join(reasons), {"reasons": reasons})


class Row(NamedTuple):
    """What HTTP says of an error."""

    status: int
    retry_after_s: int | None = None
    """Set where sending the same request again can help."""


ROWS: Mapping[type[Fault], Row] = {
    Fault: Row(500),
    RequestFault: Row(400),
    UnreadableBody: Row(400),
    InvalidEventId: Row(400),
    Unauthorized: Row(401),
    CrossSiteRequest: Row(403),
    ScopeMissing: Row(403),
    RouteNotFound: Row(404),
    SandboxNotFound: Row(404),
    SessionNotFound: Row(404),
    ContextNotFound: Row(404),
    JobNotFound: Row(404),
    KeyNotFound: Row(404),
    NodeNotFound: Row(404),
    MethodNotAllowed: Row(405),
    SandboxExists: Row(409),
    PreviewTokenTaken: Row(409),
    SandboxNotRunning: Row(409),
    SandboxPaused: Row(409),
    SessionExists: Row(409),
    TooManyIsolatedSessions: Row(409),
    ContextLanguageDiffers: Row(409),
    IdempotencyConflict: Row(409),
    NodeRunning: Row(409),
    NodeTaken: Row(409),
    EventsExpired: Row(410),
    BodyTooLarge: Row(413),
    FileTooLarge: Row(413),
    UnsupportedMediaType: Row(415),
    InvalidField: Row(422),
    LanguageUnsupported: Row(422),
    ImageNotFound: Row(422),
    LineFull: Row(429, retry_after_s=5),
    RateLimited: Row(429, retry_after_s=1),
    TooManyJobs: Row(429, retry_after_s=5),
    TooManySandboxes: Row(429, retry_after_s=5),
    SandboxFailed: Row(500),
    RuntimeRefused: Row(500),
    UnsupportedByDriver: Row(501),
    AnswerTooLarge: Row(502),
    SandboxUnreachable: Row(503, retry_after_s=2),
    StoreUnavailable: Row(503, retry_after_s=2),
    DatabaseUnavailable: Row(503, retry_after_s=2),
    StoreFull: Row(503, retry_after_s=30),
    NoNode: Row(503, retry_after_s=5),
    NoCapacity: Row(503, retry_after_s=5),
    EgressUnavailable: Row(503, retry_after_s=5),
    SandboxStarting: Row(503, retry_after_s=2),
    TooManyReaders: Row(503, retry_after_s=2),
    FlowerUnavailable: Row(503, retry_after_s=2),
    NotReady: Row(503, retry_after_s=2),
}


class ErrorBody(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What went wrong: a stable code, and a message for a person."""

    code: str
    message: str
    details: Details | msgspec.UnsetType = msgspec.UNSET
    hint: str | msgspec.UnsetType = msgspec.UNSET
    request_id: str


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer of 400 and above."""

    error: ErrorBody


def row_of(fault: Fault) -> Row:
    return fault.row if isinstance(fault, RuntimeRefused) else ROWS[type(fault)]


def answer_of(fault: Fault, request_id: str) -> ErrorAnswer:
    details = fault.details if isinstance(fault, RequestFault) else None
    return ErrorAnswer(
        ErrorBody(
            code=fault.code,
            message=fault.message,
            details=details or msgspec.UNSET,
            hint=fault.hint or msgspec.UNSET,
            request_id=request_id,
        )
    )


def internal_error() -> Fault:
    """What a client is told of a mistake of ours: nothing but that the log has it."""
    return Fault("Something went wrong here; the server's log has it under the request's id.")
