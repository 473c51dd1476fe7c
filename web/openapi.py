"""Writes the OpenAPI document from the route table and the types of requests and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from web import sse
from web.errors import ErrorAnswer
from web.operations import Operation
from web.requests import FORM_TYPE, JSON_TYPE

VERSION = "3.1.0"

BINARY_TYPE = "application/octet-stream"
ANY_TYPE = "*/*"
"""A file's own."""

Schema = dict[str, Any]
"""A piece of the document: JSON, whose shape the OpenAPI specification says."""

_PREFER = ("Prefer", "`respond-async`: answer at once with 202 and the job's record.")
_KEY = (
    "Idempotency-Key",
    "1 to 200 printable characters. The same key gives the same job, or process.",
)
_ARCHIVE_PART: Schema = {"type": "string", "contentMediaType": "application/x-tar"}


def document(operations: Iterable[Operation], *, version: str) -> Schema:
    """The document of these operations, in plain JSON values."""
    described = list(operations)
    types = _types(described)
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, Schema] = {}
    for operation in described:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(
            operation, schema_of
        )
    return {
        "openapi": VERSION,
        "info": {
            "title": "Coldframe",
            "version": version,
            "description": "Sandboxes for untrusted commands, builds and code.",
        },
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "page": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _types(operations: list[Operation]) -> list[Any]:
    """All types that the document names, each once."""
    found: dict[Any, None] = dict.fromkeys([ErrorAnswer])
    for operation in operations:
        body, streamed = operation.type_of("body"), operation.stream_of
        for kind in (body, operation.form_type, streamed, *operation.answers.values()):
            if kind is not None:
                found[kind] = None
    return list(found)


def _describe(operation: Operation, schema_of: Mapping[Any, Schema]) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            *({**_string(name, "path"), "required": True} for name in operation.parameters),
            *_query_parameters(operation),
            *(
                {**_string(name, "header"), "description": text}
                for name, text in _headers(operation)
            ),
        ],
        "responses": _responses(operation, schema_of),
    }
    if body := _body(operation, schema_of):
        described["requestBody"] = body
    if not operation.needs_key:
        described["security"] = []
        return described
    described["x-scope"] = operation.needed_scope.value
    if operation.is_page:
        described["security"] = [{"bearer": []}, {"header": []}, {"page": []}]
    return described


def _headers(operation: Operation) -> list[tuple[str, str]]:
    if operation.makes_job:
        return [_PREFER, _KEY]
    return [_KEY] if operation.takes_key else []


def _body(operation: Operation, schema_of: Mapping[Any, Schema]) -> Schema | None:
    kind = operation.type_of("body") or operation.form_type
    if kind is None:
        return None
    content: Schema = {JSON_TYPE: {"schema": schema_of[kind]}}
    if operation.form_part is not None:
        content[FORM_TYPE] = {
            "schema": {
                "type": "object",
                "properties": {operation.form_part: schema_of[kind], "archive": _ARCHIVE_PART},
                "required": [operation.form_part],
            }
        }
    if operation.raw_body:
        content[BINARY_TYPE] = {"schema": {}}
    required = any(field.required for field in msgspec.structs.fields(kind))
    return {"content": content, "required": required}


def _responses(operation: Operation, schema_of: Mapping[Any, Schema]) -> Schema:
    answers: dict[int, Schema] = {
        status: _response(status, {} if kind is None else {JSON_TYPE: {"schema": schema_of[kind]}})
        for status, kind in operation.answers.items()
    }
    if operation.raw_answer:
        answers[HTTPStatus.OK].setdefault("content", {})[ANY_TYPE] = {"schema": {}}
        answers[HTTPStatus.PARTIAL_CONTENT] = _response(
            HTTPStatus.PARTIAL_CONTENT, {ANY_TYPE: {"schema": {}}}
        )
    if operation.streams:
        ok = answers.setdefault(HTTPStatus.OK, _response(HTTPStatus.OK, {}))
        ok.setdefault("content", {})[sse.CONTENT_TYPE] = {
            "schema": _event(schema_of[operation.stream_of])
        }
    error = _response(None, {JSON_TYPE: {"schema": schema_of[ErrorAnswer]}})
    return {**{str(status): answer for status, answer in answers.items()}, "default": error}


def _event(schema: Schema) -> Schema:
    """One of a stream; a job's has its `jobId` in `data`, besides what the schema has."""
    data = {"type": "string", "contentMediaType": JSON_TYPE, "contentSchema": schema}
    return {"type": "object", "properties": {"id": {"type": "string"}, "data": data}}


def _response(status: int | None, content: Schema) -> Schema:
    phrase = "An error" if status is None else HTTPStatus(status).phrase
    return {"description": phrase, **({"content": content} if content else {})}


def _query_parameters(operation: Operation) -> list[Schema]:
    kind = operation.type_of("query")
    if kind is None:
        return []
    (_,), components = msgspec.json.schema_components(
        [kind], ref_template="#/components/schemas/{name}"
    )
    properties = components[kind.__name__]["properties"]
    return [
        {"name": name, "in": "query", "schema": _inlined(schema, components)}
        for name, schema in properties.items()
    ]


def _inlined(schema: Any, components: Mapping[str, Schema]) -> Any:
    """The schema with what it refers to in its place."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(components[schema["$ref"].rpartition("/")[2]], components)
        return {key: _inlined(value, components) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(value, components) for value in schema]
    return schema


def _string(name: str, place: str) -> Schema:
    return {"name": name, "in": place, "schema": {"type": "string"}}
