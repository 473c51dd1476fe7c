"""How Alembic reaches the database; `web.database.migrate` calls it."""

import sqlalchemy as sa
from alembic import context

from web.database import metadata

MIGRATION_LOCK = 0x636F6C64
"""Several programs may start at once: on PostgreSQL one of them migrates, and the others wait."""


def run() -> None:
    engine = sa.create_engine(context.config.attributes["url"])
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            connection.commit()
        context.configure(connection, target_metadata=metadata, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
