"""What the bench reads from outside: settings, server-sent events, /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.errors import InvalidSettings
from bench.processes import environment_of, parse_pss_kib, program_of, pss_kib
from bench.settings import NoopSettings, Settings
from bench.sse import Event, read_events

CLIENT_ENV = """\
COLDFRAME_URL=http://127.0.0.1:8790
COLDFRAME_API_KEY=cf_file
export COLDFRAME_URL COLDFRAME_API_KEY
"""


def test_the_state_directory_says_which_platform_is_measured(tmp_path: Path) -> None:
    (tmp_path / "client.env").write_text(CLIENT_ENV)

    settings = Settings.from_env({"COLDFRAME_STATE_DIR": str(tmp_path)})

    assert (settings.host, settings.port, settings.api_key) == ("127.0.0.1", 8790, "cf_file")


def test_the_environment_comes_before_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "client.env").write_text(CLIENT_ENV)

    settings = Settings.from_env(
        {
            "COLDFRAME_STATE_DIR": str(tmp_path),
            "COLDFRAME_URL": "http://bench.example",
            "COLDFRAME_API_KEY": "cf_env",
        }
    )

    assert (settings.host, settings.port, settings.api_key) == ("bench.example", 80, "cf_env")


def test_without_a_platform_the_bench_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="make up"):
        Settings.from_env({"COLDFRAME_STATE_DIR": str(tmp_path)})


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "client.env").write_text(CLIENT_ENV)

    settings = Settings.from_env(
        {"COLDFRAME_STATE_DIR": str(tmp_path), "COLDFRAME_REDIS_URL": "redis://:hunter2@h"}
    )

    assert "cf_file" not in repr(settings)
    assert "hunter2" not in repr(settings)


def test_the_noop_worker_reads_what_it_was_told() -> None:
    told = NoopSettings(redis_url="redis://127.0.0.1:6379/0", prefix="bench-1")

    assert NoopSettings.from_env(told.environment({})) == told


def test_events_are_read_to_the_terminal_one_and_no_further() -> None:
    lines = [
        b": ok\n",
        b"retry: 2000\n",
        b"\n",
        b"id: 1-1\n",
        b'data: {"type":"stdout","data":"hi\\n"}\n',
        b"\n",
        b": hb\n",
        b'data: {"type":"complete","conclusion":"success"}\n',
        b"\n",
        b'data: {"type":"stdout","data":"late"}\n',
    ]

    events = list(read_events(lines))

    assert events == [Event("stdout", data="hi\n"), Event("complete", conclusion="success")]


def test_an_error_event_tells_its_code() -> None:
    lines = [b'data: {"type":"error","code":"timed_out","error":"It took too long."}\n']

    assert list(read_events(lines)) == [Event("error", error="timed_out: It took too long.")]


@pytest.mark.parametrize(
    ("command_line", "program"),
    [
        ("/v/python /v/bin/gunicorn --config web/gunicorn_conf.py web.app:create_app()", "web"),
        ("/v/python -m gunicorn --config web/gunicorn_conf.py", "web"),
        ("/v/python -m celery --app workers.celery_app worker --hostname worker@n", "worker"),
        ("/v/python /v/bin/celery --app workers.celery_app beat", "beat"),
        ("/v/python -m celery --app workers.celery_app flower --url_prefix=flower", "flower"),
        ("/v/python -m bench", None),
        ("", None),
    ],
)
def test_programs_are_known_by_their_command_lines(command_line: str, program: str | None) -> None:
    assert program_of(command_line.split(" ")) == program


def test_the_proportional_set_size_is_found_among_its_neighbours() -> None:
    text = "Rss:                1000 kB\nPss:                 612 kB\nPss_Anon:            300 kB\n"

    assert parse_pss_kib(text) == 612


def test_a_process_that_has_ended_has_neither_memory_nor_environment() -> None:
    never_given = 2**22 + 1

    assert pss_kib(never_given) is None
    assert environment_of(never_given) == {}


def test_the_memory_of_a_living_process_can_be_told() -> None:
    assert (pss_kib(os.getpid()) or 0) > 1000
