"""`testdb move`: everything arrives on the other engine, whatever comes between, or nothing is harmed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from app.db import make_engine
from app.db.engine import embedded_file
from app.db.migrate import revisions, upgrade
from tests.cli.helpers import Twins, answer, invoke, refused
from tests.factories import contents, fill
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.postgres import Databases
from tests.server import PATIENCE, TESTDB, environment

Make = Callable[..., str]
ROWS = 120
"""Of each table: several runs are in two batches, and the last batches are empty."""


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def held(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row, the same on each engine."""
    with connected(url) as connection:
        found = contents(connection)
    for result in found["test_run_results"]:
        if isinstance(result["result_data"], str):
            result["result_data"] = json.loads(result["result_data"])
    return found


@pytest.fixture
def source(tmp_path: Path, duckdb_template: Path) -> str:
    """The path of a migrated file."""
    file = tmp_path / "source.duckdb"
    file.write_bytes(duckdb_template.read_bytes())
    return str(file)


@pytest.fixture
def filled(source: str) -> str:
    with connected(f"duckdb:///{source}") as connection:
        fill(connection, ROWS)
    return source


def test_everything_goes_to_the_other_engine_and_back(
    filled: str, tmp_path: Path, postgres_databases: Databases
) -> None:
    original, expected = Path(filled).read_bytes(), held(f"duckdb:///{filled}")
    back = tmp_path / "folder" / "back.duckdb"
    with postgres_databases.empty() as server:
        there = answer("move", filled, server)
        assert held(server) == expected
        again = answer("move", filled, server)
        returned = answer("move", server, str(back))
    assert {name: table["rows"] for name, table in there["tables"].items()} == {
        name: len(rows) for name, rows in expected.items()
    }
    assert there["tables"] == again["tables"] == returned["tables"]
    assert (there["already_there"], again["already_there"]) == (0, there["rows"])
    assert held(f"duckdb:///{back}") == expected
    assert Path(filled).read_bytes() == original
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "source.duckdb"]


def test_people_see_a_table(filled: str, tmp_path: Path) -> None:
    target = tmp_path / "target.duckdb"
    result = invoke("move", filled, f"duckdb:///{target}")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *tables, _, last = result.stdout.splitlines()
    assert head.split() == ["TABLE", "ROWS", "CHECKSUM"]
    assert [line.split()[1] for line in tables] == [str(ROWS)] * 8
    assert last.startswith(f"Moved {8 * ROWS} rows to {target} in ")


def test_a_move_that_is_killed_is_taken_up_again(source: str, new_url: Make, tmp_path: Path) -> None:
    metrics = 30_000
    with connected(f"duckdb:///{source}") as connection:
        fill(connection)
        connection.execute(
            text(
                "INSERT INTO test_run_metrics BY NAME "
                "SELECT run_id, i AS id, repeat('m', 200) AS metric_name, i / 7 AS metric_value, "
                f"'ms' AS metric_unit, TIMESTAMP '2026-01-01' AS timestamp FROM range({metrics}) numbers(i) "
                "JOIN (SELECT run_id, row_number() OVER () - 1 AS n FROM test_runs) runs ON n = i % 12"
            )
        )
    expected = held(f"duckdb:///{source}")
    target = new_url(migrated=False)
    process = subprocess.Popen([*TESTDB, "move", source, target], cwd=tmp_path, env=environment())
    try:
        end = time.monotonic() + PATIENCE
        while not begun(target) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    report = answer("move", source, target)
    assert 0 < report["already_there"] < report["rows"]
    assert report["tables"]["test_run_metrics"]["rows"] == metrics + 12
    assert held(target) == expected


def begun(url: str) -> bool:
    """Whether the target has some of the rows; what is in a file cannot be asked while it is held."""
    if file := embedded_file(url):
        log = file.with_name(f"{file.name}.wal")
        return log.exists() and log.stat().st_size > 2_500_000  # the second page is on its way
    with connected(url) as connection:
        if not connection.dialect.has_table(connection, "test_runs"):
            return False
        return bool(connection.scalar(text("SELECT count(*) FROM test_runs")))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("test_run_tags", "DELETE FROM test_run_tags WHERE tag_name LIKE 'tag-3%'"),
        ("test_run_steps", "UPDATE test_run_steps SET duration = 4 WHERE step_name LIKE 'step-5-%'"),
        ("batch_test_runs", "UPDATE batch_test_runs SET batch_id = 'zz' WHERE batch_id LIKE 'batch-9-%'"),
    ],
)
def test_a_target_with_other_rows_is_refused_and_stays(
    filled: str, url: str, table: str, change: str
) -> None:
    with connected(url) as connection:
        fill(connection, ROWS)
        connection.execute(text(change))
    before = held(url)
    message = refused("move", filled, url)
    assert f"rows in {table} that are" in message
    assert held(url) == before


def test_a_source_with_revisions_pending_is_refused(new_url: Make, tmp_path: Path) -> None:
    source = new_url(migrated=False)
    engine = make_engine(source)
    upgrade(engine, "0001")
    engine.dispose()
    target = tmp_path / "target.duckdb"
    assert "run `testdb migrate`" in refused("move", source, str(target))
    engine = make_engine(source)
    assert revisions(engine).current == "0001"
    engine.dispose()
    assert not target.exists()


@ON_POSTGRESQL
def test_a_value_that_the_target_cannot_hold_is_named_and_loses_nothing(filled: str, url: str) -> None:
    with connected(f"duckdb:///{filled}") as connection:
        connection.execute(
            text("UPDATE test_run_tags SET tag_value = 'a' || chr(0) WHERE tag_name LIKE 'tag-7%'")
        )
    message = refused("move", filled, url)
    assert "cannot hold a row of test_run_tags" in message
    assert "NUL" in message
    with connected(f"duckdb:///{filled}") as connection:
        connection.execute(text("UPDATE test_run_tags SET tag_value = 'a' WHERE tag_value LIKE 'a%'"))
    assert answer("move", filled, url)["rows"] == 8 * ROWS
    assert held(url) == held(f"duckdb:///{filled}")


@ON_POSTGRESQL
def test_rows_that_arrive_changed_are_an_error(filled: str, empty_url: str) -> None:
    engine = make_engine(empty_url)
    upgrade(engine)
    engine.dispose()
    with connected(empty_url) as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.duration = 4; RETURN NEW; END'"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER change BEFORE INSERT ON test_run_steps FOR EACH ROW EXECUTE FUNCTION change()"
        )
    message = refused("move", filled, empty_url)
    assert message.startswith("test_run_steps differs: ")


@ON_DUCKDB
def test_what_cannot_be_opened_is_an_error(source: str, tmp_path: Path, history: Twins) -> None:
    target = tmp_path / "target.duckdb"
    assert "held by another process" in refused("move", history.held[1], str(target))
    assert "held by another process" in refused("move", source, history.held[1])
    nothing = refused("move", str(tmp_path / "nothing.duckdb"), str(target))
    assert "nothing.duckdb" in nothing
    away = "postgresql://someone:secret@127.0.0.1:1/nothing"
    message = refused("move", source, away)
    assert "127.0.0.1:1/nothing" in message
    assert "secret" not in message
    assert "same database" in refused("move", source, f"duckdb:///{source}", code=2)
    assert "names the database mysql" in refused("move", source, "mysql://host/name", code=2)
    assert not target.exists()
