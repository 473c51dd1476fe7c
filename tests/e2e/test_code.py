"""Code runs through the whole platform."""

from __future__ import annotations

import base64
import struct

import pytest

from tests.client import Client, check_stream, stdout_of


@pytest.fixture(scope="module")
def box(api: Client) -> str:
    api.sandbox("code")
    return "code"


def test_state_is_kept_from_cell_to_cell(api: Client, box: str) -> None:
    api.code(box, "x = 41")

    result = api.code(box, "x + 1")

    assert result["results"][0]["text"] == "42"
    assert result["conclusion"] == "success"
    assert result["executionCount"] == 2


def test_contexts_share_no_names(api: Client, box: str) -> None:
    made = api.http.post(
        f"/v1/sandboxes/{box}/contexts",
        json={"language": "python", "cwd": "/tmp", "envVars": {"WHO": "me"}},
    ).json()
    api.code(box, "secret = 1")

    result = api.code(
        box,
        "import os; print(os.getcwd(), os.environ['WHO'], 'secret' in globals())",
        context=made["id"],
    )

    assert result["logs"]["stdout"] == ["/tmp me False\n"]


def test_output_streams_while_the_cell_runs(api: Client, box: str) -> None:
    code = "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.4)"

    received = api.stream(f"/v1/sandboxes/{box}/code", {"code": code})

    check_stream(received)
    outputs = [item for item in received if item.event["type"] == "stdout"]
    assert stdout_of(received) == "0\n1\n2\n"
    assert outputs[-1].at - outputs[0].at > 0.5


def test_a_table_comes_as_html_and_text_in_one_result(api: Client, box: str) -> None:
    result = api.code(box, "import pandas as pd\npd.DataFrame({'n': [1, 2]})")

    assert len(result["results"]) == 1
    assert "<table" in result["results"][0]["html"]
    assert "n" in result["results"][0]["text"]


def test_a_figure_comes_as_a_png_without_show(api: Client, box: str) -> None:
    result = api.code(box, "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]);")

    pictures = [one["png"] for one in result["results"] if one.get("png")]
    assert len(pictures) == 1
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG\r\n")


def test_an_exception_is_told_with_name_value_and_traceback(api: Client, box: str) -> None:
    result = api.code(box, "print('before')\n1 / 0")

    assert (result["conclusion"], result["logs"]["stdout"]) == ("failure", ["before\n"])
    assert result["exception"]["name"] == "ZeroDivisionError"
    assert result["exception"]["value"] == "division by zero"
    assert "\x1b" not in result["exception"]["traceback"]


def test_a_killed_kernel_is_said_and_the_next_cell_has_a_new_one(api: Client, box: str) -> None:
    died = api.code(box, "import os; os.kill(os.getpid(), 9)")
    after = api.stream(f"/v1/sandboxes/{box}/code", {"code": "print('back')"})

    assert died["error"]["code"] == "kernel_died"
    assert after[0].event["sessionRestarted"] is True
    assert stdout_of(after) == "back\n"


def test_a_deadline_interrupts_the_cell_and_keeps_the_context(api: Client, box: str) -> None:
    api.code(box, "kept = 1")

    cut = api.code(box, "print('here')\nwhile True: pass", timeoutMs=1000)
    after = api.code(box, "kept")

    assert (cut["conclusion"], cut["logs"]["stdout"]) == ("timed_out", ["here\n"])
    assert after["results"][0]["text"] == "1"


JAVASCRIPT = ("javascript", "typescript")


@pytest.mark.parametrize("language", JAVASCRIPT)
def test_output_of_javascript_streams_while_the_cell_runs(
    api: Client, box: str, language: str
) -> None:
    code = """for (const n of [0, 1, 2]) {
        console.log(n)
        await new Promise((resolve) => setTimeout(resolve, 400))
    }"""

    received = api.stream(f"/v1/sandboxes/{box}/code", {"code": code, "language": language})

    check_stream(received)
    outputs = [item for item in received if item.event["type"] == "stdout"]
    assert received[0].event["language"] == language
    assert stdout_of(received) == "0\n1\n2\n"
    assert outputs[-1].at - outputs[0].at > 0.5


@pytest.mark.parametrize(
    ("leave", "reason"),
    [
        ("process.exit(3)", "exited with code 3"),
        ("process.kill(process.pid, 'SIGKILL')", "SIGKILL"),
        ("process.abort()", "SIGABRT"),
    ],
)
def test_a_node_that_ends_is_said_and_the_next_cell_has_a_new_one(
    api: Client, box: str, leave: str, reason: str
) -> None:
    died = api.code(box, f"console.log('before'); {leave}", language="js")
    after = api.stream(f"/v1/sandboxes/{box}/code", {"code": "1", "language": "js"})

    assert died["error"]["code"] == "kernel_died"
    assert reason in died["error"]["message"]
    assert died["logs"]["stdout"] == ["before\n"]
    assert after[0].event["sessionRestarted"] is True


@pytest.mark.parametrize(
    "endless",
    [
        "while (true) {}",
        "await new Promise(() => {})",
        "await 1; while (true) {}",
        "require('child_process').execSync('sleep 60')",
    ],
)
def test_a_deadline_interrupts_javascript_and_keeps_its_variables(
    api: Client, box: str, endless: str
) -> None:
    api.code(box, "globalThis.kept = 1", language="js")

    cut = api.code(box, f"console.log('here'); {endless}", language="js", timeoutMs=1000)
    # What the interrupted cell has left behind is collected.
    api.code(box, "for (let n = 0; n < 100; n++) new Array(1e6).fill(n)", language="js")
    after = api.code(box, "kept", language="js")

    assert (cut["conclusion"], cut["logs"]["stdout"]) == ("timed_out", ["here\n"])
    assert after["results"][0]["text"] == "1"


def test_a_cell_that_waits_for_what_will_never_come_can_be_collected_around(
    api: Client, box: str
) -> None:
    code = "setInterval(() => new Array(1e6).fill(0), 10); await new Promise(() => {})"

    result = api.code(box, code, language="ts", timeoutMs=2000)

    assert result["conclusion"] == "timed_out"


def test_javascript_contexts_have_their_own_names_directory_and_variables(
    api: Client, box: str
) -> None:
    made = api.http.post(
        f"/v1/sandboxes/{box}/contexts",
        json={"language": "node", "cwd": "/tmp", "envVars": {"WHO": "me"}},
    ).json()
    api.code(box, "const secret = 1", language="javascript")

    result = api.code(box, "[process.cwd(), process.env.WHO, typeof secret]", context=made["id"])

    assert made["language"] == "javascript"
    assert result["results"][0]["json"] == ["/tmp", "me", "undefined"]


def test_cells_of_one_javascript_context_run_in_order(api: Client, box: str) -> None:
    api.code(box, "var counter = 0", language="js")
    path = f"/v1/sandboxes/{box}/code"
    cell = "await new Promise((resolve) => setTimeout(resolve, 20)); ++counter"

    jobs = [api.submit(path, {"code": cell, "language": "js"}) for _ in range(5)]

    values = [api.follow_to_the_end(job)[1].event["text"] for job in jobs]
    assert values == ["1", "2", "3", "4", "5"]


def test_a_typescript_cell_is_not_run_in_a_context_of_javascript(api: Client, box: str) -> None:
    made = api.http.post(f"/v1/sandboxes/{box}/contexts", json={"language": "js"}).json()

    answer = api.http.post(
        f"/v1/sandboxes/{box}/code",
        json={"code": "1", "language": "ts", "context": made["id"]},
    )

    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "context_language_differs"


ENDLESS = {"python": "print('on')\nwhile True: pass", "js": "console.log('on'); while (true) {}"}
RAISED = {"python": "KeyboardInterrupt", "js": "Interrupted"}


@pytest.mark.parametrize("language", ENDLESS)
def test_an_interrupted_cell_raises_and_keeps_the_variables(
    api: Client, box: str, language: str
) -> None:
    context = api.http.post(f"/v1/sandboxes/{box}/contexts", json={"language": language}).json()
    one = f"/v1/sandboxes/{box}/contexts/{context['id']}"
    api.code(box, "kept = 1", context=context["id"])
    job = api.submit(f"/v1/sandboxes/{box}/code", cell(ENDLESS[language], context))
    wait_for_output(api, job)

    answer = api.http.post(f"{one}/interrupt")
    events = [item.event for item in api.follow_to_the_end(job)]
    idle = api.http.post(f"{one}/interrupt")

    assert (answer.status_code, answer.json()) == (200, {"interrupted": True})
    assert [event["name"] for event in events if event["type"] == "exception"] == [RAISED[language]]
    assert events[-1]["conclusion"] == "failure"
    assert api.code(box, "kept", context=context["id"])["results"][0]["text"] == "1"
    assert idle.json() == {"interrupted": False}


@pytest.mark.parametrize("language", ENDLESS)
def test_a_restarted_context_ends_its_cell_and_says_that_its_state_is_gone(
    api: Client, box: str, language: str
) -> None:
    context = api.http.post(f"/v1/sandboxes/{box}/contexts", json={"language": language}).json()
    job = api.submit(f"/v1/sandboxes/{box}/code", cell(ENDLESS[language], context))
    wait_for_output(api, job)

    answer = api.http.post(f"/v1/sandboxes/{box}/contexts/{context['id']}/restart")
    ended = api.follow_to_the_end(job)[-1].event
    after = api.stream(f"/v1/sandboxes/{box}/code", cell("1", context))

    assert answer.status_code == 204
    assert (ended["type"], ended["code"]) == ("error", "context_restarted")
    assert after[0].event["sessionRestarted"] is True


@pytest.mark.parametrize(
    ("language", "code"),
    [("python", "1/0"), ("js", "throw Object.assign(new Error('x'), {status: 5})")],
)
def test_a_traceback_has_colours_where_that_is_asked(
    api: Client, box: str, language: str, code: str
) -> None:
    plain, coloured = (
        api.code(box, code, language=language, ansiTraceback=ansi)["exception"]
        for ansi in (False, True)
    )

    assert "\x1b[" not in plain["traceback"]
    assert "\x1b[" in coloured["traceback"]
    assert coloured["value"] == plain["value"]


VARIABLES = {
    "python": "import os; [os.environ.get(name) for name in ('A', 'B', 'HOME')]",
    "js": "['A', 'B', 'HOME'].map((name) => process.env[name] ?? null)",
}


@pytest.mark.parametrize("language", VARIABLES)
def test_variables_hold_for_a_cell_or_from_now_on(api: Client, language: str) -> None:
    api.sandbox("variables")
    box, code = "variables", VARIABLES[language]

    def shown(**options: object) -> list[str | None]:
        run = api.code(box, code, language=language, **options)
        return list(run["results"][0]["json"])

    before = shown()
    of_cell = shown(env={"A": "1", "HOME": None})
    after = shown()
    api.http.put(f"/v1/sandboxes/{box}/env", json={"env": {"B": "2"}})
    changed = shown()
    api.http.put(f"/v1/sandboxes/{box}/env", json={"env": {"B": None}})
    unset = shown()
    api.remove(box)

    assert before == after == unset == [None, None, "/home/sandbox"]
    assert of_cell == ["1", None, None]
    assert changed == [None, "2", "/home/sandbox"]


ASKING = {
    "python": """
print("before")
name = input("name? ")
import getpass
word = getpass.getpass("word? ")
[name, word]
""",
    "js": """
console.log("before")
var name = prompt("name? ")
var word = prompt("word? ");
[name, word]
""",
}


@pytest.mark.parametrize("language", ASKING)
def test_a_cell_is_given_the_input_that_it_asks_for(api: Client, box: str, language: str) -> None:
    body = {"code": ASKING[language], "language": language, "allowInput": True}
    job = api.submit(f"/v1/sandboxes/{box}/code", body)
    told = []
    with api.following(job) as received:
        for item in received:
            told.append(item.event)
            if item.event["type"] == "input_request":
                number = item.event["input"]
                assert answer(api, job, value="late", input=number + 1) == 409
                assert answer(api, job, value=f"ä {number}", input=number) == 204
                assert answer(api, job, value="twice", input=number) == 409

    kinds = [event["type"] for event in told]
    asked = [event for event in told if event["type"] == "input_request"]
    assert kinds == ["start", "stdout", "input_request", "input_request", "result", "complete"]
    assert [event["prompt"] for event in asked] == ["name? ", "word? "]
    assert asked[1].get("password", False) is (language == "python")
    assert told[-2]["json"] == ["ä 1", "ä 2"]
    assert answer(api, job, value="after the end") == 409


@pytest.mark.parametrize("language", ASKING)
def test_a_cell_may_not_ask_where_nobody_will_answer(api: Client, box: str, language: str) -> None:
    result = api.code(box, ASKING[language], language=language)

    assert result["conclusion"] == "failure"
    assert result["logs"]["stdout"] == ["before\n"]


@pytest.mark.parametrize("language", ASKING)
@pytest.mark.parametrize("way", ["interrupt", "cancel"])
def test_a_cell_that_waits_for_input_can_be_stopped(
    api: Client, box: str, language: str, way: str
) -> None:
    context = api.http.post(f"/v1/sandboxes/{box}/contexts", json={"language": language}).json()
    one = f"/v1/sandboxes/{box}/contexts/{context['id']}"
    api.code(box, "kept = 1", context=context["id"])
    body = {**cell(ASKING[language], context), "allowInput": True}
    job = api.submit(f"/v1/sandboxes/{box}/code", body)
    with api.following(job) as received:
        next(item for item in received if item.event["type"] == "input_request")

    api.http.post(f"{one}/interrupt" if way == "interrupt" else f"/v1/jobs/{job}/cancel")
    end = api.follow_to_the_end(job)[-1].event

    assert end.get("code", end["type"]) == ("complete" if way == "interrupt" else "cancelled")
    assert answer(api, job, value="late") == 409
    assert api.code(box, "kept", context=context["id"])["results"][0]["text"] == "1"


def test_a_job_that_asks_for_nothing_is_given_no_input(api: Client, box: str) -> None:
    job = api.start_exec(box, "sleep 60")
    with api.following(job) as received:
        next(received)

    assert answer(api, job, value="x") == 409
    assert api.http.post("/v1/jobs/nothing/input", json={"value": "x"}).status_code == 404
    api.http.post(f"/v1/jobs/{job}/cancel")


def answer(api: Client, job: str, **reply: object) -> int:
    return api.http.post(f"/v1/jobs/{job}/input", json=reply).status_code


def wait_for_output(api: Client, job: str) -> None:
    with api.following(job) as received:
        next(item for item in received if item.event["type"] == "stdout")


def cell(code: str, context: dict[str, str]) -> dict[str, str]:
    return {"code": code, "context": context["id"]}


def test_fifty_megabytes_of_javascript_are_cut_at_the_cap(api: Client, box: str) -> None:
    code = (
        "const line = 'x'.repeat(1023) + '\\n'; for (let n = 0; n < 51200; n++) console.log(line)"
    )

    result = api.code(box, code, language="js")

    assert result["truncated"] is True, (result["error"], result["logs"]["stderr"])
    assert sum(map(len, result["logs"]["stdout"])) == 16 * 1024 * 1024
    assert result["conclusion"] == "success"


def test_what_a_picture_shows_can_be_updated_in_its_place(api: Client, box: str) -> None:
    code = """from IPython.display import display
bar = display("0 %", display_id="bar")
display("between")
bar.update("100 %")"""

    received = api.stream(f"/v1/sandboxes/{box}/code", {"code": code})
    result = api.code(box, code)

    told = [item.event for item in received if item.event["type"] == "display"]
    assert [(one["displayId"], one.get("update", False), one["text"]) for one in told] == [
        ("bar", False, "'0 %'"),
        ("bar", True, "'100 %'"),
    ]
    assert [one["text"] for one in result["results"]] == ["'100 %'", "'between'"]


ANALYSIS = """
import pandas as pd
import matplotlib.pyplot as plt

table = pd.DataFrame({
    'Month': ['Jan', 'Feb', 'Mar'],
    'Sales': [10000, 12000, 15000],
    'Profit': [2000, 2500, 3200],
})
print(table.describe())
plt.figure(figsize=(10, 6))
plt.subplot(1, 2, 1)
plt.bar(table['Month'], table['Sales'])
plt.title('Monthly Sales')
plt.ylabel('Sales ($)')
plt.subplot(1, 2, 2)
plt.plot(table['Month'], table['Profit'], marker='o', color='green')
plt.title('Monthly Profit')
plt.tight_layout()
plt.show()
table.to_dict('records')
"""

GROWTH = """
const fs = require('fs');
const data = JSON.parse(fs.readFileSync('/tmp/sales.json', 'utf8'));
const growth = data.map((now, index) => index === 0
  ? { ...now, growth: 0 }
  : { ...now, growth: ((now.Sales / data[index - 1].Sales - 1) * 100).toFixed(2) + '%' });
console.log('Growth:', growth.length);
growth;
"""


def test_data_goes_from_python_to_javascript_with_its_picture_and_its_json(
    api: Client, box: str
) -> None:
    analysis = api.code(box, ANALYSIS)
    api.code(box, "table.to_json('/tmp/sales.json', orient='records')", language="python")
    growth = api.code(box, GROWTH, language="javascript")

    picture, records = analysis["results"]
    bars, line = picture["chart"]["charts"]
    width, height = struct.unpack(">II", base64.b64decode(picture["png"])[16:24])
    assert width > height > 500
    assert (bars["type"], bars["title"], bars["yUnit"]) == ("bar", "Monthly Sales", "$")
    assert bars["data"] == [{"x": ["Jan", "Feb", "Mar"], "y": [10000.0, 12000.0, 15000.0]}]
    assert (line["type"], line["data"][0]["y"]) == ("line", [2000.0, 2500.0, 3200.0])
    assert records["json"][1] == {"Month": "Feb", "Sales": 12000, "Profit": 2500}
    assert growth["results"][0]["json"][1]["growth"] == "20.00%"
    assert growth["logs"]["stdout"] == ["Growth: 3\n"]


def test_a_language_that_is_not_there_is_named_with_those_that_are(api: Client, box: str) -> None:
    answer = api.http.post(f"/v1/sandboxes/{box}/code", json={"code": "1", "language": "cobol"})

    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "language_unsupported"
    assert "python" in answer.text
