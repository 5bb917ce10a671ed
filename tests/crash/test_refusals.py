"""A PostgreSQL that lives and yet refuses: the server says what to do, and goes on when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import make_url, text
from starlette.testclient import TestClient

from app.config import Settings
from app.db import Database
from app.main import create_app
from tests.crash.kills import API
from tests.marks import ON_POSTGRESQL

pytestmark = ON_POSTGRESQL

RUN = f"{API}/run/r"
REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no such luck' USING ERRCODE = NEW.current_step; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON test_runs FOR EACH ROW EXECUTE FUNCTION refuse()
"""
REMEDIES = {
    "25P03": "idle_in_transaction_session_timeout",
    "53100": "make room on its disk",
    "53200": "more memory",
    "53300": "max_connections",
    "55P03": "lock_timeout",
    "57014": "statement_timeout",
    "57P01": "wait until it is back",
    "57P02": "wait until it is back",
    "57P03": "wait until it is back",
    "57P05": "idle_session_timeout",
    "58030": "its disk",
    "XX001": "restore a backup",
    "XX002": "restore a backup",
}
MENDED = "DROP TRIGGER refuse ON test_runs; DROP FUNCTION refuse"


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        assert client.put(RUN, json={"model_name": "m"}).status_code == 201
        yield client
        assert client.patch(RUN, json={"progress": 0.25}).status_code == 200, "it goes on"


@contextmanager
def changed(url: str, change: str, back: str) -> Iterator[None]:
    """An administrator changes the database, and then back; each time the server's connections end."""
    name = make_url(url).database
    with psycopg.connect(url, autocommit=True) as admin:

        def execute(statement: str) -> None:
            admin.execute(statement.replace("DATABASE x", f"DATABASE {name}").encode())
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> pg_backend_pid()",
                [name],
            )

        execute(change)
        try:
            yield
        finally:
            execute(back)


def refused(client: TestClient, step: str = "any") -> str:
    """The sentence that answers a write."""
    answer = client.patch(RUN, json={"current_step": step})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
    return str(answer.json()["detail"])


@pytest.mark.parametrize(
    ("change", "back", "remedy"),
    [
        (
            "ALTER DATABASE x SET default_transaction_read_only = on",
            "ALTER DATABASE x RESET default_transaction_read_only",
            "in a read-only transaction); connect to its primary",
        ),
        (
            "ALTER DATABASE x SET role = pg_monitor",
            "ALTER DATABASE x RESET role",
            "grant its role all rights",
        ),
        (
            "ALTER TABLE test_runs RENAME TO away",
            "ALTER TABLE away RENAME TO test_runs",
            "run `testdb migrate`",
        ),
    ],
    ids=["read-only", "role", "table"],
)
def test_what_an_administrator_changed(
    client: TestClient, url: str, change: str, back: str, remedy: str
) -> None:
    with changed(url, change, back):
        assert remedy in refused(client)
        asked = client.post(f"{API}/query", json={"sql": "SELECT count(*) FROM test_runs"})
        assert asked.status_code == (200 if "read_only" in change else 422)


def test_what_the_server_says_by_a_code(client: TestClient, url: str) -> None:
    with changed(url, REFUSES, MENDED):
        for state, remedy in REMEDIES.items():
            said = refused(client, state)
            assert "(no such luck); " in said
            assert remedy in said, state


def test_a_database_that_isolates_more_makes_no_more_conflicts(client: TestClient, url: str) -> None:
    setting = "ALTER DATABASE x {} default_transaction_isolation"
    with changed(url, setting.format("SET") + " TO serializable", setting.format("RESET")):
        database: Database = client.app.state.database  # type: ignore[attr-defined]
        show = text("SHOW transaction_isolation")
        assert database.write(lambda session: session.scalar(show)) == "read committed"
