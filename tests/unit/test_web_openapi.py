"""The OpenAPI document against the routes that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from web.app import close_app, create_app
from web.settings import Settings

KEY = {"X-API-Key": "k"}


@pytest.fixture(scope="module")
def app() -> Iterator[Flask]:
    app = create_app(Settings.from_env({"COLDFRAME_API_KEY": "k"}))
    yield app
    close_app(app)


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    answer = app.test_client().get("/v1/openapi.json", headers=KEY)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


def routes(app: Flask) -> set[tuple[str, str]]:
    """Method and path of every route; HEAD comes with GET."""
    return {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }


def test_the_document_describes_exactly_the_routes_that_there_are(
    app: Flask, document: dict[str, Any]
) -> None:
    described = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }

    assert described == routes(app)


def test_the_documentation_names_every_route(app: Flask, repository: Path) -> None:
    text = (repository / "docs" / "protocol.md").read_text()

    missing = [route for route in sorted(routes(app)) if f"| {route[0]} | `{route[1]}`" not in text]
    assert missing == []


def test_every_operation_has_a_name_of_its_own_a_summary_and_answers(
    document: dict[str, Any],
) -> None:
    operations = [one for item in document["paths"].values() for one in item.values()]

    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["summary"] and one["responses"] for one in operations)


def test_everything_that_the_document_refers_to_is_in_it(document: dict[str, Any]) -> None:
    def references(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(target := part.get("$ref"), str):
                yield target
            for value in part.values():
                yield from references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


def test_every_parameter_of_a_path_is_described(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


def test_the_bounds_of_a_field_are_in_its_schema(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ExecRequest"]

    assert schema["properties"]["timeoutMs"]["maximum"] == 24 * 3600 * 1000
    assert schema["additionalProperties"] is False
