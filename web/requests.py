"""Reads bodies and queries into types, or says which field is wrong."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from flask import Request

from web import sse
from web.errors import BodyTooLarge, InvalidField, UnreadableBody, UnsupportedMediaType

T = TypeVar("T")

JSON_TYPE = "application/json"
FORM_TYPE = "multipart/form-data"

WHOLE_BODY = "body"
"""What `details.field` says where no single field is to blame."""

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$?(?P<path>[^`]*)`)?$", re.DOTALL)
_NAMED = re.compile(r"(unknown|required) field `([^`]*)`")


def read_body(request: Request, kind: type[T]) -> T:
    """The request's JSON body; none at all counts as `{}`.

    Raises `BodyTooLarge`, `UnsupportedMediaType`, `UnreadableBody`, `InvalidField`.
    """
    body = request.get_data(cache=False)
    if request.content_length is None and len(body) == request.max_content_length:
        # Werkzeug cuts a body of unknown length off at the limit, and says nothing.
        raise BodyTooLarge(request.max_content_length)
    if not body:
        return decode_json(b"{}", kind)
    _check_plain(request)
    if request.mimetype != JSON_TYPE:
        raise UnsupportedMediaType(f"Send the body as {JSON_TYPE}.")
    return decode_json(body, kind)


def read_form(request: Request, part: str, kind: type[T]) -> tuple[T, dict[str, bytes]]:
    """A multipart body: its JSON part, and the other parts as they are."""
    _check_plain(request)
    document = request.form.get(part)
    files = {name: file.read() for name, file in request.files.items()}
    if document is None:
        document_bytes = files.pop(part, None)
    else:
        document_bytes = document.encode("utf-8", "replace")
    if document_bytes is None:
        raise InvalidField(part, f"The part `{part}` is missing.")
    return decode_json(document_bytes, kind), files


def read_query(request: Request, kind: type[T]) -> T:
    """Raises `InvalidField`."""
    try:
        return msgspec.convert(request.args.to_dict(), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


def decode_json(body: bytes, kind: type[T]) -> T:
    """Raises `UnreadableBody`, `InvalidField`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except (ValueError, RecursionError) as error:  # Malformed JSON, not UTF-8, or nested too deep.
        raise UnreadableBody(f"The body is not JSON that can be read: {error}") from error


def check(field: str, value: object, kind: type[T]) -> T:
    """A single value that did not come in a body. Raises `InvalidField`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidField(field, str(error)) from error


def wants_events(request: Request) -> bool:
    """Whether the answer is to be a stream of server-sent events."""
    return sse.CONTENT_TYPE in request.headers.get("Accept", "").lower()


def _check_plain(request: Request) -> None:
    """Nothing is unpacked on the way in: a small body could become a huge one."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType("Send the body without a Content-Encoding.")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("Send the body in UTF-8.")


def _invalid(error: msgspec.ValidationError) -> InvalidField:
    """Turns msgspec's `Expected … - at `$.steps[0].name`` into a field and a message."""
    match = _PLACE.match(str(error))
    if match is None:
        return InvalidField(WHOLE_BODY, str(error))
    what = match["what"]
    # `[...]` is msgspec's word for "some value of this mapping".
    field = (match["path"] or "").replace("[...]", "").lstrip(".")
    if named := _NAMED.search(what):
        field = f"{field}.{named[2]}" if field else named[2]
    if match["key"]:
        what = f"A name in it: {what}"
    return InvalidField(field or WHOLE_BODY, f"{what}.")
