"""The values that web and workers agree on."""

from __future__ import annotations

import json
import re
from itertools import combinations

import pytest

from sandbox_runtime.protocol.events import Stdout
from workers.contract.errors import Fault
from workers.contract.events import EventId, decode_event, encode_event, type_of
from workers.contract.jobs import CodeSpec, ExecSpec, line_of, new_id
from workers.contract.settings import Environment, InvalidSettings, store_settings

NOW = "2026-01-01T00:00:00.000Z"


def test_ids_fit_host_names_and_do_not_repeat() -> None:
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(re.fullmatch(r"[a-z2-7]{26}", one) for one in ids)


def test_an_event_on_the_wire_has_its_own_fields_and_the_jobs_id() -> None:
    json_text = encode_event("abc", Stdout(timestamp=NOW, data='a"\n\u2028'))

    assert json.loads(json_text) == {
        "type": "stdout",
        "data": 'a"\n\u2028',
        "timestamp": NOW,
        "jobId": "abc",
    }
    assert b"\n" not in json_text
    assert type_of(decode_event(json_text)) == "stdout"


def test_event_ids_order_by_attempt_and_then_by_number() -> None:
    ordered = [EventId(1, 1), EventId(1, 2), EventId(1, 10), EventId(2, 1)]

    assert all(first < second for first, second in combinations(ordered, 2))
    assert [EventId.parse(str(one)) for one in ordered] == ordered


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "a-b", "1-1-1", "1-1 ", "9" * 40 + "-1"])
def test_what_is_not_an_event_id_is_none(text: str) -> None:
    assert EventId.parse(text) is None


def test_commands_of_one_session_share_a_line_and_programs_wait_for_nobody() -> None:
    shell = line_of("box", ExecSpec(command="a"))

    assert shell == line_of("box", ExecSpec(command="b"))
    assert shell != line_of("box", ExecSpec(command="a", session="other"))
    assert shell != line_of("other", ExecSpec(command="a"))
    assert line_of("box", ExecSpec(argv=["a"])) is None
    assert line_of("box", CodeSpec(code="1", context="default", language="python")) != shell


def test_every_fault_has_a_code_of_its_own() -> None:
    ours = [kind for kind in Fault.__subclasses__() if kind.__module__ == Fault.__module__]
    codes = [kind.code for kind in ours]

    assert len(codes) == len(set(codes))
    assert Fault.code not in codes


def test_all_mistakes_in_the_environment_are_told_at_once() -> None:
    environment = Environment({"COLDFRAME_RETENTION_S": "1", "OTHER": "many", "KIND": "x"})

    store_settings(environment)
    environment.number("OTHER", 1.0)
    environment.choice("KIND", "a", ("a", "b"))
    environment.required("KEY")

    with pytest.raises(InvalidSettings) as raised:
        environment.check()
    for name in ("COLDFRAME_RETENTION_S", "OTHER", "KIND", "KEY"):
        assert name in str(raised.value)
