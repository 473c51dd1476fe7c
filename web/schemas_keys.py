"""What is said of API keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from web.errors import InvalidField
from web.keys import OWNER_PATTERN, ApiKey, Scope
from web.schemas import _END, MAX_PAGE, Cursor, Limit, _Answer, _Request
from workers.contract.clock import timestamp_of
from workers.contract.owners import Limits

Owner: TypeAlias = Annotated[str, Meta(pattern=rf"{OWNER_PATTERN.removesuffix('$')}{_END}")]
KeyName: TypeAlias = Annotated[str, Meta(pattern=rf"^[^\x00-\x1f\x7f]{{0,200}}{_END}")]
Many: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Some: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]


class LimitsRequest(_Request, frozen=True, kw_only=True):
    """What the key's owner may have; what is left out has no limit."""

    sandboxes: Many | None = None
    jobs_at_once: Some | None = None
    open_jobs: Many | None = None
    requests_per_second: Some | None = None


class KeyRequest(_Request, frozen=True, kw_only=True):
    """A key to make."""

    owner: Owner
    """Whose sandboxes and jobs it opens. There is nothing to be made before."""
    name: KeyName = ""
    """For people."""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=3)] = (Scope.READ, Scope.RUN)
    limits: LimitsRequest = LimitsRequest()
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None

    def expiry(self) -> str | None:
        """As it is kept. Raises `InvalidField`."""
        if self.expires_at is None:
            return None
        if self.expires_at <= datetime.now(UTC):
            raise InvalidField("expiresAt", "Must be in the future.")
        return timestamp_of(self.expires_at)

    def to_limits(self) -> Limits:
        asked = self.limits
        return Limits(
            sandboxes=asked.sandboxes,
            jobs_at_once=asked.jobs_at_once,
            open_jobs=asked.open_jobs,
            requests_per_second=asked.requests_per_second,
        )


class KeysQuery(_Request, frozen=True, kw_only=True):
    """Which part of the list of keys, and whose."""

    cursor: Cursor | None = None
    limit: Limit = MAX_PAGE
    owner: Owner | None = None


class KeyView(_Answer, frozen=True, kw_only=True):
    """A key, without what opens the API."""

    id: str
    owner: str
    name: str
    scopes: list[Scope]
    limits: Limits
    created_at: str
    created_by: str
    """Id of the key that it was made with; `operator`: of the one in the settings."""
    expires_at: str | UnsetType = UNSET
    revoked_at: str | UnsetType = UNSET


class NewKeyView(KeyView, frozen=True, kw_only=True):
    """A key that was just made."""

    key: str
    """To be sent as `Authorization: Bearer`. It is kept nowhere here, and never shown again."""


class KeysPage(_Answer, frozen=True, kw_only=True):
    """Some keys, newest first."""

    keys: list[KeyView]
    next_cursor: str | UnsetType = UNSET


def key_view(key: ApiKey) -> KeyView:
    return KeyView(**_fields(key))


def new_key_view(key: ApiKey, text: str) -> NewKeyView:
    return NewKeyView(key=text, **_fields(key))


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "owner": key.owner,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "limits": key.limits,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at or UNSET,
        "revoked_at": key.revoked_at or UNSET,
    }
