"""SQL that means the same on every engine."""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Date, Double, Integer, String, Text, case, cast, func, literal
from sqlalchemy.sql.elements import SQLCoreOperations

Expression = SQLCoreOperations[Any]

_SCALE = 2.0**64


def finite(value: Expression, condition: ColumnElement[bool] | None = None) -> ColumnElement[float]:
    """The value, or NULL when it is NaN or infinite (or the condition does not hold): aggregates skip it."""
    # Both engines sort NaN above every number.
    bounded: ColumnElement[bool] = value.between(-sys.float_info.max, sys.float_info.max)
    return case((bounded if condition is None else condition & bounded, value))


def mean(value: Expression, **over: Any) -> ColumnElement[float]:
    """The average of doubles, as an aggregate or, with `partition_by`, over a window.

    PostgreSQL's own `avg` fails where the sum, or the sum of squares it keeps, exceeds a double; scaling by a
    power of two loses nothing and cannot overflow.
    """
    total: Any = func.sum(value / _SCALE)
    count: Any = func.count(value)
    if over:
        total, count = total.over(**over), count.over(**over)
    result: ColumnElement[float] = cast(total / count, Double) * _SCALE
    return result


def percentile(fraction: float, value: Expression) -> ColumnElement[float]:
    """The continuous percentile: interpolated between the two nearest values."""
    return func.percentile_cont(fraction).within_group(value)


def count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows of the group fulfil the condition."""
    return func.count(case((condition, 1)))


def contains_text(haystack: ColumnElement[str], needle: str) -> ColumnElement[bool]:
    """Whether the text occurs, without regard to case; no character of it is special."""
    return func.strpos(func.lower(haystack), func.lower(literal(needle, Text)), type_=Integer) > 0


def joined_lines(*columns: Expression) -> ColumnElement[str]:
    """The texts one under the other, so that a word never matches across two of them; NULLs are left out."""
    return func.concat_ws("\n", *columns, type_=Text)


def utc_day(time: Expression) -> ColumnElement[Any]:
    """The UTC day of a time; sessions run in UTC on every engine."""
    return cast(time, Date)


def holds(array: Expression, item: str) -> ColumnElement[bool]:
    """Whether an array of texts has the item; PostgreSQL answers from a GIN index."""
    return array.op("@>", is_comparison=True)(literal([item], ARRAY(String)))
