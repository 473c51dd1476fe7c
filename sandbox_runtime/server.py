"""Answers the runtime's socket: lets in who has the token, and turns faults into answers."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import structlog
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from sandbox_runtime.http import refusal
from sandbox_runtime.protocol.errors import NotAuthorized, RuntimeFault

log = structlog.get_logger()


class Api:
    """The ASGI application of one runtime."""

    def __init__(self, *, token: str, routes: Iterable[BaseRoute]) -> None:
        self._authorization = f"Bearer {token}".encode()
        self._router = Router(list(routes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._authorize(scope)
            await self._router(scope, receive, send)
        except RuntimeFault as fault:
            await refusal(fault)(scope, receive, send)
        except Exception:
            log.exception("request failed", path=scope["path"])
            await refusal(RuntimeFault("the runtime failed"))(scope, receive, send)

    def _authorize(self, scope: Scope) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._authorization):
            raise NotAuthorized("the token is missing or wrong")
