"""Says whose key a request carries."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from flask import Request

from web.errors import CrossSiteRequest, Unauthorized
from web.settings import Secret

DEFAULT_OWNER = "default"

_SAFE_METHODS = frozenset({"GET", "HEAD"})


class Keys:
    """The keys that open the API, and their owners."""

    def __init__(self, api_key: Secret) -> None:
        self._owners: Mapping[bytes, str] = {api_key.value.encode(): DEFAULT_OWNER}

    def owner_of(self, request: Request) -> str:
        """By `Authorization: Bearer` or `X-API-Key`. Raises `Unauthorized`."""
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return self._owner(request.headers.get("X-API-Key", ""))
        return self._owner(credentials if scheme.lower() == "bearer" else "")

    def owner_of_page(self, request: Request) -> str:
        """As `owner_of`, or by HTTP Basic with the key as password, which browsers ask for.

        A browser sends that with whatever any page makes it send, so that a request which changes
        something must come from our own. Raises `Unauthorized`, `CrossSiteRequest`.
        """
        basic = request.authorization
        if basic is None or basic.type != "basic":
            return self.owner_of(request)
        owner = self._owner(basic.password or "")
        if request.method not in _SAFE_METHODS:
            origin = request.headers.get("Origin", "")
            if origin.partition("://")[2] != request.host:
                raise CrossSiteRequest
        return owner

    def _owner(self, key: str) -> str:
        sent = key.encode("utf-8", "surrogateescape")
        for known, owner in self._owners.items():
            if hmac.compare_digest(sent, known):
                return owner
        raise Unauthorized
