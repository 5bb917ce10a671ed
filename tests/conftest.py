"""Databases for the tests. A test that asks for `url`, `database` or `settings` runs on each engine."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.config import Settings
from app.db import Database, make_engine
from app.db.migrate import upgrade
from tests.postgres import Databases, postgres_server

KEPT = ("TESTDB_TEST_POSTGRES_URL", "TESTDB_TEST_CITUS_URL")


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.upper().startswith("TESTDB_") and name not in KEPT:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The maintenance database of a PostgreSQL server that starts when the first test asks."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_databases(postgres_url: str) -> Iterator[Databases]:
    databases = Databases(postgres_url, migrate_once)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def duckdb_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, which each test's own is copied from."""
    file = tmp_path_factory.mktemp("template") / "migrated.duckdb"
    migrate_once(f"duckdb:///{file}")
    return file


def migrate_once(url: str) -> None:
    engine = make_engine(url)
    try:
        upgrade(engine)
    finally:
        engine.dispose()


@pytest.fixture(params=["duckdb", "postgresql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_url(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Makes databases on the engine: `new_url()` a migrated one, `new_url(migrated=False)` an empty one."""
    with ExitStack() as lent:

        def make(*, migrated: bool = True) -> str:
            if engine_name == "duckdb":
                file = tmp_path / f"{uuid.uuid4().hex[:8]}.duckdb"
                if migrated:
                    shutil.copy(request.getfixturevalue("duckdb_template"), file)
                return f"duckdb:///{file}"
            postgres: Databases = request.getfixturevalue("postgres_databases")
            return lent.enter_context(postgres.migrated() if migrated else postgres.empty())

        yield make


@pytest.fixture
def url(new_url: Callable[..., str]) -> str:
    """A fresh migrated database."""
    return new_url()


@pytest.fixture
def empty_url(new_url: Callable[..., str]) -> str:
    """A fresh database without any table; on DuckDB the file does not exist yet."""
    return new_url(migrated=False)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=url, export_dir=tmp_path / "exports", results_dir=tmp_path / "results")
