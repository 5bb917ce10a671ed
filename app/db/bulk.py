"""Many rows at once: the fast path of each engine behind one function."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count, repeat
from typing import Any

import nanoarrow
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Double,
    Integer,
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
from sqlalchemy.types import TypeEngine

from app.db.types import UtcDateTime, microseconds

FEW = 20
"""Up to this many rows PostgreSQL takes a plain INSERT as fast as a COPY."""

ARROW = 200
"""From this many rows on DuckDB takes Arrow arrays faster than lists."""

FEW_KEYS = 1000
"""More keys than this are bound as one array."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ArrowColumn:
    """A column that came as an Arrow array of one chunk, of any library; DuckDB takes it as it is."""

    array: Any

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array.to_pylist())

    def __contains__(self, value: object) -> bool:
        return value in self.array.to_pylist()


@dataclass(frozen=True)
class Columns:
    """Rows as columns: the values of each column, all equally many, and what is the `same` in every row.

    A time may stand as whole microseconds since 1970.
    """

    values: Mapping[str, Collection[Any]]
    same: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def insert_many(session: Session, model: type[DeclarativeBase], rows: Rows) -> int:
    """Inserts rows (column name to value, all with the same columns) in the session's transaction.

    A column that the rows leave out gets the model's default. Returns the number of rows.
    """
    table = _table(model)
    _check_rows(table, rows)
    if rows and (len(rows) == 1 or (len(rows) <= FEW and session.get_bind().dialect.name != "duckdb")):
        session.flush()  # as session.execute does: a parent may still wait for it
        session.connection().execute(insert(table), rows)
    elif rows:
        _store(session, table, _as_columns(rows))
    return len(rows)


def insert_columns(session: Session, model: type[DeclarativeBase], columns: Columns) -> int:
    """`insert_many` for rows that are there as columns."""
    table = _table(model)
    _check_names(table, [*columns.values, *columns.same])
    if len(columns) == 1:
        values = {name: next(iter(values)) for name, values in columns.values.items()}
        session.connection().execute(insert(table), values | dict(columns.same))
    elif len(columns):
        _store(session, table, columns)
    return len(columns)


def upsert_many(session: Session, model: type[DeclarativeBase], rows: Rows) -> int:
    """Inserts rows, or replaces the given columns of the row with the same key; the last row of a key wins.

    Returns the number of rows. Not for a table that is only appended to: DuckDB does not keep its key.
    """
    table = _table(model)
    if table.info.get("physical_key", True) is False:
        raise TypeError(f"{table.name} is append-only; use insert_many.")
    _check_rows(table, rows)
    keys = [column.name for column in table.primary_key]
    unique = list({tuple(row[key] for key in keys): row for row in rows}.values())
    others = [name for name in (rows[0] if rows else ()) if name not in keys]
    if len(unique) > 1:
        _store(session, table, _as_columns(unique), keys, others)
    elif unique:
        statement = upserting_insert(table)
        if others:
            replaced = {name: statement.excluded[name] for name in others}
            statement = statement.on_conflict_do_update(index_elements=keys, set_=replaced)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=keys)
        session.flush()
        session.connection().execute(statement, unique)
    return len(rows)


def among(column: SQLCoreOperations[str], values: Sequence[str]) -> ColumnElement[bool]:
    """`column IN values` for any number of values."""
    if len(values) <= FEW_KEYS:
        return column.in_(values)  # literal keys are looked up in an index
    return column.in_(select(func.unnest(bindparam(None, list(values), ARRAY(String)))))


def lock_each(
    session: Session, key: SQLCoreOperations[str], values: Sequence[str], *, key_share: bool = False
) -> None:
    """Makes other writers of the rows with these keys wait until this unit of work ends; with `key_share`,
    except those that only refer to them.

    One statement a row, sent together: rows of several shards cannot be locked by one. They are in the order
    of the keys, so that nobody waits for each other. Writers of an embedded file wait anyway.
    """
    connection = session.connection()
    if values and not getattr(connection.dialect, "single_writer", False):
        lock = select(key).where(key == bindparam("key_to_lock")).with_for_update(key_share=key_share)
        connection.execute(lock, [{"key_to_lock": value} for value in sorted(values)])


def _table(model: type[DeclarativeBase]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


def _check_rows(table: Table, rows: Rows) -> None:
    if rows:
        _check_names(table, rows[0])
    names = set(rows[0]) if rows else set()
    if sum(map(len, rows)) != len(rows) * len(names) or not all(map(names.issuperset, rows)):
        raise ValueError("All rows must have the same columns.")


def _check_names(table: Table, names: Sequence[str] | Mapping[str, Any]) -> None:
    if unknown := set(names) - set(table.columns.keys()):
        raise ValueError(f"{table} has no column {', '.join(sorted(unknown))}.")


def _as_columns(rows: Rows) -> Columns:
    return Columns({name: [row[name] for row in rows] for name in rows[0]})


def _store(
    session: Session, table: Table, columns: Columns, keys: Sequence[str] = (), others: Sequence[str] = ()
) -> None:
    """Inserts the rows; with `keys`, replaces the columns `others` where a row has the same key."""
    session.flush()
    columns = _with_defaults(table, columns)
    connection = session.connection()
    quote = connection.dialect.identifier_preparer.quote
    conflict = ""
    if keys:
        replaced = ", ".join(f"{quote(other)} = excluded.{quote(other)}" for other in others)
        action = f"UPDATE SET {replaced}" if replaced else "NOTHING"
        conflict = f"ON CONFLICT ({', '.join(map(quote, keys))}) DO {action}"
    if connection.dialect.name == "duckdb":
        _insert_selected(connection, table, columns, conflict)
        return
    target, names = quote(table.name), ", ".join(map(quote, [*columns.values, *columns.same]))
    if not conflict:
        _copy(connection, table, target, columns)
        return
    # COPY knows no conflicts; a table of this transaction's own takes the rows first.
    taken = quote(f"upsert_{table.name}")
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {taken} (LIKE {target}) ON COMMIT DROP")
    _copy(connection, table, taken, columns)
    connection.exec_driver_sql(f"INSERT INTO {target} ({names}) SELECT {names} FROM {taken} {conflict}")
    connection.exec_driver_sql(f"DROP TABLE {taken}")


def _with_defaults(table: Table, columns: Columns) -> Columns:
    """The columns and, for those left out, the model's default in each row."""
    values, count = dict(columns.values), len(columns)
    for column in table.columns:
        default: Any = column.default
        if default is not None and column.name not in values and column.name not in columns.same:
            made = (default.arg(None) if default.is_callable else default.arg for _ in range(count))
            values[column.name] = list(made)
    return Columns(values, columns.same)


def _insert_selected(connection: Connection, table: Table, columns: Columns, conflict: str) -> None:
    """DuckDB: one INSERT of what it reads from Arrow arrays or, for fewer rows, from bound lists."""
    dialect = connection.dialect
    as_arrow = len(columns) >= ARROW
    statement = _selecting(dialect, table, tuple(columns.values), tuple(columns.same), as_arrow)
    parameters: list[Any] = []
    if not as_arrow:
        parameters += [
            list(_bound(dialect, table.c[name], values)) for name, values in columns.values.items()
        ]
    parameters += [next(_bound(dialect, table.c[name], [value])) for name, value in columns.same.items()]
    if not as_arrow:
        connection.exec_driver_sql(f"{statement} {conflict}", tuple(parameters))
        return
    arrays = [_arrow(table.c[name].type, values) for name, values in columns.values.items()]
    schema = nanoarrow.struct({f"column{place}": array.schema for place, array in enumerate(arrays)})
    batch = nanoarrow.c_array_from_buffers(schema, len(columns), [None], children=arrays)
    driver: Any = connection.connection.driver_connection
    # The name belongs to the connection, and a statement that fails must not leave it behind.
    driver.register("rows_to_insert", nanoarrow.ArrayStream(nanoarrow.Array(batch)))
    try:
        connection.exec_driver_sql(f"{statement} {conflict}", tuple(parameters))
    finally:
        driver.unregister("rows_to_insert")


@lru_cache(maxsize=256)
def _selecting(
    dialect: Dialect, table: Table, varying: tuple[str, ...], same: tuple[str, ...], as_arrow: bool
) -> str:
    """The INSERT … SELECT; its parameters are the lists, if they are not Arrow arrays, then what is the same
    in all rows."""
    quote = dialect.identifier_preparer.quote
    places = count(1)
    selected = []
    for place, name in enumerate(varying):
        type_ = table.c[name].type
        if as_arrow:
            selected.append(_READ.get(type(type_), "{}").format(f"column{place}"))
        else:
            selected.append(f"unnest(${next(places)}::{type_.compile(dialect)}[])")
    selected += [f"${next(places)}::{table.c[name].type.compile(dialect)}" for name in same]
    names = ", ".join(map(quote, varying + same))
    source = " FROM rows_to_insert" if as_arrow else ""
    return f"INSERT INTO {quote(table.name)} ({names}) SELECT {', '.join(selected)}{source}"


def _bound(dialect: Dialect, column: Column[Any], values: Iterable[Any]) -> Iterator[Any]:
    """The values as the driver takes them."""
    process: Callable[[Any], Any] | None = column.type.dialect_impl(dialect).bind_processor(dialect)
    return map(process, values) if process else iter(values)


_READ = {
    UtcDateTime: "make_timestamp({})",
    ARRAY: "CAST(CAST({} AS JSON) AS VARCHAR[])",
    JSON: "CAST({} AS JSON)",
}
"""How SQL reads a column of Arrow: times come as integers, lists and objects as JSON."""


def _arrow(type_: TypeEngine[Any], values: Collection[Any]) -> Any:
    if isinstance(values, ArrowColumn):
        return nanoarrow.c_array(values.array)
    if isinstance(type_, UtcDateTime):
        return nanoarrow.c_array([_microseconds(value) for value in values], nanoarrow.int64())
    if isinstance(type_, ARRAY | JSON):
        texts = [None if value is None else json.dumps(value, allow_nan=False) for value in values]
        return nanoarrow.c_array(texts, nanoarrow.string())
    return nanoarrow.c_array(values, _ARROW_TYPES[type(type_)]())


_ARROW_TYPES: dict[type[TypeEngine[Any]], Callable[[], Any]] = {
    BigInteger: nanoarrow.int64,
    Boolean: nanoarrow.bool_,
    Double: nanoarrow.float64,
    Integer: nanoarrow.int64,
    String: nanoarrow.string,
}


def _microseconds(time: datetime | int | None) -> int | None:
    if time is None or isinstance(time, int):
        return time
    return microseconds(time if time.tzinfo else time.replace(tzinfo=UTC))


def _copy(connection: Connection, table: Table, target: str, columns: Columns) -> None:
    """PostgreSQL: COPY."""
    dialect = connection.dialect
    quote = dialect.identifier_preparer.quote
    iterators = [_bound(dialect, table.c[name], values) for name, values in columns.values.items()]
    iterators += [
        _bound(dialect, table.c[name], repeat(value, len(columns))) for name, value in columns.same.items()
    ]
    names = ", ".join(map(quote, [*columns.values, *columns.same]))
    statement = f"COPY {target} ({names}) FROM STDIN"
    cursor: Any = connection.connection.cursor()
    with _wrapped(connection, statement), cursor, cursor.copy(statement) as copy:
        for row in zip(*iterators, strict=True):
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
