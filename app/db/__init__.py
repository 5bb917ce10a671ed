"""The database layer: engines, sessions, units of work, migrations. All engine differences live here."""

from app.db import duckdb, postgresql
from app.db.database import Database
from app.db.engine import make_engine, session_factory
from app.db.types import Key, UtcDateTime, utcnow

duckdb.register()
postgresql.register()

__all__ = ["Database", "Key", "UtcDateTime", "make_engine", "session_factory", "utcnow"]
