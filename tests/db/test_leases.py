"""Leases: of a name there is one holder, and a lost connection gives it up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from app.db import Database
from app.db.leases import Leases
from app.errors import Unavailable
from tests.marks import ON_POSTGRESQL
from tests.plugin.sessions import wait_for


@pytest.fixture
def leases(database: Database) -> Iterator[Leases]:
    leases = Leases(database)
    yield leases
    leases.close()


def test_a_name_has_one_holder(leases: Leases) -> None:
    assert leases.take("a")
    assert not leases.take("a")
    assert leases.take("b")
    leases.release("a")
    assert leases.take("a")


def test_releasing_what_is_not_held_changes_nothing(leases: Leases) -> None:
    leases.release("a")
    assert leases.take("a")


@ON_POSTGRESQL
def test_another_process_waits_until_it_is_given_up(url: str, leases: Leases) -> None:
    other = Database(url)
    others = Leases(other)
    assert leases.take("a")
    assert not others.take("a")
    assert others.take("b")
    leases.release("a")
    assert others.take("a")
    others.close()
    for name in ("a", "b"):
        wait_for(lambda name=name: leases.take(name))  # its session ends when PostgreSQL notices
    other.close()


def cut(database: Database) -> None:
    """Ends the connections that hold leases."""
    with database.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE locktype = 'advisory' AND datname = current_database()"
            )
        )


@ON_POSTGRESQL
def test_a_lost_connection_gives_up_its_leases(url: str, database: Database, leases: Leases) -> None:
    other = Database(url)
    others = Leases(other)
    assert leases.take("a")
    assert leases.take("b")
    cut(database)
    assert others.take("b")
    with pytest.raises(Unavailable):
        leases.take("c")
    assert leases.take("c"), "over a new connection, with what it still held"
    assert not others.take("a")
    others.close()
    other.close()


@ON_POSTGRESQL
def test_leases_are_kept_over_a_lost_connection(url: str, database: Database, leases: Leases) -> None:
    other = Database(url)
    others = Leases(other)
    assert leases.take("a")
    cut(database)
    leases.keep()
    assert not others.take("a")
    others.close()
    other.close()
