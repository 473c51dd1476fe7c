"""Keeps the file from which clients and scripts take the API's address and key.

    COLDFRAME_URL=http://127.0.0.1:8700
    COLDFRAME_API_KEY=cf_…
    export COLDFRAME_URL COLDFRAME_API_KEY

A shell can source it; a simple reader finds KEY=VALUE lines with nothing to unquote.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from stack.private_file import write_private

FILE_NAME = "client.env"
KEY_PREFIX = "cf_"
KEY_BYTES = 24  # 32 characters of base64: 192 bits

_KEY_LINE = re.compile(rf"^COLDFRAME_API_KEY=({KEY_PREFIX}[A-Za-z0-9_-]{{32}})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ClientEnv:
    """What a client needs to reach the API."""

    url: str
    api_key: str = field(repr=False)

    def render(self) -> str:
        return (
            f"COLDFRAME_URL={self.url}\n"
            f"COLDFRAME_API_KEY={self.api_key}\n"
            "export COLDFRAME_URL COLDFRAME_API_KEY\n"
        )


def ensure_client_env(state_dir: Path, url: str) -> ClientEnv:
    """The file's key, or a new one where there is none; the file then says this URL."""
    path = state_dir / FILE_NAME
    text = path.read_text() if path.exists() else ""
    client_env = ClientEnv(url=url, api_key=find_key(text) or new_key())
    if client_env.render() != text:
        write_private(path, client_env.render())
    return client_env


def find_key(text: str) -> str | None:
    """The API key in a file's text; None where no line holds a whole one."""
    found = _KEY_LINE.search(text)
    return found.group(1) if found else None


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
