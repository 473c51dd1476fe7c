"""The tokens of terminals in Redis: the web gives them out, the relay asks for them.

    cf:sandbox:<id>:terminals    hash    terminal's id → token; gone with the sandbox

A terminal is looked at through `/terminals/{sandbox id}/{terminal id}?token={token}` of the relay.
"""

from __future__ import annotations

import hmac
import re
from typing import NamedTuple
from urllib.parse import parse_qs

from workers.contract.connection import RedisClient, store_errors

_TARGET = re.compile(r"/terminals/([a-z2-7]{26})/([A-Za-z0-9_-]{1,64})\?([^#]*)")


class TerminalName(NamedTuple):
    """What a terminal's URL says."""

    sandbox_id: str
    terminal_id: str
    token: str

    @property
    def target(self) -> str:
        return f"/terminals/{self.sandbox_id}/{self.terminal_id}?token={self.token}"


def of_target(target: str) -> TerminalName | None:
    """What a request's path and query name, where that is a terminal."""
    match = _TARGET.fullmatch(target)
    token = parse_qs(match[3]).get("token", [""])[0] if match else ""
    return TerminalName(match[1], match[2], token) if match and token else None


class TerminalStore:
    """Safe to share between threads."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def add(self, name: TerminalName) -> None:
        """In place of the token that the terminal had before."""
        with store_errors():
            self._client.hset(_key(name.sandbox_id), name.terminal_id, name.token)

    def drop(self, sandbox_id: str, terminal_id: str) -> None:
        """Fine where there is none."""
        with store_errors():
            self._client.hdel(_key(sandbox_id), terminal_id)

    def knows(self, name: TerminalName) -> bool:
        """Whether this is the terminal's token."""
        with store_errors():
            token = self._client.hget(_key(name.sandbox_id), name.terminal_id)
        return token is not None and hmac.compare_digest(token, name.token.encode())


def _key(sandbox_id: str) -> str:
    return f"cf:sandbox:{sandbox_id}:terminals"
