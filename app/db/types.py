"""Column types that behave alike on every engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import DateTime, Dialect, String
from sqlalchemy.types import TypeDecorator, TypeEngine

Key = String().with_variant(String(collation="C"), "postgresql")
"""Text that keys and paging compare: by code point on every engine, whatever the database's locale."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware `datetime` in UTC.

    PostgreSQL stores `timestamptz`. DuckDB stores a naive `TIMESTAMP` in UTC: fetching its zoned type needs
    another package, and an aware value bound to a naive column would be shifted silently. A naive value is
    taken as UTC.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=dialect.name != "duckdb"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "duckdb" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """Since 1970, of an aware time; exact. Raises TypeError for a naive one."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(number: int) -> datetime:
    """The time so many microseconds after 1970 began."""
    return _EPOCH + number * _MICROSECOND


def utcnow() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)
