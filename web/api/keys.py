"""The routes of API keys."""

from __future__ import annotations

from flask import Response, g
from msgspec import UNSET

from web.errors import InvalidField, KeyNotFound
from web.keys import ApiKey, KeyStore, Scope
from web.operations import Operation, json_answer, no_content
from web.schemas_keys import (
    KeyRequest,
    KeysPage,
    KeysQuery,
    KeyView,
    NewKeyView,
    key_view,
    new_key_view,
)


class KeyRoutes:
    """Keys of all owners: for who runs the platform."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    def operations(self) -> list[Operation]:
        one = "/v1/keys/{id}"
        admin = Scope.ADMIN
        return [
            Operation("POST", "/v1/keys", self.create, {201: NewKeyView}, scope=admin),
            Operation("GET", "/v1/keys", self.list_all, {200: KeysPage}, scope=admin),
            Operation("GET", one, self.get, {200: KeyView}, scope=admin),
            Operation("DELETE", one, self.revoke, {204: None}, scope=admin),
        ]

    def create(self, body: KeyRequest) -> Response:
        """Makes a key. The answer is the only place that ever shows it."""
        key, text = self._keys.create(
            owner=body.owner,
            name=body.name,
            scopes=frozenset(body.scopes),
            limits=body.to_limits(),
            created_by=g.caller.key_id,
            expires_at=body.expiry(),
        )
        return json_answer(new_key_view(key, text), 201, {"Location": f"/v1/keys/{key.id}"})

    def list_all(self, query: KeysQuery) -> Response:
        """Keys, newest first, revoked ones too."""
        try:
            found = self._keys.page(owner=query.owner, after=query.cursor, limit=query.limit + 1)
        except KeyNotFound as fault:
            raise InvalidField("cursor", "Must be a `nextCursor` of this list.") from fault
        return json_answer(_page(found, query.limit))

    def get(self, id: str) -> Response:
        """A key's record, without the key."""
        return json_answer(key_view(self._keys.get(id)))

    def revoke(self, id: str) -> Response:
        """Ends a key, within a second; what was begun with it goes on."""
        self._keys.revoke(id)
        return no_content()


def _page(found: list[ApiKey], limit: int) -> KeysPage:
    shown = [key_view(key) for key in found[:limit]]
    return KeysPage(keys=shown, next_cursor=shown[-1].id if len(found) > limit else UNSET)
