"""How the platform's programs are started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stack.programs import Platform, Program, ProgramName, platform_programs
from stack.settings import StackSettings
from stack.source_digest import source_digest

PYTHON = "/venv/bin/python"
PLATFORM = Platform(
    settings=StackSettings(
        state_dir=Path("/state"), node="n1", passed_on={"COLDFRAME_RETENTION_S": "60"}
    ),
    driver="docker",
    redis_url="redis://:secret@127.0.0.1:7000/0",
    api_key="cf_key",
    local_python=None,
    version="v1",
)


def test_the_programs_come_in_the_order_in_which_they_start() -> None:
    names = [program.name for program in platform_programs(PLATFORM, python=PYTHON)]

    assert [ProgramName.REDIS, *names] == list(ProgramName)


def test_only_the_web_gets_the_api_key() -> None:
    programs = platform_programs(PLATFORM, python=PYTHON)

    with_key = [program.name for program in programs if "cf_key" in program.settings.values()]

    assert with_key == [ProgramName.WEB]


def test_no_secret_is_on_a_command_line() -> None:
    for program in platform_programs(PLATFORM, python=PYTHON):
        assert not any("secret" in word or "cf_key" in word for word in program.argv)


def test_every_program_is_told_redis_node_and_state_directory() -> None:
    for program in platform_programs(PLATFORM, python=PYTHON):
        assert program.settings["COLDFRAME_REDIS_URL"] == PLATFORM.redis_url
        assert program.settings["COLDFRAME_NODE"] == "n1"
        assert program.settings["COLDFRAME_STATE_DIR"] == "/state"
        assert program.settings["COLDFRAME_RETENTION_S"] == "60"


def test_a_program_inherits_the_environment_but_no_coldframe_setting_of_the_callers() -> None:
    program = _program(ProgramName.WORKER)

    environ = program.environment(
        {"PATH": "/bin", "COLDFRAME_NODE": "other", "COLDFRAME_API_KEY": "cf_other"}
    )

    assert environ["PATH"] == "/bin"
    assert environ["COLDFRAME_NODE"] == "n1"
    assert "COLDFRAME_API_KEY" not in environ


@pytest.mark.parametrize(
    "changed",
    [
        replace(PLATFORM, version="v2"),
        replace(PLATFORM, redis_url="redis://other/0"),
        replace(PLATFORM, settings=replace(PLATFORM.settings, job_limit=3)),
    ],
    ids=["code", "redis", "setting"],
)
def test_a_program_is_out_of_date_when_code_or_settings_change(changed: Platform) -> None:
    before = [program.fingerprint for program in platform_programs(PLATFORM, python=PYTHON)]

    after = [program.fingerprint for program in platform_programs(changed, python=PYTHON)]

    assert not set(before) & set(after)


def test_a_program_is_up_to_date_as_long_as_nothing_changes() -> None:
    assert _program(ProgramName.WEB).fingerprint == _program(ProgramName.WEB).fingerprint


def test_the_digest_of_the_source_changes_with_any_source_file_alone(tmp_path: Path) -> None:
    (tmp_path / "web/api").mkdir(parents=True)
    (tmp_path / "web/api/jobs.py").write_text("A = 1\n")
    before = source_digest(tmp_path, ["web"])
    (tmp_path / "web/api/jobs.pyc").write_text("compiled")
    compiled = source_digest(tmp_path, ["web"])
    (tmp_path / "web/api/claim.lua").write_text("return 1\n")

    after = source_digest(tmp_path, ["web"])

    assert before == compiled
    assert after != before


def _program(name: ProgramName) -> Program:
    return next(p for p in platform_programs(PLATFORM, python=PYTHON) if p.name is name)
