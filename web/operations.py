"""What a route is: a method, a path, the function behind it, and the types of what it reads."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from flask import Flask, Response, g, request

from web.keys import Scope
from web.requests import JSON_TYPE, read_body, read_query
from workers.contract.events import JobEvent

Handler = Callable[..., Response]
"""Takes the path's parameters and, where it names them, `owner`, `body` and `query`."""

_PARAMETER = re.compile(r"\{(\w+)\}")

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True)
class Operation:
    """One method of one path. Its handler's annotations say what body and query it takes."""

    method: str
    path: str
    """`/v1/jobs/{id}`"""
    handler: Handler
    answers: Mapping[int, type[msgspec.Struct] | None]
    """Type of the JSON body by status; None: no body, or none that a type describes."""
    makes_job: bool = False
    """It takes `Prefer`, `Accept` and `Idempotency-Key`, and answers in one of three ways."""
    takes_key: bool = False
    """It takes `Idempotency-Key`, though it makes no job."""
    streams: bool = False
    """It can answer with server-sent events."""
    stream_of: Any = JobEvent
    """The type of these."""
    form_part: str | None = None
    """The JSON part of a multipart body, where the route takes one besides plain JSON."""
    form_type: type[msgspec.Struct] | None = None
    """The type of that part; the handler reads such a body itself."""
    raw_body: bool = False
    """It takes any bytes besides JSON, whose type is then `form_type`."""
    raw_answer: bool = False
    """It gives bytes, unless JSON is asked for."""
    body_limit_bytes: int | None = None
    """None: the limit of all."""
    is_page: bool = False
    """For browsers, which know the key by HTTP Basic."""
    needs_key: bool = True
    scope: Scope | None = None
    """What the key must be allowed; None: `read` to look at something, `run` to change it."""
    reaches_in: bool = False
    """It is answered by the sandbox itself, which it has made or started where it is not there."""

    @property
    def needed_scope(self) -> Scope:
        return self.scope or (Scope.READ if self.method == "GET" else Scope.RUN)

    @property
    def name(self) -> str:
        """Unique: the endpoint's, and the `operationId`."""
        holder = self.handler.__self__.__class__  # type: ignore[attr-defined]
        return f"{holder.__name__.removesuffix('Routes').lower()}.{self.handler.__name__}"

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.handler) or "").partition("\n")[0]

    @property
    def parameters(self) -> list[str]:
        return _PARAMETER.findall(self.path)

    @property
    def rule(self) -> str:
        """The path as Werkzeug writes it. A parameter named `rest` takes slashes too."""
        return _PARAMETER.sub(r"<\1>", self.path).replace("<rest>", "<path:rest>")

    def type_of(self, argument: str) -> type[msgspec.Struct] | None:
        """The type of the handler's `body` or `query`; None where it takes none."""
        hint = typing.get_type_hints(self.handler).get(argument)
        return hint if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else None


def reaching_in(operations: list[Operation]) -> list[Operation]:
    """Marks those that a sandbox itself answers."""
    return [replace(operation, reaches_in=True) for operation in operations]


def register(app: Flask, operations: list[Operation]) -> None:
    for operation in operations:
        app.add_url_rule(
            operation.rule,
            endpoint=operation.name,
            view_func=_view(operation),
            methods=[operation.method],
            provide_automatic_options=False,
        )


def json_answer(
    value: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(_encoder.encode(value), status, headers, mimetype=JSON_TYPE)


def no_content() -> Response:
    return Response(status=204)


def _view(operation: Operation) -> Handler:
    """Reads what the handler asks for, once the route is known to be the one."""
    body_type, query_type = operation.type_of("body"), operation.type_of("query")
    wants_owner = "owner" in inspect.signature(operation.handler).parameters

    def view(**arguments: Any) -> Response:
        if operation.body_limit_bytes is not None:
            request.max_content_length = operation.body_limit_bytes
        if wants_owner:
            arguments["owner"] = g.caller.owner
        if query_type is not None:
            arguments["query"] = read_query(request, query_type)
        if body_type is not None:
            arguments["body"] = read_body(request, body_type)
        return operation.handler(**arguments)

    return view
