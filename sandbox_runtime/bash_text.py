"""Writes the bash text that runs a user's command with what holds for that command alone.

No value can get out of its quotes; names of variables must have been checked (`NAME`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What a variable may be called."""

_EVAL = "builtin command eval"
"""Bash's own, whatever the user has redefined. With `builtin eval`, an assignment in the command
would go through to the variable that `A=1` hides; with `eval` in POSIX mode, `A=1` would stay."""

_SAVED = "__coldframe_"
"""Before the name of a variable that holds, during a command, how to restore another."""


def quoted(text: str) -> str:
    """As one word, of which bash expands nothing."""
    return "'" + text.replace("'", "'\\''") + "'"


def change_directory(path: str) -> str:
    """A `cd` that does what it says: a `-`, an option or CDPATH mean nothing to it."""
    return f"CDPATH= builtin cd -- {quoted(path if path.startswith('/') else './' + path)}"


def command_script(command: str, *, cwd: str | None, env: Mapping[str, str | None]) -> str:
    """A file for bash to source. Where `cwd` cannot be entered it says so, and fails with 1.

    `env` maps a name to None to unset it. Undone after the command by `cleanup_lines`, whereas
    the values are undone by bash: assigned before `eval`, they hold until eval ends.
    """
    unset = "".join(f"{_save(name)}; " for name, value in env.items() if value is None)
    enter = f"{change_directory(cwd)} && " if cwd is not None else ""
    assign = "".join(f"{name}={quoted(value)} " for name, value in env.items() if value is not None)
    return f"{unset}{enter}{assign}{_EVAL} {quoted(command)}\n"


def cleanup_lines(*, cwd: str | None, env: Mapping[str, str | None], home_cwd: str) -> str:
    """What undoes the rest of `command_script`. `home_cwd` is where the shell was before it."""
    lines = [_restore(name) for name, value in env.items() if value is None]
    if cwd is not None:
        lines.append(f"{change_directory(home_cwd)} || builtin cd")
    return "".join(f"{line}\n" for line in lines)


def environment_change(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> str:
    """Exports what is new or different, and unsets what is gone or None, for good."""
    gone = "".join(f"builtin unset -v {name}\n" for name in before if name not in after)
    new = "".join(
        f"builtin unset -v {name}\n"
        if value is None
        else f"builtin export {name}={quoted(value)}\n"
        for name, value in after.items()
        if name not in before or before[name] != value
    )
    return gone + new


def _save(name: str) -> str:
    # `@A` gives the statement that declares the variable, arrays too; nothing where it is unset.
    return f"{_SAVED}{name}=${{{name}[@]+${{{name}[@]@A}}}}; builtin unset -v {name}"


def _restore(name: str) -> str:
    saved = _SAVED + name
    return (
        f"[[ -v {saved} ]] && {{ builtin unset -v {name}; "
        f'builtin eval "${saved}"; builtin unset -v {saved}; }}'
    )
