"""The table from error class to HTTP status, and the bodies of errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sandbox_runtime.protocol.errors import FAULTS, FileFault, GitFault
from web.errors import ROWS, InvalidField, RequestFault, answer_of, internal_error, row_of
from workers.contract.errors import Fault, NoNode


def all_faults(root: type[Fault] = Fault) -> Iterator[type[Fault]]:
    yield root
    for kind in root.__subclasses__():
        yield from all_faults(kind)


def test_every_error_of_the_platform_has_a_row() -> None:
    missing = [fault.__name__ for fault in all_faults() if fault not in ROWS]

    assert missing == []


def test_every_code_is_told_by_one_class_alone() -> None:
    codes = [fault.code for fault in all_faults() if fault is not RequestFault]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("fault", list(ROWS), ids=lambda fault: fault.__name__)
def test_a_retry_is_asked_for_exactly_where_it_can_help(fault: type[Fault]) -> None:
    row = ROWS[fault]

    assert (row.retry_after_s is not None) == (row.status in (429, 503))


def test_every_code_and_its_status_are_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "protocol.md").read_text()

    rows = [(f.code, row.status) for f, row in ROWS.items() if f is not RequestFault]
    assert [row for row in rows if f"| `{row[0]}` | {row[1]} |" not in text] == []


def test_every_reason_of_a_files_is_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "protocol.md").read_text()

    rows = [(f.code, f.http_status) for f in FAULTS.values() if issubclass(f, FileFault)]
    assert [row for row in rows if f"| `{row[0]}` | {row[1]} |" not in text] == []


def test_every_reason_of_gits_is_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "protocol.md").read_text()

    rows = [(f.code, f.http_status) for f in FAULTS.values() if issubclass(f, GitFault)]
    assert [row for row in rows if f"| `{row[0]}` | {row[1]} |" not in text] == []


def test_an_error_body_names_code_message_field_and_request() -> None:
    body = msgspec.to_builtins(answer_of(InvalidField("timeoutMs", "Too long."), "r-1"))

    assert body == {
        "error": {
            "code": "invalid_field",
            "message": "Too long.",
            "details": {"field": "timeoutMs"},
            "requestId": "r-1",
        }
    }


def test_a_hint_is_given_where_the_error_has_one() -> None:
    body = answer_of(NoNode("No worker is running."), "r-1")

    assert body.error.hint == NoNode.hint


def test_a_mistake_of_ours_says_nothing_of_itself() -> None:
    fault = internal_error()

    assert (fault.code, row_of(fault).status) == ("internal_error", 500)
