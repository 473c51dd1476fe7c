"""The exposed ports of sandboxes in Redis, and the use that is made of a sandbox past its jobs.

cf:sandbox:<id>:ports        hash    port → `Port`, as JSON; gone with the sandbox
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from workers.contract.connection import RedisClient, load_script, store_errors
from workers.contract.errors import PreviewTokenTaken, SandboxNotFound


class Port(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A port of a sandbox that previews reach."""

    port: int
    token: str
    """Whoever knows it may look."""
    name: str | None = None
    exposed_at: str


_decoder = msgspec.json.Decoder(Port)


class PortStore:
    """Safe to share between threads."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._expose = load_script(client, "expose_port")
        self._use = load_script(client, "use_sandboxes")

    def expose(self, sandbox_id: str, port: Port, *, keep_token: bool) -> Port:
        """The port as it is exposed now; `keep_token`: with the token that it had, if it had one.

        Raises `SandboxNotFound`, `PreviewTokenTaken`.
        """
        with store_errors():
            kind, value = self._expose(
                [f"cf:sandbox:{sandbox_id}", _key(sandbox_id)],
                [port.port, msgspec.json.encode(port), "1" if keep_token else ""],
            )
        if kind == b"gone":
            raise SandboxNotFound(f"No sandbox {sandbox_id}.")
        if kind == b"taken":
            raise PreviewTokenTaken(f"The port {value.decode()} is exposed with this token.")
        return _decoder.decode(value)

    def close(self, sandbox_id: str, port: int) -> None:
        """Fine where it is not exposed."""
        with store_errors():
            self._client.hdel(_key(sandbox_id), port)

    def all_of(self, sandbox_id: str) -> list[Port]:
        """By number."""
        with store_errors():
            records = self._client.hvals(_key(sandbox_id))
        return sorted((_decoder.decode(record) for record in records), key=lambda one: one.port)

    def used(self, sandbox_ids: Iterable[str]) -> None:
        """Requests, previews or terminals use these sandboxes: they do not fall asleep."""
        with store_errors():
            self._use([f"cf:sandbox:{sandbox_id}" for sandbox_id in sandbox_ids])


def _key(sandbox_id: str) -> str:
    return f"cf:sandbox:{sandbox_id}:ports"
