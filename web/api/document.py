"""The route of the OpenAPI document."""

from __future__ import annotations

import msgspec
from flask import Response

from web.openapi import document
from web.operations import Operation
from web.requests import JSON_TYPE


class DocumentRoutes:
    """The API, described for machines."""

    def __init__(self, *, version: str) -> None:
        self._version = version
        self._document = b""

    def operations(self) -> list[Operation]:
        return [Operation("GET", "/v1/openapi.json", self.get, {200: None})]

    def describe(self, operations: list[Operation]) -> None:
        """To be called once, with all routes that there are."""
        self._document = msgspec.json.encode(document(operations, version=self._version))

    def get(self) -> Response:
        """This document."""
        return Response(self._document, mimetype=JSON_TYPE)
