"""User code that turns on the kernel that runs it harms no cell but its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client

REPORT = """
    var fs = require("fs")
    var isSocket = (one) => {
        try { return fs.readlinkSync(`/proc/self/fd/${one}`).startsWith("socket:") } catch {}
    }
    var REPORTS = Math.min(...fs.readdirSync("/proc/self/fd").filter(isSocket))
    var report = (text) => {
        const size = Buffer.alloc(4)
        size.writeUInt32BE(Buffer.byteLength(text))
        const frame = Buffer.concat([size, Buffer.from(text)])
        for (let at = 0; at < frame.length; ) at += fs.writeSync(REPORTS, frame, at)
    }
"""
"""Speaks with the runtime as the kernel does, on the kernel's own socket."""


@pytest.fixture(scope="module")
def box(api: Client) -> str:
    api.sandbox("hostile")
    api.code("hostile", REPORT, language="js")
    return "hostile"


@pytest.fixture(autouse=True)
def same_runtime(api: Client, box: str) -> Iterator[None]:
    """The variables of another context are lost with the runtime."""
    api.code(box, "kept = 1", language="python")
    yield
    assert api.code(box, "kept", language="python")["results"][0]["text"] == "1"


def test_what_would_take_many_times_its_own_space_is_passed_on_as_it_came(
    api: Client, box: str
) -> None:
    shown = '{"type":"shown","data":{"application/json":[%s]},"is_main":true}'

    run = api.code(box, f"report('{shown}'.replace('%s', '[],'.repeat(3e6) + '[]'))", language="js")

    assert run["conclusion"] == "success"
    assert len(run["results"][0]["json"]) == 3_000_001


@pytest.mark.parametrize(
    ("mime", "figure"),
    [
        (
            "application/vnd.plotly.v1+json",
            "{data: Array(1000).fill({type: 'heatmap', z: {dtype: 'u1', shape: '1,-9', bdata}})}",
        ),
        (
            "application/vnd.vegalite.v5+json",
            "{data: {values}, hconcat: Array(30).fill({layer: Array(40).fill({mark: 'point'})})}",
        ),
    ],
)
def test_a_figure_that_would_take_long_to_read_does_not(
    api: Client, box: str, mime: str, figure: str
) -> None:
    code = f"""
        var bdata = "A".repeat(2000), values = Array(10000).fill({{a: 1}})
        display({{"{mime}": {figure}}}, {{raw: true}})
    """

    run = api.code(box, code, language="js", timeoutMs=20_000)

    assert run["conclusion"] == "success"
    assert run["results"][0]["chart"]["type"] == "unknown"


def test_parts_that_are_met_on_many_ways_are_not_written_on_each(api: Client, box: str) -> None:
    code = "var shared = []; for (let n = 0; n < 60; n++) shared = [shared, shared]; shared"

    run = api.code(box, code, language="js", timeoutMs=20_000)

    assert run["conclusion"] == "success"
    assert "json" not in run["results"][0]


def test_an_exception_of_any_length_is_shortened(api: Client, box: str) -> None:
    run = api.code(box, "throw new Error('x'.repeat(3e7))", language="js")

    assert run["exception"]["name"] == "Error"
    assert 100_000 < len(run["exception"]["value"]) < 300_000


def test_exceptions_without_end_are_told_once(api: Client, box: str) -> None:
    raised = '{"type":"exception","timestamp":"","name":"E","value":"v","traceback":""}'
    code = f"for (let n = 0; n < 10000; n++) report('{raised}')"

    events = api.stream(f"/v1/sandboxes/{box}/code", {"code": code, "language": "js"})

    assert [one.event["type"] for one in events] == ["start", "exception", "complete"]


def test_questions_without_end_are_told_up_to_the_outputs_limit(api: Client, box: str) -> None:
    asked = '{"type":"input_requested","prompt":"%s","password":false}'
    code = f"for (let n = 0; n < 2000; n++) report('{asked}'.replace('%s', 'x'.repeat(2000)))"
    body = {"code": code, "language": "js", "allowInput": True, "outputLimitBytes": 10_000}

    events = api.stream(f"/v1/sandboxes/{box}/code", body)

    kinds = [one.event["type"] for one in events]
    assert kinds.count("input_request") == 4
    assert kinds.count("result") == 1
    assert kinds[-1] == "complete"


@pytest.mark.parametrize("display_id", ["5", "'x'.repeat(1e6)", "{}"])
def test_a_place_may_be_called_anything(api: Client, box: str, display_id: str) -> None:
    code = f"display(1, {{displayId: {display_id}, update: 'yes'}})"

    run = api.code(box, code, language="js")

    assert run["results"][0]["text"] == "1"
    assert 1 <= len(run["results"][0]["displayId"]) <= 200


@pytest.mark.parametrize(
    "value",
    [
        "({get endless() { for (;;); }})",
        "({[Symbol.for('nodejs.util.inspect.custom')]() { for (;;); }})",
        "display({get endless() { for (;;); }})",
        "throw {[Symbol.for('nodejs.util.inspect.custom')]() { for (;;); }}",
    ],
)
def test_a_value_that_never_tells_itself_is_cut_off(api: Client, box: str, value: str) -> None:
    cut = api.code(box, value, language="js", timeoutMs=1000)
    after = api.stream(f"/v1/sandboxes/{box}/code", {"code": "report.length", "language": "js"})

    assert cut["conclusion"] == "timed_out"
    assert not after[0].event.get("sessionRestarted")


def test_a_kernel_that_leaves_its_socket_to_another_has_ended(api: Client, box: str) -> None:
    code = """
        const options = {stdio: [0, 1, 2, REPORTS], detached: true}
        require("child_process").spawn("sleep", ["9999"], options)
        process.exit(3)
    """

    died = api.code(box, REPORT + code, language="ts", timeoutMs=30_000)

    assert died["error"]["code"] == "kernel_died"
    assert "exited with code 3" in died["error"]["message"]


def test_output_byte_by_byte_without_an_end_stops_no_other(api: Client, box: str) -> None:
    code = """
        require("child_process").execSync("while :; do printf x; done", {stdio: "inherit"})
    """

    job = api.submit(f"/v1/sandboxes/{box}/code", {"code": code, "language": "js"})
    others = [api.exec(box, "echo on")["stdout"] for _ in range(10)]
    api.http.post(f"/v1/jobs/{job}/cancel")

    assert others == ["on\n"] * 10
    assert api.follow_to_the_end(job)[-1].event["code"] == "cancelled"


def test_a_cell_that_follows_a_restart_runs_in_the_new_kernel(api: Client, box: str) -> None:
    context = api.http.post(f"/v1/sandboxes/{box}/contexts", json={"language": "js"}).json()["id"]
    for _ in range(5):
        api.code(box, "globalThis.old = 1", context=context)

        api.http.post(f"/v1/sandboxes/{box}/contexts/{context}/restart")

        assert api.code(box, "typeof old", context=context)["results"][0]["text"] == "'undefined'"
