"""The settings that web and workers share, read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


class InvalidSettings(Exception):
    """One or more environment variables are wrong; the message names them all."""


@dataclass(frozen=True)
class StoreSettings:
    """Where Redis is and how long it may take."""

    redis_url: str
    retention_s: int
    """How long a completed job's record and events, and a removed sandbox's record, are kept."""
    socket_timeout_s: float = 2.5
    """For every call: a Redis that hangs must not hang the caller."""
    connect_timeout_s: float = 1.0


class Environment:
    """Reads typed values from the environment and tells all mistakes at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._mistakes: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self._environ.get(name, "").strip() or default

    def integer(self, name: str, default: int, *, at_least: int = 0) -> int:
        value = self._number(name, default)
        if value != int(value):
            self._mistakes.append(f"{name} must be a whole number")
        if value < at_least:
            self._mistakes.append(f"{name} must be at least {at_least}")
        return int(value)

    def number(self, name: str, default: float, *, at_least: float = 0) -> float:
        value = self._number(name, default)
        if value < at_least:
            self._mistakes.append(f"{name} must be at least {at_least}")
        return value

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            self._mistakes.append(f"{name} must be one of {', '.join(choices)}")
        return value

    def required(self, name: str) -> str:
        value = self.text(name, "")
        if not value:
            self._mistakes.append(f"{name} is not set")
        return value

    def refuse(self, name: str, why: str) -> None:
        """Notes a mistake that the caller has found."""
        self._mistakes.append(f"{name} {why}")

    def check(self) -> None:
        """Raises `InvalidSettings` with all that was wrong."""
        if self._mistakes:
            raise InvalidSettings("; ".join(self._mistakes))

    def _number(self, name: str, default: float) -> float:
        text = self.text(name, "")
        if not text:
            return default
        try:
            return float(text)
        except ValueError:
            self._mistakes.append(f"{name} is not a number: {text!r}")
            return default


def store_settings(environment: Environment) -> StoreSettings:
    return StoreSettings(
        redis_url=environment.text("COLDFRAME_REDIS_URL", DEFAULT_REDIS_URL),
        retention_s=environment.integer("COLDFRAME_RETENTION_S", 6 * 3600, at_least=60),
    )


def relay_address(environment: Environment) -> str:
    """Where a node's relay listens for a web on another machine; empty: it does not."""
    text = environment.text("COLDFRAME_RELAY_ADDRESS", "")
    host, _, port = text.rpartition(":")
    if text and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise InvalidSettings("COLDFRAME_RELAY_ADDRESS must be like 10.0.0.7:8702")
    return text
