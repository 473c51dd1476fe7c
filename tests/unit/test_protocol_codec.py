"""The runtime's wire form: bytes to events and back, whatever the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_runtime.protocol import codec
from sandbox_runtime.protocol.errors import (
    FAULTS,
    ErrorBody,
    InvalidRequest,
    RuntimeFault,
    RuntimeUnreachable,
    SandboxRestarted,
    fault_from,
)
from sandbox_runtime.protocol.events import (
    Complete,
    Conclusion,
    Error,
    Numbered,
    Stdout,
    conclusion_of,
)
from sandbox_runtime.protocol.requests import ExecRequest

NOW = "2026-01-01T00:00:00.000Z"


@given(
    texts=st.lists(st.text(), max_size=20),
    cuts=st.lists(st.integers(min_value=1, max_value=50), max_size=50),
)
def test_events_survive_any_cutting_of_the_byte_stream(texts: list[str], cuts: list[int]) -> None:
    sent = [Numbered(n, Stdout(timestamp=NOW, data=text)) for n, text in enumerate(texts, 1)]
    wire = b"\n".join(codec.encode_line(event) for event in sent)  # With heartbeats between.
    decoder = codec.LineDecoder()

    received: list[Numbered] = []
    for cut in [*cuts, len(wire)]:
        received += decoder.feed(wire[:cut])
        wire = wire[cut:]

    assert received == sent


def test_an_event_over_the_limit_is_refused_before_it_is_complete() -> None:
    decoder = codec.LineDecoder(limit_bytes=100)

    with pytest.raises(RuntimeUnreachable, match="longer than 100"):
        decoder.feed(b"x" * 101)


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b'{"n": 1}', b'{"n": "1", "event": {}}', b"\xff", b'{"n":1,"event":1}']
)
def test_what_is_not_an_event_did_not_come_from_the_runtime(line: bytes) -> None:
    with pytest.raises(RuntimeUnreachable):
        codec.LineDecoder().feed(line + b"\n")


def test_a_request_comes_back_as_it_was_sent() -> None:
    request = ExecRequest(command="echo hi", env={"A": None, "B": "b"}, timeout_ms=5)

    assert codec.decode_request(codec.encode(request)) == request


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"kind": "fly"}',
        b'{"kind": "exec", "unknown": 1}',
        b'{"kind": "exec", "timeoutMs": -1}',
    ],
)
def test_a_request_that_cannot_be_read_is_invalid(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        codec.decode_request(body)


@pytest.mark.parametrize("execution_id", ["", ".", "a/b", "a b", "x" * 129, "é", "-a"])
def test_an_execution_id_that_is_no_plain_word_is_invalid(execution_id: str) -> None:
    with pytest.raises(InvalidRequest):
        codec.check_execution_id(execution_id)


def test_every_fault_has_a_code_of_its_own_and_comes_back_from_its_body() -> None:
    def below(kind: type[RuntimeFault]) -> set[type[RuntimeFault]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    assert below(RuntimeFault) - {RuntimeFault} == set(FAULTS.values())
    for kind in FAULTS.values():
        assert type(fault_from(kind("why").body())) is kind


def test_an_unknown_error_code_is_a_plain_fault() -> None:
    assert type(fault_from(ErrorBody(code="new", message="x"))) is RuntimeFault


def test_an_answer_without_an_error_body_is_nobodys() -> None:
    assert isinstance(codec.decode_fault(502, b"<html>"), RuntimeUnreachable)
    body = codec.encode(SandboxRestarted("again").body())
    assert isinstance(codec.decode_fault(409, body), SandboxRestarted)


@pytest.mark.parametrize(
    ("code", "conclusion"),
    [
        ("cancelled", Conclusion.CANCELLED),
        ("sandbox_removed", Conclusion.CANCELLED),
        ("timed_out", Conclusion.TIMED_OUT),
        ("kernel_died", Conclusion.ERROR),
    ],
)
def test_an_error_event_concludes_by_its_code(code: str, conclusion: Conclusion) -> None:
    assert conclusion_of(Error(timestamp=NOW, code=code, error="why")) is conclusion


def test_a_complete_event_says_its_conclusion_itself() -> None:
    complete = Complete(timestamp=NOW, conclusion=Conclusion.FAILURE, duration_ms=1, exit_code=2)

    assert conclusion_of(complete) is Conclusion.FAILURE
