"""`testdb shard`: what it asks of Citus, in what order, and what it says without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from app.models import Base
from tests.citus import install
from tests.cli.helpers import answer, invoke, options_of, refused
from tests.conftest import migrate_once
from tests.marks import ON_DUCKDB, ON_POSTGRESQL

CHILDREN = {table for table in Base.metadata.tables if table not in ("test_runs", "batch_test_runs")}
CALLS = "SELECT kind, placed::text, by_column, with_table FROM citus.calls ORDER BY position"

MODES = "SELECT count(DISTINCT transaction), mode, local_keys FROM citus.calls GROUP BY mode, local_keys"


@pytest.fixture
def cluster(new_url: Callable[..., str]) -> str:
    """A migrated database in which Citus seems to be; nobody else gets it."""
    url = new_url(migrated=False)
    migrate_once(url)
    install(url)
    return url


def ask(url: str, *statements: str) -> list[Any]:
    """Executes the statements; returns the rows of the last."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@ON_POSTGRESQL
def test_every_table_is_placed_in_one_transaction_and_only_once(cluster: str) -> None:
    told = invoke("shard", *options_of(cluster))
    assert (told.exit_code, told.stderr) == (0, "")
    lines = [line.split() for line in told.stdout.splitlines()]
    assert lines[:2] == [["TABLE", "PLACED", "SHARDS"], ["batch_test_runs", "on", "every", "node", "1"]]
    assert lines[2:] == [[table, "by", "run_id", "32"] for table in sorted({"test_runs", *CHILDREN})]
    first, second, *others = ask(cluster, CALLS)
    assert first == ("reference", "batch_test_runs", None, None)
    assert second == ("distributed", "test_runs", "run_id", "default")
    assert {table for _, table, *_ in others} == CHILDREN
    assert {(kind, *how) for kind, _, *how in others} == {("distributed", "run_id", "test_runs")}
    assert ask(cluster, MODES) == [(1, "sequential", "off")]

    again = invoke("shard", *options_of(cluster))
    assert again.stdout == f"{told.stdout}Already sharded; nothing to do.\n"
    assert answer("shard", *options_of(cluster))["statements"] == []
    assert len(ask(cluster, CALLS)) == len(Base.metadata.tables)


@ON_POSTGRESQL
def test_a_table_that_came_later_joins_the_others(cluster: str) -> None:
    everything = answer("shard", *options_of(cluster))
    ask(cluster, "DELETE FROM citus.calls WHERE placed = 'test_run_tags'::regclass")
    later = answer("shard", *options_of(cluster))
    assert later["statements"][-1:] == [
        "SELECT create_distributed_table('test_run_tags', 'run_id', colocate_with => 'test_runs')"
    ]
    assert len(later["statements"]) == 3
    assert later["placements"] == everything["placements"]


@ON_POSTGRESQL
def test_a_refusal_leaves_every_table_where_it_was(cluster: str) -> None:
    ask(cluster, "CREATE UNIQUE INDEX wrong ON test_run_artifacts (artifact_path)")
    message = refused("shard", *options_of(cluster))
    assert message.endswith('The database refuses: cannot create constraint on "test_run_artifacts"')
    assert ask(cluster, CALLS) == []


@ON_POSTGRESQL
def test_the_script_for_an_administrator_does_the_same(cluster: str, url: str) -> None:
    script = invoke("shard", *options_of(url), "--dry-run").stdout  # on a server without Citus
    assert invoke("shard", *options_of(cluster), "--dry-run").stdout == script
    assert ask(cluster, CALLS) == []
    ask(cluster, *script.splitlines())
    assert ask(cluster, MODES) == [(1, "sequential", "off")]
    assert "Already sharded" in invoke("shard", *options_of(cluster), "--dry-run").stdout
    placements = answer("shard", *options_of(cluster))["placements"]
    assert {place["table"]: place["column"] for place in placements} == {
        "batch_test_runs": None,
        **dict.fromkeys({"test_runs", *CHILDREN}, "run_id"),
    }


@ON_POSTGRESQL
def test_without_citus_it_says_what_to_do(url: str) -> None:
    message = refused("shard", *options_of(url))
    assert "CREATE EXTENSION citus" in message


@ON_POSTGRESQL
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_schema_that_is_not_at_head_is_refused(empty_url: str, options: tuple[str, ...]) -> None:
    assert "testdb migrate" in refused("shard", *options_of(empty_url), *options)


@ON_DUCKDB
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_an_embedded_file_is_refused(empty_url: str, options: tuple[str, ...]) -> None:
    message = refused("shard", *options_of(empty_url), *options)
    assert "needs PostgreSQL with Citus; testdb move takes you there" in message
