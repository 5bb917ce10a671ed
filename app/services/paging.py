"""Keyset paging, newest first: a page goes on where the one before ended, whatever arrives meanwhile."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Row, Select, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import Invalid
from app.schemas.common import parse_time, plain_text

RECENT = 5000
"""Rows, the newest first, in which a page is looked for before all others are."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass
class Page(Generic[T]):
    """The items, the cursor of the next page (None: this is the last), and the total if it was asked for."""

    items: list[T]
    next_cursor: str | None = None
    total: int | None = None

    def map(self, convert: Callable[[list[T]], list[U]]) -> Page[U]:
        return Page(convert(self.items), self.next_cursor, self.total)


def encode_cursor(of: str, *key: Any) -> str:
    """An opaque text for the key of the last item of a page, and for what it is a page of."""
    plain = json.dumps([of, *(part.isoformat() if isinstance(part, datetime) else part for part in key)])
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, of: str, *kinds: type) -> list[Any]:
    """The key again; raises Invalid for a text that `encode_cursor` did not make of this and these kinds."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(parts, list) or parts[:1] != [of]:
            raise ValueError("not a key of this")
        return [_part(part, kind) for part, kind in zip(parts[1:], kinds, strict=True)]
    except (ValueError, binascii.Error, RecursionError) as error:
        raise Invalid.of(
            "cursor", "is not one of this list; start again without it and follow the Link header"
        ) from error


def _part(part: Any, kind: type) -> Any:
    if kind is datetime:
        return parse_time(part)
    if kind is str and isinstance(part, str):
        return plain_text(part)
    if kind is int and type(part) is int and abs(part) < 2**63:
        return part
    raise ValueError("not a key")


def newest_first(
    session: Session,
    select_: Select[Any],
    started_at: InstrumentedAttribute[datetime],
    key: InstrumentedAttribute[str],
    *,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[Row[Any]], str | None]:
    """One page of rows by start time, newest first, ties by key; and the cursor of the next page."""
    # What a costly condition selects often fills a page with recent rows alone.
    look_at_recent = select_.whereclause is not None and limit < RECENT
    recent = select(started_at).order_by(started_at.desc()).offset(RECENT).limit(1)
    if cursor is not None:
        time, last = decode_cursor(cursor, key.key, datetime, str)
        select_ = select_.where(_after(started_at, key, time, last))
        recent = recent.where(started_at <= time)
    select_ = select_.order_by(started_at.desc(), key).limit(limit + 1)
    rows: Sequence[Row[Any]] = []
    if look_at_recent and (edge := session.scalar(recent)) is not None:
        rows = session.execute(select_.where(started_at >= edge)).all()
    if len(rows) <= limit:
        rows = session.execute(select_).all()
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    return rows, encode_cursor(key.key, getattr(rows[-1], started_at.key), getattr(rows[-1], key.key))


def _after(
    started_at: InstrumentedAttribute[datetime], key: InstrumentedAttribute[str], time: datetime, last: str
) -> ColumnElement[bool]:
    # The first condition follows from the second; it is what lets an index on the time be entered.
    return and_(started_at <= time, or_(started_at < time, key > last))
