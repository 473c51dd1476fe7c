"""The text that bash is given: what bash itself makes of it."""

from __future__ import annotations

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_runtime.bash_text import (
    change_directory,
    cleanup_lines,
    command_script,
    environment_change,
    quoted,
)

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def bash(script: str) -> str:
    """What bash prints, which must not complain."""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=10,
    )
    assert done.stderr == b""
    return done.stdout.decode()


@settings(max_examples=50, deadline=None)
@given(TEXT)
def test_quoted_text_is_one_word_that_bash_takes_literally(text: str) -> None:
    assert bash(f"printf %s {quoted(text)}") == text


@settings(max_examples=25, deadline=None)
@given(TEXT, TEXT)
def test_a_variable_holds_for_the_command_alone_whatever_its_value(
    before: str, during: str
) -> None:
    script = command_script('printf "%s" "$A"; A=changed; export A', cwd=None, env={"A": during})

    printed = bash(f'export A={quoted(before)}\n{script}printf "\\n--\\n%s" "$A"')

    assert printed == f"{during}\n--\n{before}"


@settings(max_examples=25, deadline=None)
@given(TEXT)
def test_a_variable_that_was_unset_for_a_command_is_restored(before: str) -> None:
    env = {"A": None}
    script = command_script('printf "${A-unset}"; A=new', cwd=None, env=env)
    cleanup = cleanup_lines(cwd=None, env=env, home_cwd="/")

    printed = bash(f'A={quoted(before)}\n{script}{cleanup}printf "%s" "$A"; compgen -v __cold')

    assert printed == f"unset{before}"


def test_a_directory_is_entered_whatever_it_looks_like() -> None:
    made = "cd $(mktemp -d); mkdir -- '-' '-P' \"it's\"; CDPATH=/; cd /; cd - > /dev/null"

    for name in ("-", "-P", "it's"):
        assert bash(f'{made}; {change_directory(name)} && echo "${{PWD##*/}}"') == f"{name}\n"


def test_only_what_differs_is_set_again() -> None:
    change = environment_change({"SAME": "1", "OLD": "2", "GONE": "3"}, {"SAME": "1", "OLD": "4"})

    assert change == "builtin unset -v GONE\nbuiltin export OLD='4'\n"
