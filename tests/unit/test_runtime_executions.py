"""Executions by id, with a program that is none: how each is started once, ended and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sandbox_runtime.cancellation import Cancellation, cut_off
from sandbox_runtime.executions import (
    ABANDONED_AFTER_S,
    MAX_EXECUTIONS,
    MAX_FORGOTTEN,
    Execution,
    Executions,
)
from sandbox_runtime.journal import Journal
from sandbox_runtime.output import Output
from sandbox_runtime.protocol.codec import LineDecoder
from sandbox_runtime.protocol.errors import (
    ContextUnavailable,
    ExecutionForgotten,
    ExecutionNotFound,
    TooManyExecutions,
)
from sandbox_runtime.protocol.events import Complete, Conclusion, Error, RuntimeEvent, Stream
from sandbox_runtime.protocol.requests import (
    CancelReason,
    CheckoutRequest,
    CodeContext,
    CodeRequest,
    ExecRequest,
)
from sandbox_runtime.questions import Questions

Requests = ExecRequest | CodeRequest | CheckoutRequest

COMPLETE = Complete(timestamp="", conclusion=Conclusion.SUCCESS, duration_ms=0)

REQUEST = ExecRequest(command="x")


class Program:
    """Runs every kind of request by one function."""

    def __init__(self, body: Callable[[Output, Cancellation], Awaitable[Complete | Error]]) -> None:
        self._body = body

    async def run(
        self,
        request: Requests,
        journal: Journal,
        output: Output,
        cancellation: Cancellation,
        questions: Questions | None = None,
        /,
    ) -> Complete | Error:
        return await self._body(output, cancellation)


async def ends_at_once(output: Output, cancellation: Cancellation) -> Complete | Error:
    return COMPLETE


async def runs_until_cut_off(output: Output, cancellation: Cancellation) -> Complete | Error:
    return cut_off(await cancellation.wait())


def executions(
    body: Callable[[Output, Cancellation], Awaitable[Complete | Error]],
    clock: Callable[[], float] = lambda: 0.0,
) -> Executions:
    program = Program(body)
    return Executions(commands=program, code=program, checkouts=program, clock=clock)


async def events(execution: Execution) -> list[RuntimeEvent]:
    decoder = LineDecoder()
    async with asyncio.timeout(5):
        batches = [batch async for batch in execution.journal.read(0)]
    return [n.event for batch in batches for n in decoder.feed(batch.lines)]


def test_an_execution_ends_with_exactly_one_terminal_event_after_its_output() -> None:
    async def prints(output: Output, cancellation: Cancellation) -> Complete:
        output.write(Stream.STDOUT, b"a")
        output.write(Stream.STDOUT, b"b")
        return COMPLETE

    async def scenario() -> list[RuntimeEvent]:
        return await events(executions(prints).start("a", REQUEST))

    *output, end = asyncio.run(scenario())
    assert len(output) == 2
    assert end == COMPLETE


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ValueError("secret"), "runtime_fault"),
        (ContextUnavailable("no kernel"), "context_unavailable"),
    ],
)
def test_a_failure_of_ours_is_an_error_that_tells_the_user_nothing_of_our_inside(
    failure: Exception, code: str
) -> None:
    async def fails(output: Output, cancellation: Cancellation) -> Complete:
        output.write(Stream.STDOUT, b"so far")
        raise failure

    async def scenario() -> RuntimeEvent:
        return (await events(executions(fails).start("a", REQUEST)))[-1]

    end = asyncio.run(scenario())
    assert isinstance(end, Error)
    assert (end.code, "secret" in end.error) == (code, False)


@pytest.mark.parametrize(
    "request_",
    [
        ExecRequest(command="x", timeout_ms=1),
        CodeRequest(code="x", context=CodeContext(id="c"), timeout_ms=1),
        CheckoutRequest(repo_url="u", target_dir="d", timeout_ms=1),
    ],
)
def test_a_time_limit_cuts_every_kind_of_execution_off(request_: Requests) -> None:
    async def scenario() -> RuntimeEvent:
        return (await events(executions(runs_until_cut_off).start("a", request_)))[-1]

    end = asyncio.run(scenario())
    assert isinstance(end, Error)
    assert end.code == "timed_out"


def test_the_first_reason_to_end_stays() -> None:
    async def scenario() -> RuntimeEvent:
        held = executions(runs_until_cut_off)
        execution = held.start("a", REQUEST)
        held.cancel("a", CancelReason.SUPERSEDED)
        held.cancel("a", CancelReason.CANCELLED)
        return (await events(execution))[-1]

    end = asyncio.run(scenario())
    assert isinstance(end, Error)
    assert end.code == "superseded"


def test_closing_ends_all_and_returns_when_each_has_told() -> None:
    async def scenario() -> list[str]:
        held = executions(runs_until_cut_off)
        running = [held.start(str(n), REQUEST) for n in range(3)]
        await asyncio.sleep(0)
        await held.close()
        assert all(execution.journal.ended for execution in running)
        return [end.code for e in running for end in await events(e) if isinstance(end, Error)]

    assert asyncio.run(scenario()) == ["sandbox_lost"] * 3


def test_ids_of_what_was_acknowledged_are_remembered_up_to_a_bound() -> None:
    async def scenario() -> None:
        held = executions(ends_at_once)
        for n in range(MAX_FORGOTTEN + 1):
            await events(held.start(str(n), REQUEST))
            held.acknowledge(str(n), 1)

        with pytest.raises(ExecutionNotFound):
            held.acknowledge("0", 1)
        for call in (lambda: held.start("1", REQUEST), lambda: held.acknowledge("1", 1)):
            with pytest.raises(ExecutionForgotten):
                call()

    asyncio.run(scenario())


def test_a_caller_who_runs_500_a_second_is_not_refused_before_they_are_acknowledged() -> None:
    async def scenario() -> None:
        held = executions(ends_at_once)
        for n in range(500 * 3):
            await events(held.start(str(n), REQUEST))

    asyncio.run(scenario())


def test_too_many_executions_are_refused_until_one_was_abandoned_for_long() -> None:
    now = 0.0

    async def scenario() -> None:
        nonlocal now
        held = executions(ends_at_once, clock=lambda: now)
        for n in range(MAX_EXECUTIONS):
            await events(held.start(str(n), REQUEST))
            now += 0.1
        with pytest.raises(TooManyExecutions):
            held.start("more", REQUEST)

        now = ABANDONED_AFTER_S
        held.start("more", REQUEST)

        with pytest.raises(ExecutionForgotten):
            held.start("0", REQUEST)
        assert "1" in {status.id for status in held.statuses()}

    asyncio.run(scenario())
