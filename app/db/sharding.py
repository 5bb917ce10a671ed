"""Sharding: on a PostgreSQL with Citus, the tables are spread over its nodes by the run they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, MetaData, exc, text

from app.db.database import translated
from app.db.engine import embedded_file, make_engine
from app.db.migrate import require_current
from app.errors import Conflict

KEY = "run_id"

# The first: a table that references one which is on every node must not be filled over several connections.
# The second: no other local table becomes a part of the cluster because of a foreign key.
SETTINGS = (
    "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'",
    "SET LOCAL citus.enable_local_reference_table_foreign_keys TO off",
)

_PLACEMENTS = """
    SELECT table_name::text, citus_table_type, distribution_column, shard_count FROM citus_tables
    WHERE citus_table_type IN ('distributed', 'reference') ORDER BY citus_table_type DESC, table_name::text
"""


@dataclass(frozen=True)
class Placement:
    """Where the cluster has a table: in shards by a column, or (`column` is None) whole on every node."""

    table: str
    column: str | None
    shards: int


@dataclass(frozen=True)
class Sharding:
    """The statements that were needed, none where everything was in place, and where the tables are then."""

    statements: list[str]
    placements: list[Placement]


def plan(metadata: MetaData, placed: Collection[str] = ()) -> list[str]:
    """The statements, for one transaction, that place all tables but those placed already.

    A table whose primary key has the run's id is sharded by it, together with the one that the others refer
    to; any other table is copied to every node, before them.
    """
    distributed = [table.name for table in metadata.sorted_tables if KEY in table.primary_key.columns]
    references = [table.name for table in metadata.sorted_tables if table.name not in distributed]
    root = distributed[0]
    calls = {table: f"create_reference_table('{table}')" for table in references}
    calls[root] = f"create_distributed_table('{root}', '{KEY}')"
    for table in distributed[1:]:
        calls[table] = f"create_distributed_table('{table}', '{KEY}', colocate_with => '{root}')"
    needed = [f"SELECT {call}" for table, call in calls.items() if table not in placed]
    return [*SETTINGS, *needed] if needed else []


def shard(url: str, metadata: MetaData, *, dry_run: bool = False) -> Sharding:
    """Places the tables of a migrated database, in one transaction; what is placed already stays.

    With `dry_run` nothing is changed, and Citus need not be there. Raises Conflict where there is no Citus or
    it refuses, MigrationError unless every migration is applied, Unavailable when the server does not answer.
    """
    if embedded_file(url) is not None:
        raise Conflict("Sharding needs PostgreSQL with Citus; testdb move takes you there.")
    engine = make_engine(url)
    try:
        require_current(engine)
        with _refusing():
            return _shard(engine, metadata, dry_run=dry_run)
    finally:
        engine.dispose()


def _shard(engine: Engine, metadata: MetaData, *, dry_run: bool) -> Sharding:
    with engine.begin() as connection:
        there = connection.scalar(text("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"))
        if not there and not dry_run:
            raise Conflict(
                "This database has no Citus; where the server has it, run `CREATE EXTENSION citus` in the "
                "database and try again."
            )
        placements = _placements(connection, metadata) if there else []
        statements = plan(metadata, {placement.table for placement in placements})
        if not dry_run:
            for statement in statements:
                connection.exec_driver_sql(statement)
            placements = _placements(connection, metadata)
    return Sharding(statements, placements)


def _placements(connection: Connection, metadata: MetaData) -> list[Placement]:
    return [
        Placement(table, column if kind == "distributed" else None, shards)
        for table, kind, column, shards in connection.execute(text(_PLACEMENTS))
        if table in metadata.tables
    ]


@contextmanager
def _refusing() -> Iterator[None]:
    """Says in one sentence what the database does not do."""
    try:
        yield
    except exc.DBAPIError as error:
        said = translated(error)
        if said is not error:
            raise said from error
        raise Conflict(f"The database refuses: {str(error.orig).splitlines()[0]}") from error
