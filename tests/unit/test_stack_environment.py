"""Python environments are made when something changed, and only then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stack.environment import SYSTEM_PYTHON, Wanted, ensure_environment
from stack.errors import EnvironmentFailed


def test_an_environment_is_made_once_and_again_when_its_requirements_change(tmp_path: Path) -> None:
    wanted = _wanted(tmp_path, "# nothing\n")
    lines: list[str] = []
    ensure_environment(wanted, lines.append)
    first = len(lines)
    ensure_environment(wanted, lines.append)
    second = len(lines)
    wanted.requirements.write_text("# still nothing\n")

    ensure_environment(wanted, lines.append)

    assert first > 0
    assert second == first
    assert len(lines) > second
    assert wanted.is_there


def test_an_environment_of_another_python_is_not_the_one_that_is_wanted(tmp_path: Path) -> None:
    wanted = _wanted(tmp_path, "")
    wanted.python.parent.mkdir(parents=True)
    wanted.python.symlink_to("/bin/sh")
    wanted.stamp.write_text(wanted.digest)

    assert not wanted.is_there


def test_what_pip_said_is_told_when_it_fails(tmp_path: Path) -> None:
    wanted = _wanted(tmp_path, "./there-is-no-such-package\n")

    with pytest.raises(EnvironmentFailed, match="there-is-no-such-package"):
        ensure_environment(wanted, lambda _: None)

    assert not wanted.is_there


def test_other_users_get_an_interpreter_that_they_can_reach(tmp_path: Path) -> None:
    wanted = Wanted(tmp_path / "environment", tmp_path / "requirements.txt", for_others=True)

    base = wanted.base_python

    assert base in (Path(sys.executable).resolve(), SYSTEM_PYTHON.resolve())
    if base == SYSTEM_PYTHON.resolve():
        assert all(parent.stat().st_mode & 0o001 for parent in base.parents)


def _wanted(directory: Path, requirements: str) -> Wanted:
    (directory / "requirements.txt").write_text(requirements)
    return Wanted(directory / "environment", directory / "requirements.txt")
