"""API keys: whose they are, what they may, and where they are kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa

from web.database import Database, api_keys
from web.errors import KeyNotFound
from workers.contract.jobs import new_id
from workers.contract.owners import NO_LIMITS, Limits

KEY_PREFIX = "cf_"
KEY_BYTES = 24

OWNER_PATTERN = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""It is part of the names of Redis' keys."""


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    RUN = "run"
    """Whatever changes something: make sandboxes, run jobs, write files."""
    ADMIN = "admin"
    """Keys of all owners, nodes, Flower."""


ALL_SCOPES = frozenset(Scope)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without the text that opens the API: nobody has that but who got it."""

    id: str
    owner: str
    name: str
    scopes: frozenset[Scope]
    limits: Limits = NO_LIMITS
    created_at: str
    created_by: str
    """The key that it was made with."""
    expires_at: str | None = None
    revoked_at: str | None = None


class KeyStore:
    """The keys in the database. A key itself is not there: its SHA-256 is.

    It has 192 random bits, so that there is nothing to guess, and to slow down no need.
    """

    def __init__(self, database: Database, *, now: Callable[[], str]) -> None:
        self._database = database
        self._now = now

    def create(
        self,
        *,
        owner: str,
        name: str,
        scopes: frozenset[Scope],
        limits: Limits,
        created_by: str,
        expires_at: str | None = None,
    ) -> tuple[ApiKey, str]:
        """The key's record and the key itself, which is told this once."""
        text = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        key = ApiKey(
            id=new_id(),
            owner=owner,
            name=name,
            scopes=scopes,
            limits=limits,
            created_at=self._now(),
            created_by=created_by,
            expires_at=expires_at,
        )
        with self._database.transaction() as connection:
            connection.execute(
                sa.insert(api_keys).values(digest=digest_of(text), **msgspec.to_builtins(key))
            )
        return key, text

    def find(self, digest: bytes) -> ApiKey | None:
        """The key of which this is the digest, if it is neither revoked nor expired."""
        valid = sa.and_(
            api_keys.c.digest == digest,
            api_keys.c.revoked_at.is_(None),
            sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > self._now()),
        )
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(api_keys).where(valid)).first()
        return None if row is None else _key(row)

    def get(self, key_id: str) -> ApiKey:
        """Raises `KeyNotFound`."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).first()
        if row is None:
            raise KeyNotFound(key_id)
        return _key(row)

    def page(self, *, owner: str | None, after: str | None, limit: int) -> list[ApiKey]:
        """Newest first, from the one after the id `after`."""
        wanted = sa.select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
        if owner is not None:
            wanted = wanted.where(api_keys.c.owner == owner)
        if after is not None:
            last = self.get(after)
            wanted = wanted.where(
                sa.tuple_(api_keys.c.created_at, api_keys.c.id)
                < sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            )
        with self._database.transaction() as connection:
            return [_key(row) for row in connection.execute(wanted.limit(limit))]

    def revoke(self, key_id: str) -> None:
        """Its record stays. Fine where it is revoked. Raises `KeyNotFound`."""
        with self._database.transaction() as connection:
            revoked = connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=self._now())
            )
        if revoked.rowcount == 0:
            self.get(key_id)


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _key(row: sa.Row[Any]) -> ApiKey:
    # Their names are a kind of text of SQLAlchemy's own.
    return msgspec.convert({str(name): value for name, value in row._mapping.items()}, ApiKey)
