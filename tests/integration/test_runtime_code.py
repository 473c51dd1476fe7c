"""Code contexts, as the workers use them: cells in real kernels, over the runtime's socket."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from sandbox_runtime.protocol.events import Conclusion, RuntimeEvent, Stdout, Truncated
from sandbox_runtime.protocol.requests import (
    CancelReason,
    CodeContext,
    CodeRequest,
    ExecutionStatus,
)
from tests.running_runtime import (
    IS_ROOT,
    RunningRuntime,
    running_runtime,
    wait_until,
)

MEMORY_MARGIN_MB = 12
"""What reading a long output may cost, whatever its length."""


@pytest.fixture(scope="module")
def runtime(python: str) -> Iterator[RunningRuntime]:
    with running_runtime(python) as runtime:
        yield runtime


@pytest.fixture
def context(runtime: RunningRuntime, request: pytest.FixtureRequest) -> Iterator[CodeContext]:
    """A context of the test's own."""
    context = runtime.context(request.node.name)
    yield context
    runtime.client.end_context(context.id)


def test_a_variable_is_there_in_the_next_cell(runtime: RunningRuntime) -> None:
    runtime.code("x = 41")

    run = runtime.code("x + 1")

    assert [(result.text, result.is_main) for result in run.results] == [("42", True)]
    assert run.start.language == "python"
    assert run.complete.conclusion is Conclusion.SUCCESS


def test_two_contexts_share_no_names(runtime: RunningRuntime, context: CodeContext) -> None:
    runtime.code("mine = 1")

    run = runtime.code("mine", context)

    assert run.exception.name == "NameError"


def test_cells_sent_together_run_one_after_another(runtime: RunningRuntime) -> None:
    runtime.code("counter = 0")

    with ThreadPoolExecutor(5) as pool:
        runs = list(pool.map(lambda _: runtime.code("counter += 1; counter"), range(5)))

    assert sorted(run.results[0].text or "" for run in runs) == ["1", "2", "3", "4", "5"]


def test_contexts_start_and_run_side_by_side(runtime: RunningRuntime) -> None:
    contexts = [runtime.context(f"parallel-{number}") for number in range(4)]
    barrier = runtime.workspace / "arrived"
    cell = f"""
import os, time
open({str(barrier)!r} + str(os.getpid()), "w").close()
while sum(name.startswith("arrived") for name in os.listdir({str(runtime.workspace)!r})) < 4:
    time.sleep(0.02)
"""

    with ThreadPoolExecutor(4) as pool:
        runs = list(
            pool.map(lambda context: runtime.code(cell, context, timeout_ms=30_000), contexts)
        )

    for context in contexts:
        runtime.client.end_context(context.id)
    assert [run.complete.conclusion for run in runs] == [Conclusion.SUCCESS] * 4


def test_prints_are_told_when_they_are_made(runtime: RunningRuntime) -> None:
    arrived: list[float] = []

    def note(event: RuntimeEvent) -> None:
        if isinstance(event, Stdout):
            arrived.append(time.monotonic())

    code = "import time\nfor i in range(3): print(i); time.sleep(0.4)"
    context = runtime.context("shared")
    runtime.run(CodeRequest(code=code, context=context), on_event=note)

    assert len(arrived) == 3
    assert arrived[1] - arrived[0] > 0.2
    assert arrived[2] - arrived[1] > 0.2


def test_a_value_is_a_result_and_is_not_printed(runtime: RunningRuntime) -> None:
    run = runtime.code("1 + 1")

    assert run.stdout == ""
    assert [result.text for result in run.results] == ["2"]


def test_a_value_before_a_semicolon_is_no_result(runtime: RunningRuntime) -> None:
    assert runtime.code("5;").results == []


def test_what_was_printed_before_a_result_is_told_before_it(runtime: RunningRuntime) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); display(1); print('more'); 2"

    run = runtime.code(code)

    told = [type(event).__name__ for event in run.events]
    assert told == ["Start", "Stdout", "Stderr", "Result", "Stdout", "Result", "Complete"]


def test_a_syntax_error_is_an_exception(runtime: RunningRuntime) -> None:
    run = runtime.code("x = (")

    assert run.exception.name == "SyntaxError"
    assert run.complete.conclusion is Conclusion.FAILURE


def test_an_exception_is_told_once_and_leaves_the_context_alive(runtime: RunningRuntime) -> None:
    run = runtime.code("before = 1\nprint('printed')\nraise ValueError('wrong')")

    assert (run.exception.name, run.exception.value) == ("ValueError", "wrong")
    assert run.stdout == "printed\n"
    assert runtime.code("before").results[0].text == "1"


def test_a_traceback_shows_the_cell_and_nothing_of_ours(runtime: RunningRuntime) -> None:
    traceback = runtime.code("def f():\n    return 1 / 0\nf()").exception.traceback

    assert "return 1 / 0" in traceback
    assert "\x1b" not in traceback
    assert "sandbox_runtime" not in traceback
    assert "kernel.py" not in traceback


@pytest.mark.parametrize("value", ["{'a': {1, 2}}", "[float('nan')]", "[float('inf')]"])
def test_a_value_that_is_no_json_is_told_as_text(runtime: RunningRuntime, value: str) -> None:
    (result,) = runtime.code(value).results

    assert result.text == str(eval(value))


def test_what_child_processes_and_descriptors_print_is_captured(runtime: RunningRuntime) -> None:
    code = """
import os, subprocess
subprocess.run(["echo", "run"])
os.system("echo system; echo oops >&2")
os.write(1, b"write\\n");
"""
    run = runtime.code(code)

    assert sorted(run.stdout.split()) == ["run", "system", "write"]
    assert run.stderr == "oops\n"


def test_what_a_child_printed_is_told_before_the_cell_ends(runtime: RunningRuntime) -> None:
    runtime.code("import os")
    outputs = [runtime.code(f"os.system('echo {number}');").stdout for number in range(30)]

    assert outputs == [f"{number}\n" for number in range(30)]


def test_a_childs_characters_are_not_cut_in_two(runtime: RunningRuntime) -> None:
    run = runtime.code("os.system('yes äö€ | head -c 800000');")

    assert run.stdout == "äö€\n" * 100_000


def test_input_is_refused_at_once(runtime: RunningRuntime) -> None:
    run = runtime.code("input()", timeout_ms=5_000)

    assert run.exception.name == "StdinNotImplementedError"


def test_a_kernel_that_is_killed_is_told_at_once_and_replaced(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    run = runtime.code("x = 1\nimport os; os.kill(os.getpid(), 9)", context, timeout_ms=60_000)

    after = runtime.code("'x' in globals()", context)

    assert run.error.code == "kernel_died"
    assert "SIGKILL" in run.error.error
    assert after.start.session_restarted
    assert after.results[0].text == "False"
    assert not runtime.code("1", context).start.session_restarted


def test_the_exit_code_of_a_kernel_that_exits_is_told(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    run = runtime.code("import os; os._exit(5)", context)

    assert run.error.code == "kernel_died"
    assert "exited with code 5" in run.error.error


def test_a_kernel_that_died_between_cells_is_replaced(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    pid = int(runtime.code("import os; os.getpid()", context).results[0].text or "")
    os.kill(pid, 9)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())

    run = runtime.code("1", context)

    assert run.start.session_restarted
    assert run.complete.conclusion is Conclusion.SUCCESS


def test_sys_exit_is_an_exception_and_the_context_lives(runtime: RunningRuntime) -> None:
    runtime.code("kept = 3")

    run = runtime.code("import sys; sys.exit(3)")

    assert (run.exception.name, run.exception.value) == ("SystemExit", "3")
    assert run.stderr == ""
    assert runtime.code("kept").results[0].text == "3"


def test_exit_ends_the_kernel_and_the_next_cell_has_a_fresh_one(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    assert runtime.code("x = 1; exit()", context).complete.conclusion is Conclusion.SUCCESS

    assert runtime.code("1", context).start.session_restarted


def test_a_data_frame_is_one_result_as_text_and_html(runtime: RunningRuntime) -> None:
    (result,) = runtime.code("import pandas; pandas.DataFrame({'a': [1]})").results

    assert "<table" in (result.html or "")
    assert "a" in (result.text or "")


@pytest.mark.parametrize("show", ["", "\nplt.show()"])
def test_a_figure_is_one_picture_shown_or_not(runtime: RunningRuntime, show: str) -> None:
    run = runtime.code(f"import matplotlib.pyplot as plt\nplt.plot([1, 2]);{show}")

    (result,) = [result for result in run.results if result.png]
    assert (result.png or "").startswith("iVBOR")


def test_each_display_is_a_result_in_its_mime_types(runtime: RunningRuntime) -> None:
    code = """
from IPython.display import *
display(HTML("<b>x</b>"), Markdown("*m*"), Latex("$x$"), JSON({"a": [1, None]}), Javascript("1"))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg"/>'))
"""
    html, markdown, latex, json, javascript, svg = runtime.code(code).results

    assert html.html == "<b>x</b>"
    assert markdown.markdown == "*m*"
    assert latex.latex == "$x$"
    assert isinstance(json.json, msgspec.Raw)
    assert msgspec.json.decode(json.json) == {"a": [1, None]}
    assert javascript.javascript == "1"
    assert (svg.svg or "").startswith("<svg")
    assert not any(result.is_main for result in (html, markdown, latex, json, javascript, svg))


def test_a_context_has_its_directory_and_environment(runtime: RunningRuntime) -> None:
    runtime.as_user("mkdir -p inside")
    cwd = str(runtime.workspace / "inside")
    context = CodeContext(id="placed", cwd=cwd, env={"GREETING": "a b'c\"d"})

    run = runtime.code("import os; print(os.getcwd()); print(os.environ['GREETING'])", context)

    assert run.stdout == f"{cwd}\na b'c\"d\n"


def test_a_cell_that_times_out_is_interrupted_and_keeps_its_variables(
    runtime: RunningRuntime,
) -> None:
    code = "kept = 7\nprint('printed')\nimport time\ntime.sleep(30)"

    run = runtime.code(code, timeout_ms=700)

    assert run.error.code == "timed_out"
    assert run.stdout == "printed\n"
    after = runtime.code("kept")
    assert after.results[0].text == "7"
    assert not after.start.session_restarted


def test_a_busy_loop_is_cancelled(runtime: RunningRuntime, context: CodeContext) -> None:
    runtime.code("1", context)
    execution_id = runtime.new_id()
    timer = threading.Timer(0.5, runtime.client.cancel, (execution_id, CancelReason.CANCELLED))
    timer.start()

    request = CodeRequest(code="while True: pass", context=context)
    run = runtime.run(request, execution_id=execution_id)

    assert run.error.code == "cancelled"
    assert not runtime.code("1", context).start.session_restarted


def test_what_a_cell_waits_for_is_ended_with_it(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    code = "import os; os.system('sleep 4711')"

    run = runtime.code(code, context, timeout_ms=1_500)

    assert run.error.code == "timed_out"
    assert run.results == []
    assert "4711" not in runtime.as_user("ps -eo args | grep '[s]leep' || true")


def test_a_cell_that_ignores_the_interrupt_loses_its_kernel(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    runtime.code("1", context)  # The kernel's start must not use up the time.

    run = runtime.code(code, context, timeout_ms=1_500)

    assert run.error.code == "timed_out"
    assert runtime.code("1", context).start.session_restarted


def test_a_cell_that_waits_for_its_turn_can_be_cancelled(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    first, second = runtime.new_id(), runtime.new_id()
    slow = CodeRequest(code="import time; time.sleep(2)", context=context)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runtime.run, slow, execution_id=first)
        wait_until(lambda: any(status.id == first for status in runtime.client.executions()))
        threading.Timer(0.3, runtime.client.cancel, (second, CancelReason.SUPERSEDED)).start()

        waiting = runtime.run(CodeRequest(code="1", context=context), execution_id=second)

        assert not running.done()
        assert [type(event).__name__ for event in waiting.events] == ["Error"]
        assert waiting.error.code == "superseded"
        assert running.result().complete.conclusion is Conclusion.SUCCESS


def test_a_deleted_context_ends_its_cell_and_all_that_it_started(runtime: RunningRuntime) -> None:
    context = runtime.context("doomed")
    runtime.code(
        "import subprocess; subprocess.Popen(['sleep', '4712'], start_new_session=True);", context
    )
    with ThreadPoolExecutor(1) as pool:
        request = CodeRequest(code="import time; time.sleep(30)", context=context)
        running = pool.submit(runtime.run, request)
        wait_until(lambda: any(status.running for status in runtime.client.executions()))

        runtime.client.end_context(context.id)

        assert running.result(10).error.code == "context_deleted"
    assert context.id not in runtime.client.ping().contexts
    if IS_ROOT:  # Without cgroups, a session of its own is found by its parent, which is gone.
        assert "4712" not in runtime.as_user("ps -eo args | grep '[s]leep' || true")


def test_a_deleted_context_leaves_nothing_in_the_scratch(runtime: RunningRuntime) -> None:
    before = set(runtime.scratch.iterdir())
    context = runtime.context("traceless")
    runtime.code("1", context)
    assert set(runtime.scratch.iterdir()) > before

    runtime.client.end_context(context.id)

    assert set(runtime.scratch.iterdir()) == before


def test_each_cell_counts(runtime: RunningRuntime, context: CodeContext) -> None:
    counts = [runtime.code(code, context).complete.execution_count for code in ("1", "1/0", "2")]

    assert counts == [1, 2, 3]


def test_a_language_without_interpreter_is_named(runtime: RunningRuntime) -> None:
    run = runtime.code("1", CodeContext(id="old", language="cobol"))

    assert run.error.code == "language_unsupported"
    assert "cobol" in run.error.error
    assert "old" not in runtime.client.ping().contexts


@pytest.mark.parametrize("program", ["/nonexistent/python", "/bin/false"])
def test_an_interpreter_that_is_not_there_is_told(program: str) -> None:
    with running_runtime(program) as runtime:
        run = runtime.code("1")

    expected = "interpreter_missing" if "nonexistent" in program else "context_unavailable"
    assert run.error.code == expected
    assert run.error.hint


def test_an_interpreter_without_ipykernel_is_told() -> None:
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import ipykernel"], capture_output=True).returncode == 0:
        pytest.skip(f"NOT TESTED: {python} has ipykernel")

    with running_runtime(python) as runtime:
        run = runtime.code("1")

    assert run.error.code == "interpreter_missing"
    assert "No module named" in run.error.error
    assert "ipykernel" in run.error.hint


def test_a_directory_that_is_not_there_is_told(runtime: RunningRuntime) -> None:
    run = runtime.code("1", CodeContext(id="nowhere", cwd="/nonexistent"))

    assert run.error.code == "context_unavailable"
    assert "/nonexistent" in run.error.error


def test_three_million_characters_arrive_intact(runtime: RunningRuntime) -> None:
    run = runtime.code("print('x' * 3_000_000)")

    assert run.stdout == "x" * 3_000_000 + "\n"


def test_a_million_lines_arrive_in_constant_memory(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    runtime.code("1", context)
    before_mb = runtime.rss_mb()

    run = runtime.code(
        "for i in range(1_000_000): print(i)", context, output_limit_bytes=32 * 1024 * 1024
    )

    lines = run.stdout.splitlines()
    assert (len(lines), lines[-1]) == (1_000_000, "999999")
    assert runtime.rss_mb() - before_mb < MEMORY_MARGIN_MB


def test_output_over_the_cap_is_cut_and_the_cell_goes_on(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    code = "for i in range(50): print('y' * 1_000_000)\ndone = True"

    run = runtime.code(code, context, output_limit_bytes=100_000)

    assert run.stdout == "y" * 100_000
    assert run.only(Truncated).dropped_bytes == 50 * 1_000_001 - 100_000
    assert runtime.code("done", context).results[0].text == "True"


def test_a_cell_waits_for_a_reader_that_does_not_acknowledge(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    code = "import time\nfor i in range(200): print('z' * 1_000_000)\nprint(time.time())"
    request = CodeRequest(code=code, context=context, output_limit_bytes=256 * 1024 * 1024)
    execution_id = runtime.new_id()
    with runtime.client.execution(execution_id, request, boot_id=None):
        wait_until(lambda: _is_stuck(runtime, execution_id), timeout_s=30)
    stuck_at = time.time()
    last_n = _status(runtime, execution_id).last_n
    runtime.client.acknowledge({execution_id: last_n})

    run = runtime.run(request, execution_id=execution_id, after=last_n)

    assert run.complete.conclusion is Conclusion.SUCCESS
    assert float(run.stdout.splitlines()[-1]) > stuck_at


def test_a_cell_that_waits_for_its_reader_can_be_cancelled(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    request = CodeRequest(
        code="while True: print('z' * 1_000_000)",
        context=context,
        output_limit_bytes=128 * 1024 * 1024,
    )
    execution_id = runtime.new_id()
    with runtime.client.execution(execution_id, request, boot_id=None):
        wait_until(lambda: _is_stuck(runtime, execution_id), timeout_s=30)

    runtime.client.cancel(execution_id, CancelReason.CANCELLED)

    wait_until(lambda: not _status(runtime, execution_id).running)
    assert not runtime.code("1", context).start.session_restarted


def test_a_value_that_is_too_large_is_left_out_and_said_to_be(runtime: RunningRuntime) -> None:
    code = "display({'image/png': 'A' * 11_000_000, 'text/plain': 'picture'}, raw=True)"

    (result,) = runtime.code(code).results

    assert result.png is None
    assert (result.text or "").startswith("picture\n[image/png of 11,000,0")


def test_results_over_the_output_limit_are_left_out(runtime: RunningRuntime) -> None:
    code = "for i in range(10): display({'text/html': 'h' * 300_000}, raw=True)"

    results = runtime.code(code, output_limit_bytes=1_000_000).results

    assert [len(result.html or "") for result in results] == [300_000] * 3 + [0]
    assert "left out" in (results[-1].text or "")


def test_text_that_is_no_unicode_is_told_with_replacements(runtime: RunningRuntime) -> None:
    run = runtime.code("print('\\ud800 x'); '\\ud83d\\ude00'")

    assert run.complete.conclusion is Conclusion.SUCCESS
    assert run.stdout == "\ufffd x\n"


FORGERY = """
kernel = get_ipython().kernel
publish, session, parent = kernel.iopub_thread, kernel.session, kernel.get_parent()["header"]
def forge(kind, content, parent=parent):
    header = {**session.msg(kind)["header"], "date": "2026-01-01T00:00:00Z"}
    parts = [session.pack(part) for part in (header, parent, {})]
    parts.append(content if isinstance(content, bytes) else session.pack(content))
    publish.send_multipart([b"<IDS|MSG>", session.sign(parts), *parts])
publish.send_multipart([b"junk"])
publish.send_multipart([b"<IDS|MSG>", b"0" * 64, b"{}", b"{}", b"{}", b"{}"])
forge("stream", {"name": "stdin", "text": "x"})
forge("stream", {"name": "stdout", "text": {"a": 1}})
forge("stream", {})
forge("stream", b"[" * 100_000 + b"]" * 100_000)
forge("stream", b"not JSON")
forge("stream", {"name": "stdout", "text": "another's"}, parent={"msg_id": "other"})
forge("stream", {"name": "stdout", "text": "another's"}, parent=["msg_id"])
forge("execute_result", {"data": None})
forge("display_data", {"data": {"text/plain": 5, "image/png": ["a", 1]}})
forge("display_data", [1])
forge("status", {"execution_state": ["idle"]})
forge("error", {"ename": 1})
for _ in range(1000):
    publish.send_multipart([b"x" * 1000] * 50)
print("honest")
"""


def test_messages_that_a_cell_forges_hurt_nobody(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    runtime.code("1", context)
    before_mb = runtime.rss_mb()

    run = runtime.code(FORGERY, context, timeout_ms=20_000)

    assert run.stdout == "honest\n"
    assert run.complete.conclusion is Conclusion.SUCCESS
    assert runtime.rss_mb() - before_mb < MEMORY_MARGIN_MB
    assert runtime.code("1 + 1", context).results[0].text == "2"


def test_a_flood_of_large_messages_does_not_reach_the_runtime(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    code = """
kernel = get_ipython().kernel
for _ in range(4):
    kernel.iopub_thread.send_multipart([b"x" * 20_000_000] * 4)
"""
    runtime.code("1", context)
    before_mb = runtime.rss_mb()

    run = runtime.code(code, context, timeout_ms=20_000)

    assert run.complete.conclusion is Conclusion.SUCCESS
    assert runtime.rss_mb() - before_mb < MEMORY_MARGIN_MB


def test_a_context_whose_delegate_is_killed_says_so_and_recovers(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    code = (
        "import subprocess, time; subprocess.run(['pkill', '-f', 'kernel_client']); time.sleep(30)"
    )

    run = runtime.code(code, context, timeout_ms=20_000)

    assert run.error.code == "kernel_died"
    assert runtime.code("1", context).start.session_restarted


@pytest.mark.skipif(not IS_ROOT, reason="NOT TESTED: one user cannot be kept from himself")
def test_user_code_can_look_into_neither_runtime_nor_delegate(
    runtime: RunningRuntime, context: CodeContext
) -> None:
    code = """
import glob, os
def readable(path):
    try:
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False
def is_ours(process):
    try:
        return process[6:].isdigit() and "sandbox_runtime" in open(process + "/cmdline").read()
    except OSError:
        return False  # It has just ended.
ours = [process for process in glob.glob("/proc/*") if is_ours(process)]
secrets = ("environ", "mem", "maps", "auxv")
print(len(ours) >= 2, any(readable(f"{process}/{name}") for process in ours for name in secrets))
capabilities = open("/proc/self/status").read().split("CapEff:")[1].split()[0]
print(os.getuid(), os.getgroups(), capabilities)
"""
    run = runtime.code(code, context)

    ids = f"{runtime.uid} [] {'0' * 16}"
    assert run.stdout.splitlines() == ["True False", ids]


@pytest.mark.parametrize(("confined", "cgroups"), [(True, True), (False, False)])
def test_cells_run_with_four_capabilities_and_without_cgroups(
    python: str, confined: bool, cgroups: bool
) -> None:
    with running_runtime(python, confined=confined, cgroups=cgroups) as runtime:
        run = runtime.code("import os; os.getuid()")
        stopped = runtime.code("import time; time.sleep(30)", timeout_ms=500)
        kept = runtime.code("1")
        runtime.client.end_context("shared")
        left = list(runtime.scratch.iterdir())

    assert run.results[0].text == str(runtime.uid)
    assert stopped.error.code == "timed_out"
    assert not kept.start.session_restarted
    assert left == []


def _status(runtime: RunningRuntime, execution_id: str) -> ExecutionStatus:
    return next(one for one in runtime.client.executions() if one.id == execution_id)


def _is_stuck(runtime: RunningRuntime, execution_id: str) -> bool:
    """Whether much was told, and nothing more is."""
    before = _status(runtime, execution_id).last_n
    time.sleep(0.5)
    return before > 100 and _status(runtime, execution_id).last_n == before
