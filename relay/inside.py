"""The gate for the web: calls to runtimes, and to ports in sandboxes.

    …      /sandboxes/{id}/{path}     the runtime's own `path`
    …      /ports/{id}/{port}/{path}  what listens on the port
    POST   /exposures/{id}            the exposed ports of a sandbox have changed: 204

It listens on a Unix socket that is its owner's alone.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable

import msgspec

from relay.doors import Doors, PortClosed, SandboxClosed
from relay.exposures import Exposures
from relay.messages import Header, RequestHead, end_to_end, without
from relay.routes import Answered, Route
from relay.traffic import Traffic
from sandbox_runtime.protocol.calls import REFUSED_HEADER
from sandbox_runtime.protocol.errors import (
    ErrorBody,
    InvalidRequest,
    PortNotListening,
    RuntimeFault,
    RuntimeUnreachable,
)
from workers.contract.errors import StoreUnavailable

_RUNTIME = re.compile(rb"/sandboxes/([a-z2-7]{26})(/.*)", re.DOTALL)
_PORT = re.compile(rb"/ports/([a-z2-7]{26})/([1-9][0-9]{0,4})(/.*)", re.DOTALL)
_EXPOSURES = re.compile(rb"/exposures/([a-z2-7]{26})")

_REFUSED: Header = (REFUSED_HEADER.encode(), b"1")
_NOT_PASSED_ON = frozenset({b"authorization", b"host"})


class InsideGate:
    """For who speaks for our own programs: it trusts what it is asked, and not what it asks."""

    def __init__(self, doors: Doors, exposures: Exposures, traffic: Traffic) -> None:
        self._doors = doors
        self._exposures = exposures
        self._traffic = traffic

    async def route(self, request: RequestHead, peer: str) -> Route:
        if match := _RUNTIME.fullmatch(request.target):
            return self._to_runtime(match[1].decode(), match[2], request)
        if match := _PORT.fullmatch(request.target):
            return self._to_port(match[1].decode(), int(match[2]), match[3], request)
        if request.method == b"POST" and (match := _EXPOSURES.fullmatch(request.target)):
            await self._look_again(match[1].decode())
        raise _refused(InvalidRequest("the relay has no such path"))

    def misread(self, status: int, message: str) -> Answered:
        return _refused(InvalidRequest(message), status)

    def gone(self, message: str) -> Answered:
        return _refused(RuntimeUnreachable(message))

    def _to_runtime(self, sandbox_id: str, target: bytes, request: RequestHead) -> Route:
        async def dial() -> socket.socket:
            try:
                return await self._doors.dial_runtime(sandbox_id)
            except SandboxClosed:
                raise _refused(RuntimeUnreachable("nobody answers on its socket")) from None

        try:
            token = self._doors.token(sandbox_id)
        except SandboxClosed:
            raise _refused(RuntimeUnreachable("it has no runtime")) from None
        headers = without(end_to_end(request.headers), _NOT_PASSED_ON)
        headers += [(b"Host", b"runtime"), (b"Authorization", b"Bearer " + token)]
        return Route((sandbox_id, None), dial, target, headers, True, list)

    def _to_port(self, sandbox_id: str, port: int, target: bytes, request: RequestHead) -> Route:
        async def dial() -> socket.socket:
            try:
                return await self._doors.dial_port(sandbox_id, port)
            except SandboxClosed:
                raise _refused(RuntimeUnreachable("nobody answers on its socket")) from None
            except PortClosed:
                message = f"nothing listens on port {port} in the sandbox"
                raise _refused(PortNotListening(message)) from None

        return Route((sandbox_id, port), dial, target, end_to_end(request.headers), False, _own)

    async def _look_again(self, sandbox_id: str) -> None:
        """Raises `Answered`, in any case."""
        try:
            for port in await self._exposures.look_again(sandbox_id):
                self._traffic.abort((sandbox_id, port))
        except StoreUnavailable as fault:
            raise _refused(RuntimeUnreachable(fault.message)) from fault
        raise Answered(204)


def _own(headers: Iterable[Header]) -> list[Header]:
    """A server in a sandbox cannot speak for us."""
    return without(headers, frozenset({_REFUSED[0].lower()}))


def _refused(fault: RuntimeFault, status: int | None = None) -> Answered:
    body: ErrorBody = fault.body()
    headers = [(b"Content-Type", b"application/json"), _REFUSED]
    return Answered(status or fault.http_status, msgspec.json.encode(body), headers)
