"""Reads what the runtime is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "COLDFRAME_RUNTIME_"

MAX_NUMBER = 2**32 - 2
"""Of a user or group id; the one above it means "leave as it is" to the kernel."""


class SettingsError(Exception):
    """Variables of the environment are wrong; the message names each of them."""


@dataclass(frozen=True)
class Settings:
    """What differs between one sandbox and the next. Paths are absolute, but for `python`."""

    socket: Path
    token_file: Path
    uid: int
    """Of the user's programs. Where it is the runtime's own, nothing is switched."""
    gid: int
    users: int
    """How many ids, from `uid` on, are this sandbox's; where it is one, sessions share it."""
    home: Path
    user_env: Path
    """`KEY=VALUE` lines, the environment that each of the user's programs starts from."""
    cgroup: Path | None
    """A cgroup2 directory that the runtime may write to; None: processes are found in /proc."""
    limits: tuple[Path, ...]
    """Groups of cgroup v1 that limit the user's programs, which join each of them."""
    scratch: Path
    """A directory of the runtime's, in which user programs open what they know the name of."""
    workspace: Path
    python: str
    """The user's interpreter, for kernels: a path, or a name to look for in the user's PATH."""
    kernel_idle_s: int
    """So long after its last cell a kernel is ended."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Raises `SettingsError`."""
        reader = _Reader(env)
        settings = cls(
            socket=reader.path("SOCKET", "/run/coldframe/runtime.sock"),
            token_file=reader.path("TOKEN_FILE", "/run/coldframe/token"),
            uid=reader.number("UID", 1000),
            gid=reader.number("GID", 1000),
            users=max(reader.number("USERS", 1), 1),
            home=reader.path("HOME", "/home/sandbox"),
            user_env=reader.path("USER_ENV", "/run/coldframe/user-env"),
            cgroup=reader.path("CGROUP", "/cg") if env.get(PREFIX + "CGROUP") != "" else None,
            limits=reader.paths("LIMITS"),
            scratch=reader.path("SCRATCH", "/run/coldframe-scratch"),
            workspace=reader.path("WORKSPACE", "/workspace"),
            python=env.get(PREFIX + "PYTHON", "python3"),
            kernel_idle_s=reader.number("KERNEL_IDLE_S", 3600),
        )
        if reader.mistakes:
            raise SettingsError("; ".join(reader.mistakes))
        return settings


class _Reader:
    """Converts variables one by one and collects what is wrong with them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.mistakes: list[str] = []

    def path(self, name: str, default: str) -> Path:
        return self._absolute(name, self._env.get(PREFIX + name, default))

    def _absolute(self, name: str, text: str) -> Path:
        path = Path(text)
        if not path.is_absolute():
            self.mistakes.append(f"{PREFIX}{name} must be an absolute path, not {str(path)!r}")
        return path

    def paths(self, name: str) -> tuple[Path, ...]:
        """Separated by colons; none where the variable is empty or not there."""
        texts = filter(None, self._env.get(PREFIX + name, "").split(":"))
        return tuple(self._absolute(name, text) for text in texts)

    def number(self, name: str, default: int) -> int:
        text = self._env.get(PREFIX + name, str(default))
        if not text.isascii() or not text.isdigit() or int(text) > MAX_NUMBER:
            limit = f"must be a number up to {MAX_NUMBER}, not {text!r}"
            self.mistakes.append(f"{PREFIX}{name} {limit}")
            return default
        return int(text)
