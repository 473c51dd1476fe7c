"""How a preview is addressed: the web writes these URLs, the relay reads them.

    http://{port}-{sandbox id}-{token}.{domain}/…             the usual one
    http://{host}/preview/{sandbox id}/{port}/{token}/…       where subdomains cannot be had

The id is the sandbox's, not its name: a name may hold hyphens, and may stand for another tomorrow.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from workers.contract.settings import Environment, InvalidSettings

DEFAULT_PREVIEW_PORT = 8701

TOKEN_PATTERN = r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?"
"""So long that port, id and token fit into one label of a host name, which has 63 characters."""

TOKEN_BYTES = 16

_LABEL = re.compile(rf"([1-9][0-9]{{0,4}})-([a-z2-7]{{26}})-({TOKEN_PATTERN})")
_PATH = re.compile(rf"(/preview/([a-z2-7]{{26}})/([1-9][0-9]{{0,4}})/({TOKEN_PATTERN}))(?=[/?]|$)")

HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class PreviewName:
    """What a preview's URL says."""

    sandbox_id: str
    port: int
    token: str
    prefix: str = ""
    """The part of the path that stands for it; empty where the host name does."""


@dataclass(frozen=True)
class PreviewAddress:
    """Where the previews of a node are reached from outside."""

    scheme: str
    host: str
    """Below which each preview has a host name of its own."""
    port: int | None
    """None: the scheme's."""

    def url(self, name: PreviewName) -> str:
        return f"{self.scheme}://{name.port}-{name.sandbox_id}-{name.token}.{self._authority}/"

    @property
    def origin(self) -> str:
        """Of what is no sandbox's own."""
        return f"{self.scheme}://{self._authority}"

    @property
    def websocket_origin(self) -> str:
        """As `origin`, for WebSockets."""
        return self.origin.replace("http", "ws", 1)

    def of_host(self, authority: str) -> PreviewName | None:
        """What a request's Host names, where it is a preview's."""
        host, _, port = authority.lower().partition(":")
        label, _, domain = host.partition(".")
        match = _LABEL.fullmatch(label)
        if domain != self.host or match is None or not (port.isdigit() or ":" not in authority):
            return None
        return _name(match[2], match[1], match[3])

    @property
    def _authority(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def of_path(path: str) -> PreviewName | None:
    """What a request's path names, where it is a preview's."""
    match = _PATH.match(path)
    return _name(match[2], match[3], match[4], match[1]) if match else None


def new_token() -> str:
    return base64.b32encode(secrets.token_bytes(TOKEN_BYTES)).decode().rstrip("=").lower()


def preview_address(environment: Environment) -> PreviewAddress:
    """COLDFRAME_PREVIEW_URL, such as `https://preview.example.com`. Raises `InvalidSettings`."""
    listens_on = environment.integer("COLDFRAME_PREVIEW_PORT", DEFAULT_PREVIEW_PORT, at_least=1)
    text = environment.text("COLDFRAME_PREVIEW_URL", f"http://localhost:{listens_on}")
    return parse_preview_url(text)


def parse_preview_url(text: str) -> PreviewAddress:
    """Raises `InvalidSettings`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidSettings(f"COLDFRAME_PREVIEW_URL is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InvalidSettings(
            "COLDFRAME_PREVIEW_URL must be like https://preview.example.com, without a path"
        )
    return PreviewAddress(scheme=parts.scheme, host=parts.hostname, port=port)


def _name(sandbox_id: str, port: str, token: str, prefix: str = "") -> PreviewName | None:
    if int(port) > HIGHEST_PORT:
        return None
    return PreviewName(sandbox_id, int(port), token, prefix)
