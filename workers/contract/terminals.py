"""The tokens of terminals in Redis: the web gives them out, the relay asks for them.

    cf:sandbox:<id>:terminals    hash    terminal's id → token; gone with the sandbox

A terminal is looked at by WebSocket at `/terminals/{sandbox id}/{terminal id}/{token}` of the
relay.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import NamedTuple

from workers.contract.connection import RedisClient, load_script, store_errors
from workers.contract.errors import SandboxNotFound
from workers.contract.previews import PreviewAddress, new_token

_PATH = re.compile(r"/terminals/([a-z2-7]{26})/([A-Za-z0-9-]{1,64})/([a-z0-9-]{1,64})(?:\?.*)?")


class TerminalName(NamedTuple):
    """What a terminal's URL says."""

    sandbox_id: str
    terminal_id: str
    token: str

    def url(self, address: PreviewAddress) -> str:
        path = f"/terminals/{self.sandbox_id}/{self.terminal_id}/{self.token}"
        return f"{address.websocket_origin}{path}"


def of_target(target: str) -> TerminalName | None:
    """What a request's path and query name, where it is a terminal."""
    match = _PATH.fullmatch(target)
    return TerminalName(match[1], match[2], match[3]) if match else None


class TerminalStore:
    """Safe to share between threads."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._token = load_script(client, "terminal_token")

    def name(self, sandbox_id: str, terminal_id: str) -> TerminalName:
        """With its token, made where it has none. Raises `SandboxNotFound`."""
        with store_errors():
            token = self._token(
                [f"cf:sandbox:{sandbox_id}", _key(sandbox_id)], [terminal_id, new_token()]
            )
        if token is None:
            raise SandboxNotFound(f"No sandbox {sandbox_id}.")
        return TerminalName(sandbox_id, terminal_id, token.decode())

    def keep(self, sandbox_id: str, terminal_ids: Iterable[str]) -> None:
        """Drops the tokens of all others."""
        with store_errors():
            there = {key.decode() for key in self._client.hkeys(_key(sandbox_id))}
            if gone := there.difference(terminal_ids):
                self._client.hdel(_key(sandbox_id), *gone)

    def knows(self, name: TerminalName) -> bool:
        """Whether this is the terminal's token."""
        with store_errors():
            token = self._client.hget(_key(name.sandbox_id), name.terminal_id)
        return token is not None and hmac.compare_digest(token, name.token.encode())


def _key(sandbox_id: str) -> str:
    return f"cf:sandbox:{sandbox_id}:terminals"
