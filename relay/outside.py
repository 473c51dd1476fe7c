"""The gate for everybody: previews and terminals, for who knows their token."""

from __future__ import annotations

import asyncio
import html
import re
import socket
from collections.abc import Iterable

import msgspec

from relay.doors import Doors, PortClosed, SandboxClosed
from relay.exposures import Exposures
from relay.messages import Header, RequestHead, end_to_end, only, without
from relay.routes import Answered, Route
from workers.contract.errors import StoreUnavailable
from workers.contract.previews import PreviewAddress, PreviewName, of_path
from workers.contract.sandboxes import SandboxState
from workers.contract.terminals import TerminalName, TerminalStore, of_target

SANDBOX_HEADER = b"X-Sandbox-Name"

_CREDENTIALS = re.compile(rb"(?i:bearer)\s+cf_\S*")
"""The API's own: who sends it to a preview sends it to the wrong place."""

_SET_BY_US = frozenset(
    {
        b"forwarded",
        b"x-api-key",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-original-url",
        b"x-real-ip",
        b"x-sandbox-name",
    }
)

_NOT_A_SANDBOXS_TO_SAY = frozenset(
    {b"alt-svc", b"clear-site-data", b"public-key-pins", b"strict-transport-security"}
)
"""They would hold for other sandboxes of the same domain, too."""

_NOT_AT_A_PATH = frozenset({b"nel", b"report-to", b"service-worker-allowed"})
"""They would hold for other previews of the same origin, too."""

_TO_A_TERMINAL = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"user-agent"})
_OF_A_TERMINAL = frozenset({b"sec-websocket-accept", b"content-type"})

_KEEPS_THE_TOKEN = (b"Referrer-Policy", b"same-origin")
"""A preview's URL is all that it takes to see it, so other sites are not told."""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:34rem}}</style>
<h1>{title}</h1><p>{message}</p>
</html>
"""

_NOT_THERE = (404, "preview_not_found", "This sandbox is not there any more.")
_ASLEEP = (410, "sandbox_stopped", "This sandbox is stopped.")

_GONE = {
    SandboxState.REMOVED: _NOT_THERE,
    SandboxState.REMOVING: _NOT_THERE,
    SandboxState.FAILED: _NOT_THERE,
    SandboxState.STOPPED: _ASLEEP,
    SandboxState.STOPPING: _ASLEEP,
    SandboxState.PAUSED: (503, "sandbox_paused", "This sandbox is paused."),
    SandboxState.CREATING: (503, "sandbox_starting", "This sandbox is starting."),
    SandboxState.RUNNING: (502, "sandbox_silent", "This sandbox does not answer."),
}


class Refusal(Exception):
    """Nothing is shown to this request; why, in words for a person."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


class OutsideGate:
    """For who knows a token; nobody is believed about anything else."""

    def __init__(
        self,
        address: PreviewAddress,
        doors: Doors,
        exposures: Exposures,
        terminals: TerminalStore,
    ) -> None:
        self._address = address
        self._doors = doors
        self._exposures = exposures
        self._terminals = terminals

    async def route(self, request: RequestHead, peer: str) -> Route:
        try:
            host = _only_host(request)
            if preview := self._address.of_host(host.decode("latin-1")) or _of_path(request):
                return await self._preview(preview, request, host, peer)
            if terminal := of_target(request.target.decode("latin-1")):
                return await self._terminal(terminal, request)
            raise Refusal(404, "preview_not_found", "There is no preview at this address.")
        except Refusal as refusal:
            raise _page(refusal, request) from None
        except StoreUnavailable:
            away = Refusal(503, "store_unavailable", "Redis is away. Try again in a moment.")
            raise _page(away, request) from None

    def misread(self, status: int, message: str) -> Answered:
        return _page(Refusal(status, "unreadable_request", message))

    def gone(self, message: str) -> Answered:
        return _page(Refusal(502, "preview_failed", message))

    async def _preview(
        self, name: PreviewName, request: RequestHead, host: bytes, peer: str
    ) -> Route:
        exposed = await self._exposures.find(name)
        if exposed is None:
            raise Refusal(404, "preview_not_found", "There is no preview at this address.")
        target = request.target[len(name.prefix) :]
        if not target.startswith(b"/"):
            target = b"/" + target

        async def dial() -> socket.socket:
            try:
                return await self._dial(name)
            except Refusal as refusal:
                raise _page(refusal, request) from None

        dropped = _NOT_A_SANDBOXS_TO_SAY | (_NOT_AT_A_PATH if name.prefix else frozenset())

        def answer_headers(headers: Iterable[Header]) -> list[Header]:
            answer = [
                (header, _own_cookie(value, name.prefix))
                if header.lower() == b"set-cookie"
                else (header, value)
                for header, value in without(headers, dropped)
            ]
            if not any(header.lower() == b"referrer-policy" for header, _ in answer):
                answer.append(_KEEPS_THE_TOKEN)
            return answer

        headers = self._headers(request, host, name, exposed.sandbox_name, peer)
        return Route((name.sandbox_id, name.port), dial, target, headers, False, answer_headers)

    async def _terminal(self, name: TerminalName, request: RequestHead) -> Route:
        """The one way to a runtime from outside: to this terminal's WebSocket."""
        if not await asyncio.to_thread(self._terminals.knows, name):
            raise Refusal(404, "terminal_not_found", "There is no terminal at this address.")
        if not request.is_websocket:
            raise Refusal(426, "websocket_only", "A terminal is spoken to by WebSocket.")

        async def dial() -> socket.socket:
            try:
                return await self._doors.dial_runtime(name.sandbox_id)
            except SandboxClosed:
                refusal = await self._gone(name.sandbox_id)
                raise _page(refusal, request) from None

        try:
            token = self._doors.token(name.sandbox_id)
        except SandboxClosed:
            raise await self._gone(name.sandbox_id) from None
        headers = only(request.headers, _TO_A_TERMINAL)
        headers += [(b"Host", b"runtime"), (b"Authorization", b"Bearer " + token)]
        target = f"/terminals/{name.terminal_id}".encode()

        def answer_headers(headers: Iterable[Header]) -> list[Header]:
            return only(headers, _OF_A_TERMINAL)

        return Route((name.sandbox_id, None), dial, target, headers, False, answer_headers)

    async def _dial(self, name: PreviewName) -> socket.socket:
        """Raises `Refusal`."""
        try:
            return await self._doors.dial_port(name.sandbox_id, name.port)
        except PortClosed:
            message = f"Nothing listens on port {name.port} in this sandbox yet."
            raise Refusal(502, "port_not_listening", message) from None
        except SandboxClosed:
            raise await self._gone(name.sandbox_id) from None

    async def _gone(self, sandbox_id: str) -> Refusal:
        """Why nobody answers there."""
        try:
            return Refusal(*_GONE[await self._state(sandbox_id)])
        except Refusal as refusal:
            return refusal

    async def _state(self, sandbox_id: str) -> SandboxState:
        """Raises `Refusal`."""
        try:
            return await self._exposures.state(sandbox_id)
        except StoreUnavailable:
            message = "This sandbox does not answer, and Redis is away."
            raise Refusal(503, "store_unavailable", message) from None

    def _headers(
        self, request: RequestHead, host: bytes, name: PreviewName, sandbox: str, peer: str
    ) -> list[Header]:
        headers = [
            (header, value)
            for header, value in end_to_end(request.headers)
            if header.lower().replace(b"_", b"-") not in _SET_BY_US  # CGI takes them for the same.
            and (header.lower() != b"authorization" or not _CREDENTIALS.match(value))
        ]
        scheme = self._address.scheme.encode()
        headers += [
            (b"X-Forwarded-For", peer.encode()),
            (b"X-Forwarded-Host", host),
            (b"X-Forwarded-Proto", scheme),
            (b"X-Original-URL", b"%s://%s%s" % (scheme, host, request.target)),
            (SANDBOX_HEADER, sandbox.encode()),
        ]
        if name.prefix:
            headers.append((b"X-Forwarded-Prefix", name.prefix.encode()))
        return headers


def _only_host(request: RequestHead) -> bytes:
    """Raises `Refusal`."""
    hosts = request.values(b"host")
    if len(hosts) != 1 or not request.target.startswith(b"/"):
        message = "A request names one host, and a path on it."
        raise Refusal(400, "unreadable_request", message)
    return hosts[0]


def _of_path(request: RequestHead) -> PreviewName | None:
    return of_path(request.target.decode("latin-1"))


def _own_cookie(cookie: bytes, prefix: str) -> bytes:
    """A cookie for this preview alone: for no other host, and for no other path."""
    first, *attributes = cookie.split(b";")
    kept, path = [first], b"/"
    for attribute in attributes:
        key, _, value = attribute.strip().partition(b"=")
        match key.strip().lower():
            case b"domain":
                pass
            case b"path":
                path = value.strip()
            case _:
                kept.append(attribute)
    if prefix:
        path = prefix.encode() + (path if path.startswith(b"/") else b"/")
    return b";".join([*kept, b" Path=" + path])


def _page(refusal: Refusal, request: RequestHead | None = None) -> Answered:
    """In HTML for who asks for it, else as the API tells errors."""
    wants_html = request is not None and b"text/html" in b",".join(request.values(b"accept"))
    if wants_html:
        content_type, body = b"text/html; charset=utf-8", _html(refusal)
    else:
        error = {"code": refusal.code, "message": refusal.message}
        content_type, body = b"application/json", msgspec.json.encode({"error": error})
    headers = [
        (b"Content-Type", content_type),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    return Answered(refusal.status, body, headers)


def _html(refusal: Refusal) -> bytes:
    title = html.escape(refusal.code.replace("_", " ").capitalize())
    return _PAGE.format(title=title, message=html.escape(refusal.message)).encode()
