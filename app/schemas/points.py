"""Points of metrics as columns: many in one request, as JSON or as an Arrow stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, BinaryIO

import msgspec
from pydantic import Field, TypeAdapter, ValidationError

from app.db.bulk import ArrowColumn
from app.errors import Invalid
from app.schemas.arrow import ARROW_STREAM, read_table
from app.schemas.common import MAX_ITEMS, Name, Text
from app.schemas.documents import MetricDocument
from app.schemas.plain import PlainMetric, Reader
from app.schemas.validation import checked_json, few_values, is_json


@dataclass(frozen=True)
class Points:
    """Equally many names, values, units and times; times may be whole microseconds since 1970."""

    names: Collection[str]
    values: Collection[float]
    units: Collection[str]
    timestamps: Collection[datetime | int | None]


_PLAIN = Reader(Annotated[list[PlainMetric], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)])
_ANY: TypeAdapter[list[MetricDocument]] = TypeAdapter(
    Annotated[list[MetricDocument], Field(min_length=1, max_length=MAX_ITEMS)]
)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_UNIT: TypeAdapter[str | None] = TypeAdapter(Text | None)


def reader_of_points(media_type: str) -> Callable[[BinaryIO], Points]:
    """What reads a body of this media type. Raises Invalid."""
    if media_type == ARROW_STREAM:
        return points_from_arrow
    if is_json(media_type):
        return points_from_json
    raise Invalid.of("body", f"must be JSON, sent as Content-Type: application/json, or else {ARROW_STREAM}")


def points_from_json(stream: BinaryIO) -> Points:
    """The points of a JSON array of MetricDocuments. Raises Invalid."""
    body = few_values(stream.read())
    items: Sequence[PlainMetric | MetricDocument] = _PLAIN.read(body) or checked_json(_ANY, body)
    return Points(
        [item.metric_name for item in items],
        [item.value for item in items],
        [item.unit or "" for item in items],
        [item.timestamp for item in items],
    )


def points_from_arrow(stream: BinaryIO) -> Points:
    """The points of an Arrow IPC stream with the columns `metric_name` (text), `value` (float64) and, if
    wanted, `unit` (text) and `timestamp` (timestamp of any unit, in UTC). Raises Invalid."""
    table = read_table(stream)
    import pyarrow  # an extra, which is there when a table could be read

    columns = {name: table.column(name) for name in table.column_names}
    if unknown := sorted(columns.keys() - {"metric_name", "value", "unit", "timestamp"}):
        raise Invalid.of(unknown[0], "is not known; check its spelling")
    if not 1 <= table.num_rows <= MAX_ITEMS:
        raise Invalid.of("body", f"must have 1 to {MAX_ITEMS} rows, not {table.num_rows}")
    names = _texts(columns, "metric_name", _NAME)
    values = _cast(columns, "value", "double")
    if values.null_count:
        raise Invalid.of("value", "must hold a number in every row, not null")
    units = _texts(columns, "unit", _UNIT) if "unit" in columns else [""] * table.num_rows
    times: Collection[int | None] = [None] * table.num_rows
    if "timestamp" in columns:
        times = _cast(columns, "timestamp", pyarrow.timestamp("us", "UTC")).cast("int64").to_pylist()
        known = [time for time in times if time is not None]
        if known and not _FIRST <= min(known) <= max(known) <= _LAST:
            raise Invalid.of("timestamp", "must lie in the years 1 to 9999")
    return Points(names, ArrowColumn(values), units, times)


_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds of the years 1 to 9999."""


def _texts(columns: dict[str, Any], name: str, checked: TypeAdapter[Any]) -> Collection[str]:
    column = _cast(columns, name, "string")
    for text in column.unique().to_pylist():  # few of many
        try:
            checked.validate_python(text)
        except ValidationError as error:
            reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise Invalid.of(name, reason) from error
    return ArrowColumn(column.fill_null(""))


def _cast(columns: dict[str, Any], name: str, type_: Any) -> Any:
    """The column as one array of that type."""
    if name not in columns:
        raise Invalid.of(name, "is a column that is missing")
    column = columns[name]
    kind = str(type_).partition("[")[0]
    alike = {"string": "string|dictionary", "double": "double|float|int", "timestamp": "timestamp"}[kind]
    if re.match(alike, str(column.type).removeprefix("large_")) is None:
        raise Invalid.of(name, f"must be a column of {kind}, not {column.type}")
    try:
        return column.cast(type_, safe=kind != "timestamp").combine_chunks()
    except Exception as error:  # such as numbers of a dictionary
        raise Invalid.of(name, f"must be a column of {kind}, not {column.type}") from error
