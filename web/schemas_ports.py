"""What requests about exposed ports may say and what their answers look like."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sandbox_runtime.protocol.requests import Encoding
from workers.contract.ports import Port
from workers.contract.previews import HIGHEST_PORT, TOKEN_PATTERN, PreviewAddress, PreviewName

LOWEST_PORT = 1024

MAX_BODY_CHARS = 8 * 1024 * 1024

PortNumber = Annotated[int, Meta(ge=LOWEST_PORT, le=HIGHEST_PORT)]


class _Shape(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class ExposeRequest(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show what listens on a port to whoever knows the URL."""

    port: PortNumber
    name: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    token: Annotated[str, Meta(pattern=rf"^{TOKEN_PATTERN}\Z")] | UnsetType = UNSET
    """The last part of the host name; left out: the one that the port had, or a random one."""


class PortView(_Shape, frozen=True, kw_only=True):
    """An exposed port."""

    port: int
    name: str | UnsetType = UNSET
    url: str
    path: str
    """For the relay's own host name or address, where subdomains cannot be had."""
    token: str
    exposed_at: str


class PortsPage(_Shape, frozen=True, kw_only=True):
    """The exposed ports of a sandbox, by number."""

    ports: list[PortView]


class FetchRequest(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One HTTP request to a server in the sandbox."""

    path: Annotated[str, Meta(pattern=r"^/[\x21-\x7e]*\Z", max_length=8000)] = "/"
    """With its query."""
    method: Annotated[str, Meta(pattern=r"^[A-Z]{1,16}\Z")] = "GET"
    headers: dict[str, str] = {}
    body: Annotated[str, Meta(max_length=MAX_BODY_CHARS)] = ""
    encoding: Encoding = Encoding.UTF8
    """Of `body` here."""
    timeout_ms: Annotated[int, Meta(gt=0, le=3_600_000)] = 60_000


class FetchedView(_Shape, frozen=True, kw_only=True):
    """What the server answered."""

    status: int
    headers: list[tuple[str, str]]
    body: str
    encoding: Encoding
    """`base64` where the body is not UTF-8."""


def port_view(port: Port, sandbox_id: str, address: PreviewAddress) -> PortView:
    return PortView(
        port=port.port,
        name=UNSET if port.name is None else port.name,
        url=address.url(PreviewName(sandbox_id, port.port, port.token)),
        path=f"/preview/{sandbox_id}/{port.port}/{port.token}/",
        token=port.token,
        exposed_at=port.exposed_at,
    )
