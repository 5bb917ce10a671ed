"""Copying an embedded database while it is written, and putting a copy in its place."""

from __future__ import annotations

import contextlib
import os
import uuid
from contextlib import closing
from pathlib import Path

import duckdb
from sqlalchemy.engine.interfaces import DBAPICursor

from app.db.committed import locked_file, log_of, note_of
from app.db.database import Database, reason_of
from app.errors import Conflict, Unavailable

NOT_EMBEDDED = (
    "Only an embedded database is backed up and restored so; use pg_dump and pg_restore for PostgreSQL, or "
    "`testdb export` and `testdb import`."
)


def copy_database(database: Database, target: Path) -> dict[str, int]:
    """Writes a copy of one moment to a new file; returns how many rows each table has.

    The engine copies, since nobody else may open the file; writers go on meanwhile. Raises Conflict for a
    database that is not embedded, Unavailable when the copy cannot be written.
    """
    if database.shared:
        raise Conflict(NOT_EMBEDDED)
    name = f"copy_{uuid.uuid4().hex}"
    path = str(target).replace("'", "''")
    with closing(database.engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
        try:
            cursor.execute("SELECT current_database()")
            (source,) = cursor.fetchone() or ("",)
            cursor.execute(f"ATTACH '{path}' AS {name}")
            try:
                cursor.execute("BEGIN")
                quoted = source.replace('"', '""')
                cursor.execute(f'COPY FROM DATABASE "{quoted}" TO {name}')
                cursor.execute("COMMIT")
                cursor.execute(f"CHECKPOINT {name}")
                return _counts(cursor, name)
            finally:
                with contextlib.suppress(duckdb.Error):  # there is none after the commit
                    cursor.execute("ROLLBACK")
                cursor.execute(f"DETACH {name}")
        except duckdb.Error as error:
            raise Unavailable(f"The database cannot be copied: {reason_of(error)}") from error


def _counts(cursor: DBAPICursor, name: str) -> dict[str, int]:
    cursor.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = $1", (name,))
    counts = {}
    for (table,) in cursor.fetchall():
        cursor.execute(f'SELECT count(*) FROM {name}.main."{table}"')
        (counts[table],) = cursor.fetchone() or (0,)
    return counts


def replace_file(new: Path, file: Path, *, force: bool) -> None:
    """Gives a database file the name of another, whose log goes with it.

    Raises Conflict when that, or only its log, exists, unless `force`, and Unavailable while another process
    has it.
    """
    with locked_file(file) if file.exists() else contextlib.nullcontext():
        taken = [path for path in (file, log_of(file)) if path.exists()]
        if taken and not force:
            raise Conflict(f"{taken[0]} exists already; --force replaces it, and all that is in it.")
        sync(new)
        with locked_file(new):  # as soon as it has the name, a server could open it, with a log of its own
            new.replace(file)
            # The note goes last: until then a start refuses the old log.
            log_of(file).unlink(missing_ok=True)
            note_of(file).unlink(missing_ok=True)
        sync(file.parent)


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
