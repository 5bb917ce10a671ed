"""The product on a real Citus: the one-node cluster that TESTDB_TEST_CITUS_URL names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, delete, select

from app.config import Settings
from app.db import Database, bulk, make_engine
from app.db.bulk import insert_many, upsert_many
from app.db.migrate import config_file, migrate
from app.db.sharding import shard
from app.models import Base, TestRun, TestRunTag
from tests import tour
from tests.conftest import migrate_once
from tests.factories import contents, fill, rows
from tests.postgres import Databases
from tests.routers.conftest import openapi, serving
from tests.runner.suite import write_suite

__all__ = ["openapi"]

SERVER = os.environ.get("TESTDB_TEST_CITUS_URL", "")

pytestmark = pytest.mark.skipif(not SERVER, reason="TESTDB_TEST_CITUS_URL names no server with Citus")


@pytest.fixture
def url() -> Iterator[str]:
    """A migrated database with rows that came before it was sharded."""
    databases = Databases(SERVER, migrate_once)
    try:
        with databases.empty() as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION citus")
            migrate(url)
            yield url
    finally:
        databases.close()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


def test_rows_stay_when_they_are_sharded_and_while_the_schema_changes(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        fill(connection, 100)
        before = contents(connection)
    sharding = shard(url, Base.metadata)
    assert {placement.table: placement.column for placement in sharding.placements} == {
        table: None if table == "batch_test_runs" else "run_id" for table in Base.metadata.tables
    }
    assert shard(url, Base.metadata).statements == []
    config = Config(config_file())
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert contents(connection) == before
        command.upgrade(config, "head")
        command.check(config)
        assert contents(connection) == before


def test_rows_are_upserted_and_go_with_their_run(url: str) -> None:
    shard(url, Base.metadata)
    database = Database(url)
    database.write(insert_many, TestRun, rows(TestRun, range(50)))
    for variant in (0, 1):
        database.write(upsert_many, TestRunTag, rows(TestRunTag, range(100), variant))
    with database.transaction() as session:
        tags = session.scalars(select(TestRunTag.tag_value)).all()
        assert sorted(tags) == sorted(tag["tag_value"] for tag in rows(TestRunTag, range(100), 1))
        session.execute(delete(TestRun))
        assert session.scalars(select(TestRunTag)).all() == []
    database.close()


def test_every_endpoint_answers(
    url: str, tmp_path: Path, openapi: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "FEW_KEYS", tour.MANY // 2)  # so that many keys are sent the other way, too
    shard(url, Base.metadata)
    settings = Settings(
        database_url=url,
        suites=write_suite(tmp_path / "suite"),
        results_dir=tmp_path / "results",
        export_dir=tmp_path / "exports",
    )
    with serving(settings, openapi) as client:
        tour.take(client)
