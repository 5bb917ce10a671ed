"""How Alembic reaches the database: a given connection, `-x url=…`, or the settings."""

from __future__ import annotations

from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.sql.type_api import TypeEngine

from app.config import Settings
from app.db.committed import require_whole
from app.db.ddl import belongs_to
from app.db.engine import embedded_file, make_engine, normalize_url
from app.db.types import Key, UtcDateTime
from app.errors import AppError
from app.models import Base


def render_item(kind: str, item: Any, _context: Any) -> str | bool:
    """Writes the project's own column types into new revisions by their public names."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "app.db.UtcDateTime()"
    if kind == "type" and item is Key:
        return "app.db.Key"
    return False


def compare_type(
    _context: Any, _inspected: Any, _metadata: Any, inspected: TypeEngine[Any], metadata: TypeEngine[Any]
) -> bool | None:
    """A zoned and a naive timestamp are the same `UtcDateTime` on the engines that have them."""
    return (
        False if isinstance(metadata, UtcDateTime) and inspected.python_type is metadata.python_type else None
    )


def configure(dialect_name: str, **options: Any) -> None:
    def include_object(item: Any, _name: str | None, _kind: str, reflected: bool, _compared_to: Any) -> bool:
        return reflected or belongs_to(item, dialect_name)

    context.configure(
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=render_item,
        compare_type=compare_type,
        compare_server_default=True,
        include_object=include_object,
        **options,
    )


def run(connection: Connection) -> None:
    configure(connection.dialect.name, connection=connection)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Two deploys at once: the second waits, then finds nothing to do.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('test-suite-db migrations'))")
        context.run_migrations()


def main() -> None:
    config = context.config
    given: Connection | None = config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    if config.config_file_name:
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    url = context.get_x_argument(as_dictionary=True).get("url") or Settings().sqlalchemy_url
    if context.is_offline_mode():
        configure(
            normalize_url(url).get_backend_name(),
            url=normalize_url(url),
            literal_binds=True,
            dialect_opts={"paramstyle": "named"},
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    file = embedded_file(url)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            require_whole(file)  # opened without a word, a damaged log would be folded into the file
        except AppError as error:
            raise CommandError(error.detail) from error
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            run(connection)
    finally:
        engine.dispose()


main()
