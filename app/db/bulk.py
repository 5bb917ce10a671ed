"""Many rows at once: the fast path of each engine behind one function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, Dialect, Table, String, bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upserting_insert
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session

FEW = 20
"""Up to this many rows a plain INSERT is as fast as the bulk path."""

UPSERT_CHUNK = 500


Rows = Sequence[Mapping[str, Any]]


def insert_many(session: Session, model: type[DeclarativeBase], rows: Rows) -> int:
    """Inserts rows (column name to value, all with the same columns) in the session's transaction.

    DuckDB: one INSERT of unnested lists. PostgreSQL: COPY. Returns the number of rows.
    """
    if not rows:
        return 0
    if len(rows) <= FEW:
        session.execute(insert(model), rows)
    elif session.get_bind().dialect.name == "duckdb":
        _insert_unnested(session, model.__table__, rows)
    else:
        _copy(session, model.__table__, rows)
    return len(rows)


def upsert_many(session: Session, model: type[DeclarativeBase], rows: Rows) -> int:
    """Inserts rows, or replaces every other column of the row with the same key. Returns their number."""
    table: Table = model.__table__  # type: ignore[assignment]
    keys = [column.name for column in table.primary_key]
    for start in range(0, len(rows), UPSERT_CHUNK):
        statement = upserting_insert(table).values(rows[start : start + UPSERT_CHUNK])
        others = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        if others:
            statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=keys)
        session.execute(statement)
    return len(rows)


def among(column: InstrumentedAttribute[str] | Column[str], values: Sequence[str]) -> ColumnElement[bool]:
    """`column IN values` for any number of values, as one bound array."""
    return column.in_(select(func.unnest(bindparam(None, list(values), ARRAY(String)))))


def _insert_unnested(session: Session, table: Table, rows: Rows) -> None:
    connection = session.connection()
    dialect = connection.dialect
    columns = [table.c[name] for name in rows[0]]
    lists = [list(values) for values in _processed(columns, rows, dialect)]
    quote = dialect.identifier_preparer.quote
    names = ", ".join(quote(column.name) for column in columns)
    unnested = ", ".join(
        f"unnest(${position}::{column.type.compile(dialect)}[])" for position, column in enumerate(columns, 1)
    )
    connection.exec_driver_sql(f"INSERT INTO {quote(table.name)} ({names}) SELECT {unnested}", tuple(lists))


def _copy(session: Session, table: Table, rows: Rows) -> None:
    connection = session.connection()
    columns = [table.c[name] for name in rows[0]]
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(quote(column.name) for column in columns)
    with connection.connection.cursor() as cursor:  # type: ignore[attr-defined]
        with cursor.copy(f"COPY {quote(table.name)} ({names}) FROM STDIN") as copy:
            for row in zip(*_processed(columns, rows, connection.dialect), strict=True):
                copy.write_row(row)


def _processed(columns: list[Column[Any]], rows: Rows, dialect: Dialect) -> list[Iterable[Any]]:
    """The values of each column, as the driver takes them."""
    lists: list[Iterable[Any]] = []
    for column in columns:
        values: Iterable[Any] = (row[column.name] for row in rows)
        process = column.type.dialect_impl(dialect).bind_processor(dialect)
        lists.append(map(process, values) if process else values)
    return lists
