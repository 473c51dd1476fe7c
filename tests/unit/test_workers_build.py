"""How a build's executions become its steps."""

from __future__ import annotations

from contextlib import closing

import pytest

from sandbox_runtime.protocol.events import (
    Complete,
    Conclusion,
    Error,
    Progress,
    RuntimeEvent,
    Start,
    Stderr,
    Stdout,
    Truncated,
)
from workers.contract.events import Step
from workers.contract.jobs import (
    BuildSpec,
    BuildStep,
    Job,
    JobKind,
    StepRecord,
    StepStatus,
    new_id,
)
from workers.held import HeldJob, HeldJobs
from workers.run_build import CHECKOUT, Build, translation

NOW = "2026-01-01T00:00:00.000Z"


def job(**fields: object) -> Job:
    spec = BuildSpec(
        repo_url="https://example.org/a.git",
        steps=[BuildStep(name="one", commands=["true"]), BuildStep(name="two", commands=["true"])],
    )
    values = {"id": new_id(), "kind": JobKind.BUILD, "owner": "ann", "spec": spec}
    return Job(**{**values, "created_at": NOW, "started_at": NOW, **fields})  # type: ignore[arg-type]


def build(**fields: object) -> Build:
    one = job(**fields)
    assert isinstance(one.spec, BuildSpec)
    return Build(HeldJob(one), one.spec)


@pytest.mark.parametrize(
    "event",
    [
        Stdout(timestamp=NOW, data="x"),
        Stderr(timestamp=NOW, data="x"),
        Progress(timestamp=NOW, phase="x"),
        Truncated(timestamp=NOW, stream="stdout", dropped_bytes=1),
    ],
)
def test_what_a_step_prints_carries_its_name(event: RuntimeEvent) -> None:
    told = translation("one")(event)

    assert getattr(told, "step") == "one"  # noqa: B009 - not every event has it


def test_the_start_and_the_end_of_an_execution_are_those_of_its_step() -> None:
    translate = translation("one")
    complete = Complete(timestamp=NOW, conclusion=Conclusion.FAILURE, exit_code=3, duration_ms=5)

    told = [translate(Start(timestamp=NOW, command="x")), translate(complete)]

    assert told == [
        Step(timestamp=NOW, name="one", status=StepStatus.RUNNING),
        Step(
            timestamp=NOW,
            name="one",
            status=StepStatus.COMPLETED,
            conclusion=Conclusion.FAILURE,
            exit_code=3,
            duration_ms=5,
        ),
    ]


def test_an_execution_that_was_cut_off_ends_its_step_and_not_the_build() -> None:
    told = translation("one")(Error(timestamp=NOW, code="timed_out", error="late"))

    assert isinstance(told, Step)
    assert told.conclusion is Conclusion.TIMED_OUT


def test_a_new_build_has_not_begun_any_step() -> None:
    fresh = build()

    assert [step.name for step in fresh.steps] == [CHECKOUT, "one", "two"]
    assert fresh.end_of(CHECKOUT) is None
    assert fresh.commit is None


def test_a_build_that_is_taken_over_knows_how_its_steps_ended() -> None:
    done = StepStatus.COMPLETED
    taken_over = build(
        steps=[
            StepRecord(name=CHECKOUT, status=done, conclusion=Conclusion.SUCCESS, commit="abc"),
            StepRecord(name="one", status=done, conclusion=Conclusion.FAILURE, exit_code=2),
            StepRecord(name="two"),
        ]
    )

    end = taken_over.end_of("one")

    assert taken_over.commit == "abc"
    assert isinstance(end, Complete)
    assert (end.conclusion, end.exit_code) == (Conclusion.FAILURE, 2)
    assert taken_over.end_of("two") is None


def test_steps_that_never_started_are_skipped_at_the_end() -> None:
    one = build()
    one.note("one", StepRecord(name="one", status=StepStatus.COMPLETED))

    one.skip_what_is_left()

    assert [step.status for step in one.steps] == [
        StepStatus.SKIPPED,
        StepStatus.COMPLETED,
        StepStatus.SKIPPED,
    ]


def test_a_job_has_one_thread_at_a_time_which_gets_a_turn_more_for_a_nudge_meanwhile() -> None:
    held = HeldJobs()
    others = []

    turns = 0
    for _ in held.turns("a"):
        turns += 1
        if turns == 1:
            others = list(held.turns("a"))

    assert (turns, others) == (2, [])
    assert len(list(held.turns("a"))) == 1


def test_a_job_whose_turn_ends_in_an_error_can_be_run_again() -> None:
    held = HeldJobs()

    with closing(held.turns("a")) as turns:
        next(turns)

    assert len(list(held.turns("a"))) == 1


def test_no_job_gets_a_turn_after_the_stop() -> None:
    held = HeldJobs()

    held.release_all()

    assert list(held.turns("a")) == []


def test_a_job_that_is_held_when_the_worker_stops_is_let_go() -> None:
    held = HeldJobs()

    with held.holding(job()) as one:
        held.release_all()
        assert one.let_go
    assert len(held) == 0
