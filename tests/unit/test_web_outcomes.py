"""What a client that waited is told of a job."""

from __future__ import annotations

import base64

import msgspec

from sandbox_runtime.protocol.events import (
    Complete,
    Conclusion,
    Display,
    Error,
    Result,
    Start,
    Stderr,
    Stdout,
    Truncated,
)
from sandbox_runtime.protocol.requests import Encoding
from web.outcomes import CodeOutcome, ExecOutcome
from workers.contract.events import JobEvent

NOW = "2026-01-01T00:00:00.000Z"
LATER = "2026-01-01T00:00:01.250Z"
DONE = Complete(timestamp=LATER, conclusion=Conclusion.SUCCESS, duration_ms=12, exit_code=0)


def of_exec(*events: JobEvent, encoding: Encoding = Encoding.UTF8) -> dict[str, object]:
    outcome = ExecOutcome("j", encoding)
    for event in events:
        outcome.add(event)
    shown: dict[str, object] = msgspec.to_builtins(outcome.result())
    return shown


def test_output_is_joined_and_the_exit_code_is_the_program_s() -> None:
    shown = of_exec(
        Start(timestamp=NOW, command="x"),
        Stdout(timestamp=NOW, data="a"),
        Stderr(timestamp=NOW, data="!"),
        Stdout(timestamp=NOW, data="b"),
        DONE,
    )

    assert shown == {
        "jobId": "j",
        "stdout": "ab",
        "stderr": "!",
        "exitCode": 0,
        "success": True,
        "durationMs": 12,
        "truncated": False,
        "conclusion": "success",
    }


def test_a_job_that_was_cut_off_keeps_what_it_printed_and_has_no_exit_code() -> None:
    shown = of_exec(
        Start(timestamp=NOW, command="x"),
        Stdout(timestamp=NOW, data="half"),
        Error(timestamp=LATER, code="timed_out", error="Too slow.", hint="Raise it."),
    )

    assert (shown["stdout"], shown["exitCode"], shown["success"]) == ("half", None, False)
    assert (shown["conclusion"], shown["durationMs"]) == ("timed_out", 1250)
    assert shown["error"] == {"code": "timed_out", "message": "Too slow.", "hint": "Raise it."}


def test_a_session_that_exited_tells_its_code_beside_the_error() -> None:
    shown = of_exec(Error(timestamp=NOW, code="session_exited", error="It exited.", exit_code=7))

    assert shown["error"] == {"code": "session_exited", "message": "It exited.", "exitCode": 7}
    assert (shown["conclusion"], shown["durationMs"]) == ("error", None)


def test_base64_pieces_become_one_piece() -> None:
    pieces = [b"\xff", b"\x00\x01", b"abcd"]

    shown = of_exec(
        *(Stdout(timestamp=NOW, data=base64.b64encode(piece).decode()) for piece in pieces),
        DONE,
        encoding=Encoding.BASE64,
    )

    assert base64.b64decode(str(shown["stdout"])) == b"".join(pieces)


def test_truncation_and_a_new_shell_are_told() -> None:
    shown = of_exec(
        Start(timestamp=NOW, command="x", session_restarted=True),
        Truncated(timestamp=NOW, stream="stdout", dropped_bytes=9),
        DONE,
    )

    assert (shown["truncated"], shown["sessionRestarted"]) == (True, True)


def test_a_cell_s_results_keep_their_order_and_all_their_forms() -> None:
    outcome = CodeOutcome("j")
    for event in (
        Start(timestamp=NOW, language="python"),
        Stdout(timestamp=NOW, data="a"),
        Result(timestamp=NOW, text="1", html="<b>1</b>"),
        Result(timestamp=NOW, text="2", is_main=True),
        Complete(timestamp=NOW, conclusion=Conclusion.SUCCESS, duration_ms=3, execution_count=4),
    ):
        outcome.add(event)

    shown = msgspec.to_builtins(outcome.result())

    assert shown["logs"] == {"stdout": ["a"], "stderr": []}
    assert [(r["text"], r.get("html"), r.get("isMain", False)) for r in shown["results"]] == [
        ("1", "<b>1</b>", False),
        ("2", None, True),
    ]
    assert (shown["executionCount"], shown["conclusion"]) == (4, "success")


def test_an_update_stands_where_all_that_it_updates_stood() -> None:
    outcome = CodeOutcome("j")

    def show(text: str, *, display_id: str = "a", update: bool = False) -> None:
        outcome.add(Display(timestamp=NOW, text=text, display_id=display_id, update=update))

    show("1")
    show("2", display_id="b")
    show("3")
    show("4", update=True)
    show("5")
    show("6", display_id="b", update=True)
    show("7", display_id="c", update=True)

    assert [one.text for one in outcome.result().results] == ["4", "6", "4", "5", "7"]
