"""Points of metrics as columns: many in one request, as JSON or as an Arrow stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import Annotated, Any, BinaryIO

import msgspec
import nanoarrow
from pydantic import Field, TypeAdapter, ValidationError

from app.errors import Invalid
from app.schemas.common import MAX_ITEMS, Name, Text
from app.schemas.documents import MetricDocument
from app.schemas.plain import PlainMetric, Reader
from app.schemas.validation import checked_json, is_json

ARROW_STREAM = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Points:
    """Equally many names, values, units and times; times may be whole microseconds since 1970."""

    names: Sequence[str]
    values: Sequence[float]
    units: Sequence[str | None]
    timestamps: Sequence[datetime | int | None]


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
    body = stream.read()
    items: Sequence[PlainMetric | MetricDocument] = _PLAIN.read(body) or checked_json(_ANY, body)
    return Points(
        [item.metric_name for item in items],
        [item.value for item in items],
        [item.unit for item in items],
        [item.timestamp for item in items],
    )


def points_from_arrow(stream: BinaryIO) -> Points:
    """The points of an Arrow IPC stream with the columns `metric_name` (text), `value` (float64) and, if
    wanted, `unit` (text) and `timestamp` (timestamp of any unit, in UTC). Raises Invalid."""
    try:
        table = nanoarrow.ArrayStream.from_readable(stream).read_all()
        columns = {
            table.schema.field(place).name: table.child(place) for place in range(table.schema.n_fields)
        }
    except Exception as error:  # whatever the bytes lead the reader to
        raise Invalid.of("body", "is not an Arrow IPC stream of a table") from error
    if unknown := sorted(columns.keys() - {"metric_name", "value", "unit", "timestamp"}):
        raise Invalid.of(unknown[0], "is not known; check its spelling")
    if not 1 <= len(table) <= MAX_ITEMS:
        raise Invalid.of("body", f"must have 1 to {MAX_ITEMS} rows, not {len(table)}")
    none: list[Any] = [None] * len(table)
    names = _texts(columns, "metric_name", _NAME)
    units = _texts(columns, "unit", _UNIT) if "unit" in columns else none
    timestamps = _times(columns["timestamp"]) if "timestamp" in columns else none
    return Points(names, _values(columns), units, timestamps)


def _texts(columns: dict[str, Any], name: str, checked: TypeAdapter[Any]) -> list[Any]:
    column = _column(columns, name, {nanoarrow.Type.STRING, nanoarrow.Type.LARGE_STRING})
    try:
        texts = list(column.iter_py())
        for text in set(texts):  # few of many
            checked.validate_python(text)
    except (ValidationError, UnicodeDecodeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "is not UTF-8"
        raise Invalid.of(name, reason.removeprefix("Value error, ")) from error
    return texts


def _values(columns: dict[str, Any]) -> list[float]:
    types = {nanoarrow.Type.DOUBLE, nanoarrow.Type.FLOAT, nanoarrow.Type.INT64, nanoarrow.Type.INT32}
    values = list(_column(columns, "value", types).iter_py())
    if None in values:
        raise Invalid.of(f"[{values.index(None)}].value", "must be a number, not null")
    return values


_PARTS = {"SECOND": (1_000_000, 1), "MILLI": (1000, 1), "MICRO": (1, 1), "NANO": (1, 1000)}
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds of the years 1 to 9999."""


def _times(column: Any) -> list[int | None]:
    """As microseconds: the stored numbers are read, since making a datetime of each takes longer than all
    else."""
    if column.schema.type != nanoarrow.Type.TIMESTAMP:
        raise Invalid.of("timestamp", "must be a column of timestamps")
    times, parts = _PARTS[column.schema.unit.name]
    found: list[int | None] = []
    for chunk in column.iter_chunk_views():
        numbers = list(chunk.buffer(1))[chunk.offset : chunk.offset + len(chunk)]
        valid = list(chunk.buffer(0).elements())[chunk.offset :] if chunk.null_count else repeat(True)
        found += [
            number * times // parts if is_valid else None
            for number, is_valid in zip(numbers, valid, strict=False)
        ]
    known = [time for time in found if time is not None]
    if known and not _FIRST <= min(known) <= max(known) <= _LAST:
        raise Invalid.of("timestamp", "must lie in the years 1 to 9999")
    return found


def _column(columns: dict[str, Any], name: str, types: set[Any]) -> Any:
    if name not in columns:
        raise Invalid.of(name, "is a column that is missing")
    column = columns[name]
    if column.schema.type not in types:
        wanted = " or ".join(sorted(type_.name.lower() for type_ in types))
        raise Invalid.of(name, f"must be a column of {wanted}, not {column.schema.type.name.lower()}")
    return column
