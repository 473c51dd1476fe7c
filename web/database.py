"""The database of what is kept for good: SQLite, or PostgreSQL by its URL.

Tables are made and changed by the migrations in `migrations/`, which `python -m web migrate` runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from web.errors import DatabaseUnavailable
from web.settings import Secret

CONNECT_TIMEOUT_S = 2
BUSY_TIMEOUT_S = 5
"""What a writer of SQLite waits for another one."""

metadata = sa.MetaData()

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("owner", sa.String(63), nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("created_by", sa.String(26), nullable=False),
    sa.Column("expires_at", sa.String(32)),
    sa.Column("revoked_at", sa.String(32)),
)
"""Times are RFC 3339, in UTC, all with as many digits: they sort as text."""


class Database:
    """Opens connections. Safe to share between threads, and between greenlets."""

    def __init__(self, url: Secret) -> None:
        self._engine = sa.create_engine(
            _with_driver(make_url(url.value)), pool_pre_ping=True, connect_args=_timeouts(url.value)
        )
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Raises `DatabaseUnavailable`."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.IntegrityError:
            raise
        except sa.exc.SQLAlchemyError as error:
            raise DatabaseUnavailable(
                f"The database does not answer: {_first_line(error)}"
            ) from error

    def close(self) -> None:
        self._engine.dispose()


def migrate(url: Secret) -> None:
    """Brings the tables to the newest form. Raises `DatabaseUnavailable`."""
    # Only here: the web itself has no use for it.
    from alembic import command
    from alembic.config import Config

    parsed = _with_driver(make_url(url.value))
    if parsed.drivername.startswith("sqlite") and parsed.database:
        _make_private(Path(parsed.database))
    config = Config()
    config.set_main_option("script_location", "web:migrations")
    config.attributes["url"] = parsed
    try:
        command.upgrade(config, "head")
    except sa.exc.SQLAlchemyError as error:
        raise DatabaseUnavailable(f"The database does not answer: {_first_line(error)}") from error


def _with_driver(url: URL) -> URL:
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    return url


def _timeouts(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"timeout": BUSY_TIMEOUT_S}
    return {"connect_timeout": CONNECT_TIMEOUT_S}


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _make_private(path: Path) -> None:
    """A file that only its owner reads, before SQLite would make one that others can."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
