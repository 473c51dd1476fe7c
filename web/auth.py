"""Says whose key a request carries, and whether that key may do what is asked."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

from flask import Request

from web.errors import CrossSiteRequest, ScopeMissing, Unauthorized
from web.keys import ALL_SCOPES, ApiKey, KeyStore, Scope, digest_of
from web.settings import Secret
from workers.contract.owners import NO_LIMITS, Limits

DEFAULT_OWNER = "default"

OPERATOR = "operator"
"""The id of the key that comes from the settings and is not in the database."""

REMEMBER_S = 1.0
"""How long a key that was found is not looked for again; so long it may outlive its end."""

MAX_REMEMBERED = 10_000

_SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Caller:
    """Who makes a request, and what that key may."""

    key_id: str
    owner: str
    scopes: frozenset[Scope]
    limits: Limits = NO_LIMITS

    def check(self, scope: Scope) -> None:
        """Raises `ScopeMissing`."""
        if scope not in self.scopes:
            raise ScopeMissing(scope, sorted(self.scopes))


_OPERATOR = Caller(OPERATOR, DEFAULT_OWNER, ALL_SCOPES)


class Authentication:
    """Knows callers by their keys."""

    def __init__(
        self,
        keys: KeyStore,
        *,
        operator_key: Secret | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._operator = operator_key and digest_of(operator_key.value)
        self._monotonic = monotonic
        self._remembered: dict[bytes, tuple[Caller, float]] = {}

    def caller_of(self, request: Request) -> Caller:
        """By `Authorization: Bearer` or `X-API-Key`.

        Raises `Unauthorized`, `DatabaseUnavailable`.
        """
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return self._caller(request.headers.get("X-API-Key", ""))
        return self._caller(credentials if scheme.lower() == "bearer" else "")

    def caller_of_page(self, request: Request) -> Caller:
        """As `caller_of`, or by HTTP Basic with the key as password, which browsers ask for.

        A browser sends that with whatever any page makes it send, so that a request which changes
        something must come from our own. Raises `CrossSiteRequest` besides.
        """
        basic = request.authorization
        if basic is None or basic.type != "basic":
            return self.caller_of(request)
        caller = self._caller(basic.password or "")
        if request.method not in _SAFE_METHODS:
            origin = request.headers.get("Origin", "")
            if origin.partition("://")[2] != request.host:
                raise CrossSiteRequest
        return caller

    def _caller(self, key: str) -> Caller:
        if not key:
            raise Unauthorized
        digest = digest_of(key)
        if self._operator and hmac.compare_digest(digest, self._operator):
            return _OPERATOR
        now = self._monotonic()
        caller, until = self._remembered.get(digest, (None, 0.0))
        if caller is not None and now < until:
            return caller
        found = self._keys.find(digest)
        if found is None:
            self._remembered.pop(digest, None)
            raise Unauthorized
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        caller = _caller_with(found)
        self._remembered[digest] = (caller, now + REMEMBER_S)
        return caller


def _caller_with(key: ApiKey) -> Caller:
    return Caller(key.id, key.owner, key.scopes, key.limits)
