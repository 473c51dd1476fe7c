"""Code runs through the whole platform."""

from __future__ import annotations

import base64

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


def test_a_language_that_is_not_there_is_named_with_those_that_are(api: Client, box: str) -> None:
    answer = api.http.post(f"/v1/sandboxes/{box}/code", json={"code": "1", "language": "cobol"})

    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "language_unsupported"
    assert "python" in answer.text
