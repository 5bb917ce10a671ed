"""SQL that means the same on every engine."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Date,
    Double,
    Integer,
    String,
    Text,
    case,
    cast,
    func,
    literal,
    literal_column,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.sql.functions import FunctionElement

Expression = SQLCoreOperations[Any]
Typed = ColumnElement[Any] | InstrumentedAttribute[Any]

_SCALE = 2.0**64
_LIMIT = sys.float_info.max / _SCALE

_PROSE = Text().with_variant(Text(collation="default"), "postgresql")
"""A text with a key in it has the key's collation, in which PostgreSQL knows the case of ASCII alone."""


def finite(value: Expression, condition: ColumnElement[bool] | None = None) -> ColumnElement[float]:
    """The value, or NULL when it is NaN or infinite (or the condition does not hold): aggregates skip it."""
    # Both engines sort NaN above every number.
    bounded: ColumnElement[bool] = value.between(-sys.float_info.max, sys.float_info.max)
    return case((bounded if condition is None else condition & bounded, value))


def mean(value: Expression, *order: Expression) -> ColumnElement[float]:
    """The average of finite doubles.

    The engines' own `avg` fails, or is infinite, where the sum exceeds a double. So large values are summed
    apart, scaled by a power of two, which loses nothing of them. PostgreSQL also refuses a quotient that is
    too small for a double, which therefore is not computed. The last digit of a sum depends on the order of
    its terms: with an `order` it is the same on every engine, and the one of `mean_of`.
    """
    large = func.abs(value) >= 1
    high = _sum(case((large, value / _SCALE), (~large, 0.0)), order)
    low = _sum(case((large, 0.0), (~large, value)), order)
    count = cast(func.count(value), Double)
    result = func.greatest(func.least(high / count, _LIMIT), -_LIMIT) * _SCALE + case(
        (2 * func.abs(low) > count * math.ulp(0.0), low / count), else_=0.0
    )
    # Rounding must not lead out of the values: three times 0.1 is 0.30000000000000004.
    least, greatest = func.min(value), func.max(value)
    return case((count > 0, func.least(func.greatest(result, least), greatest, type_=Double)))


def _sum(terms: ColumnElement[float], order: Sequence[Expression]) -> ColumnElement[float]:
    total = func.sum(terms)
    return total.aggregate_order_by(*order) if order else total


def mean_of(values: Sequence[float]) -> float | None:
    """The average of finite numbers in their order, computed as `mean` does; None without any."""
    if not values:
        return None
    high = low = 0.0
    for value in values:
        if abs(value) >= 1:
            high += value / _SCALE
        else:
            low += value
    result = max(min(high / len(values), _LIMIT), -_LIMIT) * _SCALE
    if 2 * abs(low) > len(values) * math.ulp(0.0):
        result += low / len(values)
    return min(max(result, min(values)), max(values))


class latest(FunctionElement[Any]):
    """Of the group's values (the first argument, not NULL) that of the row with the greatest two keys."""

    inherit_cache = True

    def __init__(self, value: Typed, first: Typed, second: Typed) -> None:
        self.type = value.type
        super().__init__(value, first, second)


@compiles(latest)
def _latest(element: latest, compiler: Any, **kw: Any) -> str:
    value, first, second = (compiler.process(part, **kw) for part in element.clauses)
    return f"(array_agg({value} ORDER BY {first} DESC, {second} DESC))[1]"


@compiles(latest, "duckdb")
def _latest_unsorted(element: latest, compiler: Any, **kw: Any) -> str:
    value, first, second = (compiler.process(part, **kw) for part in element.clauses)
    return f"arg_max({value}, ({first}, {second}))"


def percentiles(fractions: Sequence[float], value: Expression) -> ColumnElement[list[float] | None]:
    """The continuous percentiles of finite doubles, interpolated between the two nearest values, by one
    aggregate that sorts once; NULL when there is no value.

    They are HALVES of the percentiles: PostgreSQL's answer is infinite where the two values are further apart
    than a double reaches; halves never are. It refuses to halve the smallest double, which becomes nothing.
    """
    magnitude, smallest = func.abs(value), math.ulp(0.0)
    half = case((magnitude > smallest, value / 2), (magnitude <= smallest, 0.0))
    wanted = literal_column(f"ARRAY[{', '.join(map(repr, fractions))}]", ARRAY(Double))
    return func.percentile_cont(wanted).within_group(half)


def count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows of the group fulfil the condition."""
    return func.count(case((condition, 1)))


def contains_text(haystack: ColumnElement[str], needle: str) -> ColumnElement[bool]:
    """Whether the text occurs, without regard to case; no character of it is special."""
    prose = cast(haystack, _PROSE)
    return func.strpos(func.lower(prose), func.lower(literal(needle, _PROSE)), type_=Integer) > 0


def joined_lines(*columns: Expression) -> ColumnElement[str]:
    """The texts one under the other, so that a word never matches across two of them; NULLs are left out."""
    return func.concat_ws("\n", *columns, type_=Text)


def utc_day(time: Expression) -> ColumnElement[Any]:
    """The UTC day of a time; sessions run in UTC on every engine."""
    return cast(time, Date)


def holds(array: Expression, item: str) -> ColumnElement[bool]:
    """Whether an array of texts has the item; PostgreSQL answers from a GIN index."""
    return array.op("@>", is_comparison=True)(literal([item], ARRAY(String)))
