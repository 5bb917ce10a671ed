"""Many rows at once: the fast path of each engine behind one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    FromClause,
    String,
    Table,
    bindparam,
    exc,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import insert as upserting_insert
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.elements import SQLCoreOperations

FEW = 20
"""Up to this many rows a plain INSERT is as fast as the bulk path."""

FEW_KEYS = 1000
"""More keys than this are bound as one array."""

Rows = Sequence[Mapping[str, Any]]


def insert_many(session: Session, model: type[DeclarativeBase], rows: Rows) -> int:
    """Inserts rows (column name to value, all with the same columns) in the session's transaction.

    A column that the rows leave out gets the model's default. DuckDB: one INSERT of unnested lists.
    PostgreSQL: COPY. Returns the number of rows.
    """
    _check_columns(model.__table__, rows)
    if len(rows) > FEW:
        _store(session, model, rows)
    elif rows:
        session.execute(insert(model), rows)
    return len(rows)


def upsert_many(session: Session, model: type[DeclarativeBase], rows: Rows) -> int:
    """Inserts rows, or replaces the given columns of the row with the same key; the last row of a key wins.

    Returns the number of rows. Not for a table that is only appended to: DuckDB does not keep its key.
    """
    table: Table = model.__table__  # type: ignore[assignment]
    if table.info.get("physical_key", True) is False:
        raise TypeError(f"{table.name} is append-only; use insert_many.")
    _check_columns(table, rows)
    keys = [column.name for column in table.primary_key]
    unique = list({tuple(row[key] for key in keys): row for row in rows}.values())
    others = [name for name in (rows[0] if rows else ()) if name not in keys]
    if len(unique) > FEW:
        _store(session, model, unique, keys, others)
    elif unique:
        statement = upserting_insert(model).values(unique)
        if others:
            replaced = {name: statement.excluded[name] for name in others}
            statement = statement.on_conflict_do_update(index_elements=keys, set_=replaced)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=keys)
        session.execute(statement)
    return len(rows)


def among(column: SQLCoreOperations[str], values: Sequence[str]) -> ColumnElement[bool]:
    """`column IN values` for any number of values."""
    if len(values) <= FEW_KEYS:
        return column.in_(values)  # literal keys are looked up in an index
    return column.in_(select(func.unnest(bindparam(None, list(values), ARRAY(String)))))


def _check_columns(table: FromClause, rows: Rows) -> None:
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("All rows must have the same columns.")
    if rows and (unknown := rows[0].keys() - table.columns.keys()):
        raise ValueError(f"{table} has no column {', '.join(sorted(unknown))}.")


def _store(
    session: Session,
    model: type[DeclarativeBase],
    rows: Rows,
    keys: Sequence[str] = (),
    others: Sequence[str] = (),
) -> None:
    """Inserts the rows; with `keys`, replaces the columns `others` where a row has the same key."""
    session.flush()  # as session.execute does: a parent may still wait for it
    connection = session.connection()
    quote = connection.dialect.identifier_preparer.quote
    table: Table = model.__table__  # type: ignore[assignment]
    left_out = [column.name for column in table.columns if column.default and column.name not in rows[0]]
    columns = [table.c[name] for name in [*rows[0], *left_out]]
    values = [_values(column, rows, connection.dialect) for column in columns]
    name, names = quote(table.name), ", ".join(quote(column.name) for column in columns)
    conflict = ""
    if keys:
        replaced = ", ".join(f"{quote(other)} = excluded.{quote(other)}" for other in others)
        action = f"UPDATE SET {replaced}" if replaced else "NOTHING"
        conflict = f"ON CONFLICT ({', '.join(map(quote, keys))}) DO {action}"
    if connection.dialect.name == "duckdb":
        unnested = ", ".join(
            f"unnest(${position}::{column.type.compile(connection.dialect)}[])"
            for position, column in enumerate(columns, 1)
        )
        connection.exec_driver_sql(
            f"INSERT INTO {name} ({names}) SELECT {unnested} {conflict}", tuple(map(list, values))
        )
    elif not conflict:
        _copy(connection, f"{name} ({names})", values)
    else:
        # COPY knows no conflicts; a table of this transaction's own takes the rows first.
        taken = quote(f"upsert_{table.name}")
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {taken} (LIKE {name}) ON COMMIT DROP")
        _copy(connection, f"{taken} ({names})", values)
        connection.exec_driver_sql(f"INSERT INTO {name} ({names}) SELECT {names} FROM {taken} {conflict}")
        connection.exec_driver_sql(f"DROP TABLE {taken}")


def _values(column: Column[Any], rows: Rows, dialect: Dialect) -> Iterator[Any]:
    """The column's value in each row, as the driver takes it."""
    values: Iterator[Any]
    if column.name in rows[0]:
        values = (row[column.name] for row in rows)
    else:
        default: Any = column.default
        values = (default.arg(None) if default.is_callable else default.arg for _ in rows)
    process: Callable[[Any], Any] | None = column.type.dialect_impl(dialect).bind_processor(dialect)
    return map(process, values) if process else values


def _copy(connection: Connection, target: str, values: Sequence[Iterator[Any]]) -> None:
    statement = f"COPY {target} FROM STDIN"
    cursor: Any = connection.connection.cursor()
    with _wrapped(connection, statement), cursor, cursor.copy(statement) as copy:
        for row in zip(*values, strict=True):
            copy.write_row(row)


@contextmanager
def _wrapped(connection: Connection, statement: str) -> Iterator[None]:
    """Gives the driver's own errors the classes that everybody catches, as SQLAlchemy does elsewhere."""
    base: type[Exception] = connection.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        wrapped: Any = exc.DBAPIError.instance(statement, None, error, base, dialect=connection.dialect)
        raise wrapped from error
