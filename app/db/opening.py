"""Opening a database to work with: there, reachable, migrated."""

from __future__ import annotations

from pathlib import Path

from app.db.committed import Committed, require_whole
from app.db.database import Database
from app.db.engine import embedded_file, normalize_url
from app.db.migrate import explain_open_error, not_writable, prepare, require_current
from app.errors import NotFound, Unavailable

READ_ONLY = {"access_mode": "READ_ONLY", "memory_limit": "1GB"}
"""A large table is sorted with the help of the disk, not of all the memory there is."""


def open_database(
    url: str, *, write_timeout: float = 60.0, create: bool = True, accept_loss: bool = False
) -> Database:
    """The database, ready for use.

    An embedded file is migrated first, and made when it does not exist (NotFound unless `create`); a server's
    database must be migrated already. Raises MigrationError or Unavailable, and DataLost for a damaged file
    unless `accept_loss`: then what is left is opened, and `lost` of the database says what is not.
    """
    file = embedded_file(url)
    lost = None if file is None else require_whole(file, accept_loss=accept_loss)
    if not create:
        _require_file(file)
    new = file if file is not None and not file.exists() else None
    prepare(url)
    if new is not None:
        require_whole(new)  # which learns what the notes are to say of it
    database = _ready(Database(url, write_timeout=write_timeout), file)
    if file is not None:
        try:
            database.keep_note(Committed(file), lost)
        except OSError as error:
            database.close()
            raise Unavailable(not_writable(file, str(error.strerror))) from error
    return database


def open_to_read(url: str) -> Database:
    """The database, of which nothing changes: no revision is applied, and a file not even checkpointed.

    Raises NotFound, MigrationError when a revision is pending, DataLost for a damaged file, or Unavailable.
    """
    file = embedded_file(url)
    _require_file(file)
    if file is None:
        return _ready(Database(url), file)
    require_whole(file, accept_loss=False)
    return _ready(Database(normalize_url(url).update_query_dict(READ_ONLY)), file)


def _require_file(file: Path | None) -> None:
    if file is not None and not file.exists():
        raise NotFound(f"There is no database at {file}; start a server on it, or import something first.")


def _ready(database: Database, file: Path | None) -> Database:
    try:
        _reach(database, file)
        require_current(database.engine)
    except BaseException:
        database.close()
        raise
    return database


def _reach(database: Database, file: Path | None) -> None:
    try:
        database.ping()
    except Unavailable as error:
        reason = getattr(error.__cause__, "orig", None)
        if file is None or reason is None:
            raise
        # Another process took the file since it was prepared.
        raise Unavailable(explain_open_error(file, reason)) from error
