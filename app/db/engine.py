"""Engines and sessions for any script: `make_engine(url)`, `session_factory(url)`."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from app.db.duckdb import CONNECT_CONFIG
from app.db.postgresql import CONNECT_DEFAULTS

PASSWORDS = ("password", "sslpassword")
"""Where they stand in the query of a URL."""

POOL_SIZE = 10
POOL_OVERFLOW = 30  # together the server's worker threads

# A server asks so whether a client is still there whose machine may have lost its power; until then it keeps
# the client's locks. Its own default is two hours.
KEEPALIVES = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4"
SESSION = (
    "-c timezone=utc -c citus.multi_shard_modify_mode=sequential"
    r" -c default_transaction_isolation=read\ committed"
)
"""What sessions of PostgreSQL are set to. On shards, a transaction may change a table that is on every node
only while it uses one connection to each; where nothing is sharded, the second setting means nothing. Units
of work lock rows and then read what others committed: with more isolation, to wait would be to conflict."""


def normalize_url(url: str | URL) -> URL:
    """The URL with the driver this project uses; `postgres://` and `postgresql://` mean psycopg 3."""
    url = make_url(url)
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    return url


def require_supported(url: str) -> None:
    """Raises ValueError, which says what to write instead, for a URL that nothing can be served from."""
    try:
        driver = normalize_url(url).drivername
    except (ArgumentError, ValueError) as error:  # the latter for a port that is no number
        raise ValueError("is not a database URL; write it as postgresql://user:password@host/name") from error
    if driver not in ("duckdb", "postgresql+psycopg"):
        raise ValueError(
            f"names the database {driver}; use duckdb:///FILE or postgresql://user:password@host/name"
        )
    if driver == "duckdb" and embedded_file(url) is None:
        raise ValueError("names a database in memory, which would end with its process; name a file")
    if driver == "postgresql+psycopg" and find_spec("psycopg") is None:
        raise ValueError("needs the driver for PostgreSQL: pip install 'test-suite-db[postgres]'")


def file_url(file: Path) -> str:
    """The URL of an embedded file, whatever characters its name has."""
    return URL.create("duckdb", database=str(file)).render_as_string(hide_password=False)


def passwords(url: str | URL) -> set[str]:
    """The passwords in a URL, wherever they stand."""
    url = make_url(url)
    named = [url.normalized_query.get(name, ()) for name in PASSWORDS]
    return {password for password in (url.password, *chain(*named)) if password}


def shown_url(url: str | URL) -> str:
    """The URL as people may see it: without passwords, wherever they stand."""
    url = make_url(url).difference_update_query(PASSWORDS)
    file = embedded_file(url)
    return str(file) if file else url.render_as_string(hide_password=True)


def make_engine(url: str | URL, **kwargs: Any) -> Engine:
    """An engine for a DuckDB file (`duckdb:///runs.duckdb`) or PostgreSQL (`postgresql://user@host/name`).

    Sessions of a PostgreSQL engine run in UTC. Threads share a DuckDB file through the pool; a second process
    cannot open it while one holds it. Keyword arguments go to `sqlalchemy.create_engine`.
    """
    url = normalize_url(url)
    options: dict[str, Any] = {"json_serializer": partial(json.dumps, allow_nan=False)}
    if url.get_backend_name() == "duckdb":
        options["connect_args"] = {"config": CONNECT_CONFIG}
    else:
        # Beside what the URL says, which connect_args would replace.
        given = str(url.query.get("options", ""))
        options["connect_args"] = {"options": f"{KEEPALIVES} {given} {SESSION}"}
        defaults = CONNECT_DEFAULTS.items()
        options["connect_args"] |= {name: url.query.get(name, value) for name, value in defaults}
        options["pool_pre_ping"] = True
    if url.database != ":memory:" and "poolclass" not in kwargs:
        options |= {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW}
    return create_engine(url, **(options | kwargs))


def session_factory(bind: str | URL | Engine) -> sessionmaker[Session]:
    """A factory of sessions on an engine or URL; objects stay readable after a commit."""
    engine = bind if isinstance(bind, Engine) else make_engine(bind)
    return sessionmaker(engine, expire_on_commit=False)


def snapshot(engine: Engine) -> Engine:
    """The same pool, for reading: all statements of a transaction see the database at one moment, and none
    can write."""
    engine = engine.execution_options(postgresql_readonly=True)
    if engine.dialect.name == "postgresql":  # DuckDB's transactions always are snapshots
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    return engine


def embedded_file(url: str | URL) -> Path | None:
    """The file of an embedded database, or None for a server's or one in memory."""
    url = normalize_url(url)
    if url.get_backend_name() != "duckdb" or not url.database or url.database.startswith(":memory:"):
        return None
    return Path(url.database)
