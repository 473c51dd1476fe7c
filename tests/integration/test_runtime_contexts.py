"""Code contexts that are opened before their first cell, and kernels that are there before them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import msgspec
import pytest

from sandbox_runtime.protocol.codec import encode
from sandbox_runtime.protocol.requests import CodeContext
from tests.running_runtime import RunningRuntime, running_runtime, wait_until


@pytest.fixture(scope="module")
def runtime(python: str) -> Iterator[RunningRuntime]:
    with running_runtime(python) as runtime:
        yield runtime


@pytest.fixture
def http(runtime: RunningRuntime) -> Iterator[httpx.Client]:
    with runtime.http() as http:
        yield http


def opened(http: httpx.Client, context: CodeContext) -> tuple[int, str]:
    answer = http.put(f"/contexts/{context.id}", content=encode(context))
    return answer.status_code, answer.json()["code"] if answer.content else ""


def kernels(runtime: RunningRuntime) -> set[int]:
    found = runtime.as_user("pgrep -u $(id -u) -f 'python_kernel.p[y]' || true")
    return {int(pid) for pid in found.split()}


def pid_of(runtime: RunningRuntime, context: CodeContext) -> int:
    return int(runtime.code("import os; os.getpid()", context).results[0].text or 0)


def test_an_opened_context_has_its_kernel(runtime: RunningRuntime, http: httpx.Client) -> None:
    context = runtime.context("opened")
    before = kernels(runtime)

    assert opened(http, context) == (204, "")
    (kernel,) = kernels(runtime) - before
    assert opened(http, context) == (204, "")

    assert pid_of(runtime, context) == kernel
    runtime.client.end_context(context.id)
    assert kernel not in kernels(runtime)


@pytest.mark.parametrize(
    ("context", "refusal"),
    [
        (CodeContext(id="refused", language="cobol"), (422, "language_unsupported")),
        (CodeContext(id="refused", cwd="/nonexistent"), (409, "context_unavailable")),
    ],
)
def test_a_context_that_cannot_be_opened_is_refused_and_not_there(
    runtime: RunningRuntime, http: httpx.Client, context: CodeContext, refusal: tuple[int, str]
) -> None:
    assert opened(http, context) == refusal

    assert context.id not in runtime.client.ping().contexts


def test_a_kernel_that_is_idle_is_ended_and_the_next_cell_says_so(python: str) -> None:
    with running_runtime(python, COLDFRAME_RUNTIME_KERNEL_IDLE_S="1") as runtime:
        context = runtime.context("idle")
        runtime.code("import time; time.sleep(1.5); x = 1", context)
        assert kernels(runtime)
        wait_until(lambda: not kernels(runtime))
        after = runtime.code("'x' in globals()", context)

    assert after.start.session_restarted
    assert after.results[0].text == "False"


def test_an_interpreter_that_is_missing_is_named() -> None:
    with running_runtime("/nonexistent/python") as runtime, runtime.http() as http:
        answer = http.put("/contexts/c", content=encode(runtime.context("c")))

    assert (answer.status_code, answer.json()["code"]) == (501, "interpreter_missing")
    assert "/nonexistent/python" in answer.json()["message"]


def test_more_contexts_than_there_may_be_are_refused(
    runtime: RunningRuntime, http: httpx.Client
) -> None:
    with ExitStack() as stack:
        refused = (204, "")
        for number in range(40):
            context = runtime.context(f"many-{number}", env={"FEW": "1"})
            refused = opened(http, context)
            if refused != (204, ""):
                break
            stack.callback(runtime.client.end_context, context.id)

    assert refused == (429, "too_many_contexts")


def test_a_text_about_the_end_of_a_kernel_does_not_end_it(runtime: RunningRuntime) -> None:
    context = CodeContext(id="asked", language="python", cwd=str(runtime.workspace))
    runtime.code("x = 5", context)
    runtime.code("exit??", context)

    assert runtime.code("print(x)", context).stdout == "5\n"
    runtime.client.end_context(context.id)


def test_a_context_takes_the_spare_kernel_and_another_one_follows(runtime: RunningRuntime) -> None:
    runtime.client.have_spares(["python"])
    (spare,) = kernels(runtime)
    elsewhere = CodeContext(id="elsewhere", cwd="/usr")

    try:
        assert pid_of(runtime, elsewhere) == spare
        where = runtime.code("print(os.getcwd(), os.environ['PWD'])", elsewhere)
        assert where.stdout.split()[:2] == ["/usr", "/usr"]
        assert where.complete.execution_count == 2
        wait_until(lambda: len(kernels(runtime)) == 2)
    finally:
        runtime.client.have_spares([])
        runtime.client.end_context(elsewhere.id)
    assert kernels(runtime) == set()


def test_a_context_with_variables_of_its_own_does_not_take_the_spare_kernel(
    runtime: RunningRuntime,
) -> None:
    runtime.client.have_spares(["python"])
    (spare,) = kernels(runtime)
    context = runtime.context("own", env={"OWN": "1"})

    assert pid_of(runtime, context) != spare
    assert runtime.code("os.environ['OWN']", context).results[0].text == "'1'"
    assert spare not in kernels(runtime)
    runtime.client.end_context(context.id)


def test_a_spare_kernel_that_has_died_is_nobody_s(runtime: RunningRuntime) -> None:
    runtime.client.have_spares(["python"])
    (spare,) = kernels(runtime)
    runtime.as_user(f"kill -9 {spare}")
    wait_until(lambda: not kernels(runtime))
    runtime.client.ping()
    context = runtime.context("after")

    assert pid_of(runtime, context) != spare
    runtime.client.have_spares([])
    runtime.client.end_context(context.id)


def test_contexts_that_begin_at_once_do_not_share_a_spare_kernel(runtime: RunningRuntime) -> None:
    runtime.client.have_spares(["python"])
    contexts = [runtime.context(f"at-once-{number}") for number in range(3)]

    with ThreadPoolExecutor(3) as pool:
        pids = list(pool.map(lambda context: pid_of(runtime, context), contexts))

    assert len(set(pids)) == 3
    runtime.client.have_spares([])
    for context in contexts:
        runtime.client.end_context(context.id)


@pytest.fixture(scope="module")
def with_spec(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRuntime]:
    """A runtime whose Python has a kernel spec beside it, and one that is none."""
    prefix = tmp_path_factory.mktemp("prefix")
    prefix.chmod(0o755)
    for parent in prefix.parents[:2]:
        parent.chmod(0o755)
    (prefix / "bin").mkdir()
    (prefix / "bin/python").symlink_to(python)
    spec = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Another Python",
        "language": "Parsel",
        "env": {"SAID_BY_SPEC": "yes"},
    }
    specs = prefix / "share/jupyter/kernels"
    for name, text in (("snake", json.dumps(spec)), ("broken", '{"argv": 5}')):
        (specs / name).mkdir(parents=True)
        (specs / name / "kernel.json").write_text(text)
    with running_runtime(str(prefix / "bin/python")) as runtime:
        yield runtime


@pytest.mark.parametrize("name", ["parsel", "snake"])
def test_a_kernel_spec_is_a_language(with_spec: RunningRuntime, name: str) -> None:
    context = CodeContext(id=name, language=name, cwd=str(with_spec.workspace), env={"A": "1"})

    run = with_spec.code("import os; os.environ['SAID_BY_SPEC'], os.environ['A'], 6 * 7", context)
    many = with_spec.code("for n in range(20_000): print(n)", context)
    asked = with_spec.code("while True: pass", context, timeout_ms=1000)

    assert run.start.language == name
    assert run.results[0].text == "('yes', '1', 42)"
    assert many.stdout.split() == [str(number) for number in range(20_000)]
    assert asked.error.code == "timed_out"
    assert with_spec.code("1", context).start.session_restarted is False


def test_a_spare_kernel_that_cannot_be_told_to_go_elsewhere_is_not_taken_there(
    with_spec: RunningRuntime,
) -> None:
    with_spec.client.have_spares(["parsel"])
    there = CodeContext(id="there", language="parsel", cwd="/")
    here = CodeContext(id="here", language="parsel", cwd=str(with_spec.workspace))

    assert with_spec.code("import os; os.getcwd()", there).results[0].text == "'/'"
    assert with_spec.code("import os; os.getcwd()", here).results[0].text == repr(
        str(with_spec.workspace)
    )
    with_spec.client.have_spares([])
    for context in (here, there):
        with_spec.client.end_context(context.id)


def test_a_kernel_that_is_started_anew_has_the_variables_of_now(with_spec: RunningRuntime) -> None:
    context = CodeContext(
        id="anew", language="parsel", cwd=str(with_spec.workspace), env={"A": "1"}
    )
    with_spec.code("1", context)
    with_spec.code("import os; os._exit(0)", context)
    changed = msgspec.structs.replace(context, env={"A": "2"})

    assert with_spec.code("import os; os.environ['A']", changed).results[0].text == "'2'"
    with_spec.client.end_context(context.id)


def test_a_language_that_no_spec_has_is_refused_with_those_that_are_there(
    with_spec: RunningRuntime,
) -> None:
    run = with_spec.code("1", CodeContext(id="broken", language="broken"))

    assert run.error.code == "language_unsupported"
    assert "parsel" in run.error.error


def test_kernels_log_what_they_like(with_spec: RunningRuntime) -> None:
    context = CodeContext(id="loud", language="parsel", cwd=str(with_spec.workspace))

    run = with_spec.code("import sys; sys.__stderr__.write('x' * 1_000_000); 'on'", context)

    assert run.results[0].text == "'on'"
