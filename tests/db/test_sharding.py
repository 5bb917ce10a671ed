"""Whether the schema and every statement of the product suit a database that Citus shards by run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.config import Settings
from app.db import Database, bulk
from app.db.sharding import SETTINGS, plan
from app.models import Base
from tests import tour
from tests.marks import ON_POSTGRESQL
from tests.routers.conftest import openapi, serving
from tests.runner.suite import write_suite
from tests.shards import DISTRIBUTED, problems, schema_problems, statements_watched

__all__ = ["openapi"]


@pytest.fixture
def planner(database: Database) -> None:
    """Skips the test where plans do not say enough."""
    with database.engine.connect() as connection:
        if (connection.dialect.server_version_info or ()) < (17,):
            pytest.skip("Plans name the column that a hashed subquery is compared with since PostgreSQL 17.")


def endpoints(openapi: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in openapi["paths"].items() for method in methods}


def test_the_models_say_which_tables_are_sharded() -> None:
    assert set(Base.metadata.tables) - DISTRIBUTED == {"batch_test_runs"}
    *settings, first, second = plan(Base.metadata)[:4]
    assert tuple(settings) == SETTINGS
    assert (first, second) == (
        "SELECT create_reference_table('batch_test_runs')",
        "SELECT create_distributed_table('test_runs', 'run_id')",
    )


@ON_POSTGRESQL
def test_the_schema_can_be_sharded(database: Database) -> None:
    with database.engine.connect() as connection:
        assert connection.scalar(text("SHOW citus.multi_shard_modify_mode")) == "sequential"
        assert schema_problems(connection) == []
        for change in (
            "CREATE UNIQUE INDEX ON test_run_tags (tag_name)",
            "ALTER TABLE test_run_steps ADD number bigint GENERATED ALWAYS AS IDENTITY",
            "ALTER TABLE test_run_steps ADD number serial",
            "ALTER TABLE test_run_artifacts DROP CONSTRAINT test_run_artifacts_pkey",
            "ALTER TABLE test_run_tags ADD FOREIGN KEY (tag_value) REFERENCES test_runs (run_id)",
            "ALTER TABLE batch_test_runs ADD FOREIGN KEY (creator) REFERENCES test_runs (run_id)",
        ):
            connection.execute(text(change))
            assert schema_problems(connection), change
            connection.rollback()


@ON_POSTGRESQL
@pytest.mark.usefixtures("planner")
def test_every_statement_can_be_sent_to_shards(
    url: str, tmp_path: Path, openapi: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "FEW_KEYS", tour.MANY // 2)  # so that many keys are sent the other way, too
    settings = Settings(
        database_url=url,
        suites=write_suite(tmp_path / "suite"),
        results_dir=tmp_path / "results",
        export_dir=tmp_path / "exports",
    )
    with (
        serving(settings, openapi) as client,
        statements_watched(client.app.state.database.engine) as seen,  # type: ignore[attr-defined]
    ):
        only_embedded = {("POST", "/api/test/db/backup")}
        assert tour.take(client) == endpoints(openapi) - only_embedded
    assert len(seen) > 100
    assert {statement: found for statement, found in seen.items() if found} == {}


@ON_POSTGRESQL
@pytest.mark.usefixtures("planner")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FROM test_runs, test_run_tags",
        "SELECT 1 FROM test_run_batch AS a JOIN test_run_batch AS b ON a.batch_id = b.batch_id",
        "SELECT 1 FROM test_runs WHERE EXISTS (SELECT FROM test_run_tags WHERE tag_value = test_runs.run_id)",
        "SELECT 1 FROM test_runs r JOIN test_run_tags t ON r.run_id = t.run_id OR t.tag_name = r.run_id",
        "SELECT 1 FROM test_runs WHERE run_id IN (SELECT tag_value FROM test_run_tags) OR status = 'x'",
        "SELECT (SELECT count(*) FROM test_run_tags) FROM test_runs",
        "SELECT 1 FROM test_runs UNION ALL SELECT 1 FROM test_run_tags, test_run_steps",
        "SELECT 1 FROM test_runs WHERE run_id IN ('a', 'b') FOR UPDATE",
        "SELECT 1 FROM test_runs WHERE run_id = 'a' FOR UPDATE SKIP LOCKED",
        "SELECT status, count(*) FROM test_runs GROUP BY ROLLUP (status)",
        "SELECT 1 FROM test_runs WHERE EXISTS (SELECT FROM (SELECT lower(run_id) AS a) AS t WHERE a = 'x')",
        "UPDATE test_runs SET status = 'x', run_id = 'y' WHERE run_id = 'z'",
        "DELETE FROM batch_test_runs WHERE batch_id IN (SELECT batch_id FROM test_run_batch)",
    ],
)
def test_what_could_not_be_sent_is_noticed(database: Database, statement: str) -> None:
    with database.engine.connect() as connection:
        assert problems(connection.connection.cursor(), statement), statement


@ON_POSTGRESQL
@pytest.mark.usefixtures("planner")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FROM test_runs r JOIN test_run_tags t USING (run_id) JOIN test_run_steps s USING (run_id)",
        "SELECT 1 FROM test_runs r, test_run_tags t WHERE r.run_id = 'a' AND t.run_id = 'a'",
        "SELECT 1 FROM test_run_batch JOIN batch_test_runs USING (batch_id) WHERE run_id = 'a' FOR UPDATE",
        "SELECT run_id FROM test_runs UNION ALL SELECT run_id FROM test_run_tags",
        "SELECT 1 FROM test_runs WHERE run_id IN (SELECT run_id FROM test_run_tags) OR status = 'x'",
    ],
)
def test_what_can_be_sent_is_let_through(database: Database, statement: str) -> None:
    with database.engine.connect() as connection:
        assert problems(connection.connection.cursor(), statement) == []
