"""JSON that the engine writes: values, objects and lists as texts, the same on every engine."""

from __future__ import annotations

import math
import sys
from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, Double, Text, case, cast, func, literal_column
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.db.functions import Typed
from app.db.types import UtcDateTime


def _constant(text: str) -> ColumnElement[str]:
    return literal_column(f"'{text}'", Text)


NULL = _constant("null")


def json_value(value: Typed) -> ColumnElement[str]:
    """A value as JSON: NaN and infinities as strings, a time as ISO 8601 with a `Z`, NULL as null."""
    if isinstance(value.type, Double):
        text = _number(value)
    elif isinstance(value.type, UtcDateTime):
        text = _constant('"') + _iso_time(value) + _constant('"')
    elif isinstance(value.type, JSON):
        text = cast(value, Text)
    else:
        text = cast(func.to_json(value), Text)
    return func.coalesce(text, NULL) if _nullable(value) else text


def json_members(**values: ColumnElement[str]) -> ColumnElement[str]:
    """The inside of an object, each value given as JSON."""
    parts: list[Any] = []
    for name, value in values.items():
        parts += [_constant(f'{"," if parts else ""}"{name}":'), value]
    return func.concat(*parts, type_=Text)


def json_object(**values: ColumnElement[str]) -> ColumnElement[str]:
    """An object, each value given as JSON."""
    return func.concat(_constant("{"), json_members(**values), _constant("}"), type_=Text)


def json_member(name: Typed, value: ColumnElement[str]) -> ColumnElement[str]:
    """A member of an object whose name is a text of the row, the value given as JSON."""
    return func.concat(json_value(name), _constant(":"), value, type_=Text)


def json_list(item: ColumnElement[str], *order: Any) -> ColumnElement[str]:
    """The inside of a list or object: the group's texts in the order given, with commas between them."""
    return func.string_agg(item, aggregate_order_by(_constant(","), *order), type_=Text)


class place(FunctionElement[int]):
    """Where the engine stores the row of a column: rows near each other were written one after the other.

    It is steady in a transaction. An engine that finds rows by their keys alone has them all in one place.
    """

    inherit_cache = True
    type = BigInteger()


@compiles(place)
def _place(element: place, compiler: Any, **kw: Any) -> str:
    return "0"


@compiles(place, "duckdb")
def _row_id(element: place, compiler: Any, **kw: Any) -> str:
    (column,) = element.clauses
    return f"{compiler.preparer.format_table(column.table)}.rowid"


class _iso_time(FunctionElement[str]):
    """As Python writes it, with a `Z`: no microseconds when there are none."""

    inherit_cache = True
    type = Text()


@compiles(_iso_time)
def _to_char(element: _iso_time, compiler: Any, **kw: Any) -> str:
    time = compiler.process(element.clauses, **kw)
    return f"""replace(to_char({time}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000', '')"""


@compiles(_iso_time, "duckdb")
def _strftime(element: _iso_time, compiler: Any, **kw: Any) -> str:
    time = compiler.process(element.clauses, **kw)
    # Its compiler doubles no percent sign, as the driver takes none for a parameter.
    return f"replace(strftime({time}, '%Y-%m-%dT%H:%M:%S.%fZ'), '.000000', '')"


class _finite_text(FunctionElement[str]):
    """The shortest text of a finite double that is read as the same double, with a point or an exponent."""

    inherit_cache = True
    type = Text()


@compiles(_finite_text)
def _with_point(element: _finite_text, compiler: Any, **kw: Any) -> str:
    value = compiler.process(element.clauses, **kw)
    text = f"CAST({value} AS text)"
    return f"CASE WHEN {value} = trunc({value}) AND abs({value}) < 1e15 THEN {text} || '.0' ELSE {text} END"


@compiles(_finite_text, "duckdb")
def _as_json(element: _finite_text, compiler: Any, **kw: Any) -> str:
    return f"CAST(to_json({compiler.process(element.clauses, **kw)}) AS VARCHAR)"


def _number(value: Typed) -> ColumnElement[str]:
    return case(
        (value.between(-sys.float_info.max, sys.float_info.max), _finite_text(value)),
        (value < 0, _constant('"-Infinity"')),
        (value <= math.inf, _constant('"Infinity"')),
        (value.is_not(None), _constant('"NaN"')),
    )


def _nullable(value: Typed) -> bool:
    return bool(getattr(value, "nullable", True))
