"""Engines and sessions for any script: `make_engine(url)`, `session_factory(url)`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from app.db.duckdb import CONNECT_CONFIG

POOL_SIZE = 10
POOL_OVERFLOW = 30  # together the server's worker threads


def normalize_url(url: str | URL) -> URL:
    """The URL with the driver this project uses; `postgres://` and `postgresql://` mean psycopg 3."""
    url = make_url(url)
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    return url


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
        options["connect_args"] = {"options": f"{given} -c timezone=utc".lstrip()}
        options["connect_args"] |= {"connect_timeout": url.query.get("connect_timeout", 10)}
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
