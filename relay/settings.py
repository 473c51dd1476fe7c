"""The relay's settings, read from the environment once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.contract.previews import DEFAULT_PREVIEW_PORT, PreviewAddress, preview_address
from workers.contract.settings import (
    Environment,
    InvalidSettings,
    StoreSettings,
    relay_address,
    store_settings,
)


@dataclass(frozen=True)
class Settings:
    """All that the relay is told from outside."""

    store: StoreSettings
    state_dir: Path
    """Of the worker whose sandboxes it opens."""
    socket: Path
    """Where the web asks."""
    host: str
    port: int
    """Where everybody looks at previews."""
    address: PreviewAddress
    """How that is called from outside."""
    max_connections: int
    web_address: str
    """`host:port` where webs on other machines ask; empty: none does."""
    tls_dir: Path | None
    """What proves to them who we are, and to us who they are."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises `InvalidSettings` with all that is wrong."""
        environment = Environment(environ)
        tls_dir = environment.text("COLDFRAME_TLS_DIR", "")
        settings = cls(
            store=store_settings(environment),
            state_dir=Path(environment.text("COLDFRAME_STATE_DIR", ".coldframe")).absolute(),
            socket=Path(environment.required("COLDFRAME_RELAY_SOCKET")),
            host=environment.text("COLDFRAME_HOST", "127.0.0.1"),
            port=environment.integer("COLDFRAME_PREVIEW_PORT", DEFAULT_PREVIEW_PORT, at_least=1),
            address=preview_address(environment),
            max_connections=environment.integer("COLDFRAME_PREVIEW_CONNECTIONS", 4096, at_least=1),
            web_address=relay_address(environment),
            tls_dir=Path(tls_dir) if tls_dir else None,
        )
        environment.check()
        if settings.web_address and settings.tls_dir is None:
            raise InvalidSettings("COLDFRAME_RELAY_ADDRESS needs COLDFRAME_TLS_DIR")
        return settings
