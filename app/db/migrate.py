"""Migrations from Python: what revision a database has, what is pending, and applying it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import duckdb
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, exc, inspect

import app
from app.db.committed import require_whole
from app.db.database import FAILURES, translated
from app.db.duckdb import CONNECT_CONFIG
from app.db.engine import embedded_file, make_engine, normalize_url
from app.db.types import utcnow
from app.errors import MigrationError, Unavailable

FULL = re.compile("No space left on device|File too large")
"""How the system says that there is no room for a file."""


@dataclass(frozen=True)
class Revisions:
    """The revision a database has (None: no tables yet) and the one this version works with."""

    current: str | None
    head: str

    @property
    def pending(self) -> bool:
        return self.current != self.head


def config_file() -> Path:
    """The `alembic.ini` of the checkout, or of the installed package."""
    package = Path(app.__file__).parent
    installed = package / "alembic.ini"
    return installed if installed.exists() else package.parent / "alembic.ini"


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Brings the schema to a revision, in one transaction."""
    config = Config(config_file())
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def revisions(engine: Engine) -> Revisions:
    """Compares the database with this version; raises MigrationError when it is from a newer one."""
    with _answering(), engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None and inspect(connection).has_table("test_runs"):
            raise MigrationError(
                "The database has a table test_runs that no migration made; choose an empty database."
            )
    return _known(current)


def require_current(engine: Engine) -> str:
    """The revision; raises MigrationError, with the command that helps, unless every migration is applied."""
    found = revisions(engine)
    if found.pending:
        raise MigrationError(
            f"The database is at revision {found.current or '(none)'} and this version needs {found.head}; "
            "run `testdb migrate` or `alembic upgrade head` first."
        )
    return found.head


def prepare(url: str) -> Path | None:
    """Makes sure that an embedded file exists and is migrated; a server's database is left alone.

    A new file is made under another name and renamed, so it is never seen half-made. An older file is copied
    first, to `<file>.<revision>-<time>.bak` beside it. Returns that copy's path, if one was made. Raises
    MigrationError for a file from a newer version or of another kind, which stays untouched.
    """
    file = embedded_file(url)
    if file is None:
        return None
    if not file.exists():
        _create(file)
    found = _known(_revision_of(file))
    if not found.pending:
        return None
    copy = None
    if found.current is not None:
        copy = _copy_beside(file, found.current, utcnow())
    _upgrade_file(file)
    return copy


def migrate(url: str) -> tuple[str | None, str, Path | None]:
    """Applies what is pending; returns the revisions before and after, and the copy of an embedded file.

    Raises MigrationError, Unavailable, and DataLost for a damaged file, which stays untouched.
    """
    file = embedded_file(url)
    if file is not None:
        require_whole(file)
        before = _known(_revision_of(file) if file.exists() else None)
        copy = prepare(url)
        return before.current, before.head, copy
    engine = make_engine(normalize_url(url))
    try:
        found = revisions(engine)
        if found.pending:
            with _answering():
                upgrade(engine)
        return found.current, found.head, None
    finally:
        engine.dispose()


@contextmanager
def _answering() -> Iterator[None]:
    """Says in one sentence that a server cannot be reached."""
    try:
        yield
    except FAILURES as error:
        raise translated(error) from error


@cache
def _scripts() -> tuple[str, frozenset[str]]:
    """The newest revision, and all that this version knows."""
    scripts = ScriptDirectory.from_config(Config(config_file()))
    head = scripts.get_current_head()
    assert head is not None
    return head, frozenset(script.revision for script in scripts.walk_revisions())


def _known(current: str | None) -> Revisions:
    head, known = _scripts()
    if current is not None and current not in known:
        raise MigrationError(
            f"The database is at revision {current}, which this version does not know: it was written by a "
            "newer version of the Test Suite Database. Install that version; nothing was changed."
        )
    return Revisions(current, head)


def _revision_of(file: Path) -> str | None:
    """Reads the revision without changing the file, not even by replaying its log."""
    try:
        with duckdb.connect(str(file), read_only=True, config=CONNECT_CONFIG) as connection:
            found = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            tables = {name for (name,) in found}
            if "alembic_version" in tables:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                if row is not None:
                    return str(row[0])
    except duckdb.Error as error:
        raise Unavailable(explain_open_error(file, error)) from error
    if tables - {"alembic_version"}:
        raise MigrationError(
            f"{file} is a DuckDB file with other tables, not a Test Suite Database; choose another file."
        )
    return None


def explain_open_error(file: Path, error: Exception) -> str:
    """One sentence for why an embedded file does not open, and what to do."""
    reason = str(error)
    if "Could not set lock" in reason or "used by another process" in reason:  # the latter on Windows
        return (
            f"{file} is held by another process; work through the server that has it "
            "(--url http://HOST:PORT), or stop that process."
        )
    if denied := re.search("Permission denied|Read-only file system", reason):
        return not_writable(file, denied[0])
    if full := FULL.search(reason):
        return f"{file} cannot be written ({full[0]}); make room for it, then run this again."
    if "Corrupt database file" in reason:
        return f"{file} is damaged ({reason.splitlines()[0]}); restore a backup."
    return f"{file} cannot be opened as a DuckDB database: {reason.splitlines()[0]}"


def not_writable(file: Path, reason: str) -> str:
    """One sentence for an embedded file that this process may not write, or not beside it."""
    return (
        f"{file} cannot be used ({reason}); make the file and its folder readable and writable for the user "
        "that runs this, or choose another file with --db-path."
    )


def _create(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(not_writable(file, str(error.strerror))) from error
    new = file.with_name(f"{file.name}.new-{os.getpid()}")
    new.unlink(missing_ok=True)  # a container that was killed comes back with the same process id
    try:
        _upgrade_file(new, named=file)
        _publish(new, file)
    finally:
        new.unlink(missing_ok=True)


def _publish(new: Path, file: Path) -> None:
    """Gives the file its name, unless another process was faster: its file may hold rows already."""
    try:
        file.hardlink_to(new)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        new.rename(file)


def _copy_beside(file: Path, revision: str, now: datetime) -> Path:
    copy = file.with_name(f"{file.name}.{revision}-{now:%Y%m%dT%H%M%S}.bak")
    part = file.with_name(f"{file.name}.bak.part")
    try:
        # Replays the log into the file, so that the file alone is the whole database.
        with duckdb.connect(str(file), config=CONNECT_CONFIG) as connection:
            connection.execute("CHECKPOINT")
        shutil.copy2(file, part)
        part.replace(copy)
    except (duckdb.Error, OSError) as error:
        part.unlink(missing_ok=True)
        raise Unavailable(explain_open_error(file, error)) from error
    return copy


def _upgrade_file(file: Path, *, named: Path | None = None) -> None:
    """Applies what is pending; errors speak of `named`, if that is what the file is for."""
    engine = make_engine(URL.create("duckdb", database=str(file)))
    try:
        upgrade(engine)
    except exc.DBAPIError as error:
        if isinstance(error.orig, duckdb.IOException) or FULL.search(str(error.orig)):
            raise Unavailable(explain_open_error(named or file, error.orig or error)) from error
        raise
    finally:
        engine.dispose()
