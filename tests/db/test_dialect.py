"""What SQLAlchemy can ask DuckDB, and what DuckDB can be told: reflection and DDL of any schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event, exc, inspect
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.pool import NullPool

from app.db import Key, UtcDateTime, make_engine
from app.db.ddl import NO_PHYSICAL_KEY, duckdb_index, postgresql_index
from app.db.engine import normalize_url

STATEMENTS = [
    "CREATE SCHEMA other",
    """CREATE TABLE parent (id INTEGER PRIMARY KEY)""",
    """CREATE TABLE typed (
        key INTEGER, part VARCHAR,
        amount DECIMAL(9,2) CHECK (amount > 0), big BIGINT, small SMALLINT, real FLOAT, double DOUBLE,
        yes BOOLEAN DEFAULT true, text VARCHAR NOT NULL DEFAULT 'it''s', day DATE, clock TIME,
        moment TIMESTAMP, zoned TIMESTAMPTZ, raw BLOB, document JSON, ident UUID, list VARCHAR[],
        matrix INTEGER[][], strange STRUCT(a INTEGER), parent_id INTEGER REFERENCES parent (id),
        PRIMARY KEY (key, part), UNIQUE (text), UNIQUE (day, clock))""",
    """CREATE TABLE "Mixed Case" ("Select" INTEGER, "a""b" VARCHAR, "x, y" VARCHAR)""",
    "CREATE INDEX ix_plain ON typed (double)",
    "CREATE UNIQUE INDEX ix_unique ON typed (big, small)",
    "CREATE INDEX ix_expression ON typed (lower(text), key)",
    """CREATE INDEX "ix Mixed" ON "Mixed Case" ("Select", "a""b", "x, y")""",
    "CREATE VIEW looked AS SELECT key, amount FROM typed",
    "CREATE TABLE other.typed (z INTEGER PRIMARY KEY)",
    "CREATE INDEX ix_other ON other.typed (z)",
    "CREATE SEQUENCE numbers",
    "COMMENT ON TABLE typed IS 'the table'",
    "COMMENT ON COLUMN typed.key IS 'the column'",
]
TYPES = {
    "key": "INTEGER",
    "part": "VARCHAR",
    "amount": "NUMERIC(9, 2)",
    "big": "BIGINT",
    "small": "SMALLINT",
    "real": "REAL",
    "double": "DOUBLE PRECISION",
    "yes": "BOOLEAN",
    "text": "VARCHAR",
    "day": "DATE",
    "clock": "TIME WITHOUT TIME ZONE",
    "moment": "TIMESTAMP WITHOUT TIME ZONE",
    "zoned": "TIMESTAMP WITH TIME ZONE",
    "raw": "BYTEA",
    "document": "JSON",
    "ident": "UUID",
    "list": "VARCHAR[]",
    "matrix": "INTEGER[][]",
    "strange": "NULL",
    "parent_id": "INTEGER",
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(f"duckdb:///{tmp_path / 'any.duckdb'}")
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        for statement in STATEMENTS:
            connection.exec_driver_sql(statement)
        yield connection


@pytest.fixture
def found(connection: Connection) -> Inspector:
    return inspect(connection)


def test_tables_views_and_sequences_are_listed(found: Inspector) -> None:
    assert found.default_schema_name == "main"
    assert found.get_table_names() == ["Mixed Case", "parent", "typed"]
    assert found.get_table_names("other") == ["typed"]
    assert found.get_view_names() == ["looked"]
    assert found.get_view_names("other") == []
    assert found.get_sequence_names() == ["numbers"]
    assert "SELECT" in found.get_view_definition("looked")


def test_things_are_there_or_not(found: Inspector) -> None:
    assert found.has_table("typed")
    assert found.has_table("typed", "other")
    assert found.has_table("looked")
    assert found.has_table("Mixed Case")
    assert not found.has_table("numbers")
    assert not found.has_table("parent", "other")
    assert found.has_index("typed", "ix_plain")
    assert not found.has_index("typed", "ix_other")
    assert not found.has_index("nowhere", "ix_plain")
    assert found.has_sequence("numbers")
    assert not found.has_sequence("typed")


def test_columns_have_types_defaults_and_comments(connection: Connection, found: Inspector) -> None:
    columns = {column["name"]: column for column in found.get_columns("typed")}
    assert {
        name: column["type"].compile(connection.dialect)
        for name, column in columns.items()
        if name != "strange"
    } == {name: kind for name, kind in TYPES.items() if name != "strange"}
    assert list(columns) == list(TYPES)
    assert isinstance(columns["strange"]["type"], sa.types.NullType)
    assert {name for name, column in columns.items() if not column["nullable"]} == {"key", "part", "text"}
    assert columns["text"]["default"] == "'it''s'"
    assert columns["key"]["default"] is None
    assert (columns["key"].get("comment"), columns["part"].get("comment")) == ("the column", None)
    assert [column["name"] for column in found.get_columns("Mixed Case")] == ["Select", 'a"b', "x, y"]
    assert [column["name"] for column in found.get_columns("looked")] == ["key", "amount"]
    assert [column["name"] for column in found.get_columns("typed", "other")] == ["z"]


def test_constraints(found: Inspector) -> None:
    assert found.get_pk_constraint("typed")["constrained_columns"] == ["key", "part"]
    assert found.get_pk_constraint("typed", "other")["constrained_columns"] == ["z"]
    assert found.get_pk_constraint("Mixed Case")["constrained_columns"] == []
    unique = {item["name"]: item["column_names"] for item in found.get_unique_constraints("typed")}
    assert unique == {"typed_text_key": ["text"], "typed_day_clock_key": ["day", "clock"]}
    assert [check["sqltext"] for check in found.get_check_constraints("typed")] == ["(amount > 0)"]
    (key,) = found.get_foreign_keys("typed")
    assert (key["constrained_columns"], key["referred_table"], key["referred_columns"]) == (
        ["parent_id"],
        "parent",
        ["id"],
    )
    assert found.get_table_comment("typed") == {"text": "the table"}
    assert found.get_table_comment("parent") == {"text": None}


def test_indexes(found: Inspector) -> None:
    assert {
        index["name"]: (index["unique"], index["column_names"]) for index in found.get_indexes("typed")
    } == {
        "ix_plain": (False, ["double"]),
        "ix_unique": (True, ["big", "small"]),
        "ix_expression": (False, [None, "key"]),
    }
    assert next(i for i in found.get_indexes("typed") if i["name"] == "ix_expression")["expressions"] == [
        '(lower("text"))',
        "key",
    ]
    assert [index["column_names"] for index in found.get_indexes("Mixed Case")] == [["Select", 'a"b', "x, y"]]
    assert [index["name"] for index in found.get_indexes("typed", "other")] == ["ix_other"]
    assert found.get_indexes("parent") == []


@pytest.mark.parametrize(
    "ask",
    [
        Inspector.get_columns,
        Inspector.get_pk_constraint,
        Inspector.get_foreign_keys,
        Inspector.get_unique_constraints,
        Inspector.get_check_constraints,
        Inspector.get_indexes,
        Inspector.get_table_comment,
        Inspector.get_view_definition,
    ],
)
def test_a_table_that_is_not_there_is_an_error(found: Inspector, ask: Callable[..., Any]) -> None:
    with pytest.raises(exc.NoSuchTableError, match="nowhere"):
        ask(found, "nowhere")


def test_a_whole_database_is_reflected_and_made_again(connection: Connection, tmp_path: Path) -> None:
    metadata = sa.MetaData()
    metadata.reflect(connection)
    assert set(metadata.tables) == {"typed", "parent", "Mixed Case"}
    table = metadata.tables["typed"]
    assert [column.name for column in table.primary_key] == ["key", "part"]
    assert table.c.parent_id.references(metadata.tables["parent"].c.id)
    table.c.strange.type = sa.JSON()
    engine = make_engine(f"duckdb:///{tmp_path / 'copy.duckdb'}")
    metadata.create_all(engine)
    before, after = inspect(connection), inspect(engine)
    for name in metadata.tables:
        assert after.get_pk_constraint(name) == before.get_pk_constraint(name)
        assert after.get_indexes(name) == before.get_indexes(name)
    types = [column["type"].compile(engine.dialect) for column in after.get_columns("typed")]
    assert types == list((TYPES | {"strange": "JSON"}).values())
    engine.dispose()


def test_temporary_tables_are_listed_apart(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TEMPORARY TABLE passing (a INTEGER)")
    assert inspect(connection).get_temp_table_names() == ["passing"]
    assert "passing" not in inspect(connection).get_table_names()


def test_tables_are_made_as_the_engine_can_live_with(engine: Engine) -> None:
    metadata = sa.MetaData()
    sa.Table("parent", metadata, sa.Column("id", Key, primary_key=True))
    child = sa.Table(
        "child",
        metadata,
        sa.Column("id", Key, sa.ForeignKey("parent.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("id <> ''"),
        duckdb_index("ix_child_here", "made_at"),
        postgresql_index("ix_child_there", sa.text("made_at DESC")),
    )
    sa.Table(
        "log",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        info=NO_PHYSICAL_KEY,
    )
    metadata.create_all(engine)
    found = inspect(engine)
    assert found.get_pk_constraint("child")["constrained_columns"] == ["id"]
    assert found.get_foreign_keys("child") == []
    assert len(found.get_check_constraints("child")) == 1
    assert [index["name"] for index in found.get_indexes("child")] == ["ix_child_here"]
    assert found.get_pk_constraint("log")["constrained_columns"] == []
    metadata.drop_all(engine)
    assert inspect(engine).get_table_names() == []
    assert child.c.id.foreign_keys


def test_row_locks_are_left_out(engine: Engine) -> None:
    statement = sa.select(sa.literal(1)).with_for_update(skip_locked=True)
    with engine.connect() as connection:
        assert connection.scalar(statement) == 1


def test_compiled_statements_are_cached_and_values_are_not(engine: Engine) -> None:
    with engine.connect() as connection:
        table = sa.Table("t", sa.MetaData(), sa.Column("a", sa.Integer))
        table.create(connection)
        connection.execute(sa.insert(table), [{"a": 1}, {"a": 2}])
        for value in (1, 2):
            assert connection.scalar(sa.select(table.c.a).where(table.c.a == value)) == value
            assert connection.scalars(sa.select(table.c.a).where(table.c.a.in_([value, 7]))).all() == [value]
            assert (
                connection.scalar(sa.select(table.c.a).order_by(table.c.a).limit(1).offset(value - 1))
                == value
            )


def test_the_pool_can_be_chosen(tmp_path: Path) -> None:
    engine = make_engine(f"duckdb:///{tmp_path / 'any.duckdb'}", poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    assert isinstance(engine.pool, NullPool)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_name_of_postgresql_means_the_same_driver(scheme: str) -> None:
    url = normalize_url(f"{scheme}://me:p%40ss@host:5433/runs?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.password, url.port, url.database) == ("p@ss", 5433, "runs")
    assert url.query == {"sslmode": "require"}


def test_a_connection_notices_that_the_other_machine_is_gone() -> None:
    asked: dict[str, object] = {}
    engine = make_engine("postgresql://u@127.0.0.1:1/d?tcp_user_timeout=7000&keepalives_idle=99")

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, _args: object, given: dict[str, object]) -> None:
        asked.update(given)

    with pytest.raises(exc.OperationalError):
        engine.connect()
    assert asked["keepalives_interval"] == 5
    assert asked["keepalives_count"] == 4
    assert (asked["tcp_user_timeout"], asked["keepalives_idle"]) == ("7000", "99"), "the URL's own"
