"""A whole database into another: every table in the order of its keys, whole runs at a time.

Nothing is noted anywhere about how far a move is. A target belongs to a move when each of its tables is the
beginning of the source's, and the move goes on behind it. So the source is read once, and its checksums are
made on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import JSON, Row, Select, exc, func, select
from sqlalchemy.orm import DeclarativeBase, Session

from app.db.bulk import insert_many
from app.db.database import refused_values
from app.errors import Conflict
from app.models import Base, TestRun
from app.schemas.moving import MovedTable

PAGE = 2_000_000
"""Characters of values, about ten thousand metrics, that are held at a time; a transaction ends with the run
that brings it to so many."""
FETCHED = 2000
"""Rows fetched at a time."""
FETCHED_DOCUMENTS = 50
"""The same where a row has a document, which may be large."""

_models = {mapper.local_table: mapper.class_ for mapper in Base.registry.mappers}
MODELS: list[type[DeclarativeBase]] = [_models[table] for table in Base.metadata.sorted_tables]
"""All, parents first."""

Report = Callable[[int], None]
"""Called with how many more rows are done."""


def in_key_order(model: type[DeclarativeBase]) -> Select[Any]:
    """Every row, by the key: a text by its code points, on every engine."""
    columns = model.__table__.columns
    documents = any(isinstance(column.type, JSON) for column in columns)
    statement = select(*columns).order_by(*model.__table__.primary_key)
    return statement.execution_options(yield_per=FETCHED_DOCUMENTS if documents else FETCHED)


def count_rows(session: Session) -> int:
    """The rows of all tables."""
    return sum(session.scalar(select(func.count()).select_from(model)) or 0 for model in MODELS)


class Tally:
    """How many rows there were, and a checksum of them: equal values give the same on every engine."""

    def __init__(self) -> None:
        self.rows = 0
        self.characters = 0
        self._hash = blake2b(digest_size=16)

    def add(self, row: Row[Any]) -> None:
        self.rows += 1
        # It tells types apart, has every digit of a float, and NaN is like NaN.
        text = repr(tuple(row))
        self.characters += len(text)
        self._hash.update(text.encode())

    @property
    def result(self) -> MovedTable:
        return MovedTable(rows=self.rows, checksum=self._hash.hexdigest())


class Stream:
    """The rows of a table of the source, in the order of the key, with a tally of those that were taken."""

    def __init__(self, model: type[DeclarativeBase], rows: Iterator[Row[Any]]) -> None:
        self.model = model
        self.name: str = model.__table__.name  # type: ignore[attr-defined]
        self.of_runs = "run_id" in model.__table__.columns
        self.tally = Tally()
        self.next = next(rows, None)
        self._rows = rows

    def take(self) -> Row[Any]:
        """The next row, which must be there."""
        row = self.next
        assert row is not None
        self.tally.add(row)
        self.next = next(self._rows, None)
        return row


def skip_moved(session: Session, streams: Sequence[Stream]) -> int:
    """Passes over the rows that the target, which the session is of, has already; returns their number.

    Raises Conflict unless each table of the target is the beginning of the source's.
    """
    for stream in streams:
        held = _tally(session, stream.model)
        while stream.tally.rows < held.rows and stream.next is not None:
            stream.take()
        if stream.tally.result != held.result:
            raise Conflict(
                f"The target has rows in {stream.name} that are not the source's, and stays as it is; choose "
                "an empty database, or one that a move of this source did not finish."
            )
    return sum(stream.tally.rows for stream in streams)


def copy_page(session: Session, streams: Sequence[Stream]) -> int:
    """Inserts the next batches and whole runs into the target; returns the number of rows, 0 at the end.

    What is inserted is taken from the streams: a unit that fails cannot be run again. Raises Conflict for
    values that the target cannot hold.
    """
    page = _Page(session, streams)
    for stream in streams:
        while not stream.of_runs and not page.full and stream.next is not None:
            page.take(stream)
    members = [stream for stream in streams if stream.of_runs]
    runs = next(stream for stream in members if stream.model is TestRun)
    while not page.full and any(stream.next is not None for stream in members):
        run_id = None if runs.next is None else runs.next.run_id
        for stream in members:
            # Without a run there are only rows of runs that do not exist; not every engine refuses those.
            while stream.next is not None and (run_id is None or stream.next.run_id <= run_id):
                page.take(stream)
    page.flush()
    return page.rows


def verify(session: Session, streams: Sequence[Stream], report: Report) -> dict[str, MovedTable]:
    """Compares every table of the target with what was taken from the source; Conflict when one differs."""
    tables = {}
    for stream in streams:
        wanted, found = stream.tally.result, _tally(session, stream.model, report).result
        if found != wanted:
            raise Conflict(
                f"{stream.name} differs: the source has {wanted.rows} rows with checksum {wanted.checksum}, "
                f"the target has {found.rows} with {found.checksum}."
            )
        tables[stream.name] = found
    return tables


def _tally(session: Session, model: type[DeclarativeBase], report: Report = lambda rows: None) -> Tally:
    tally = Tally()
    with session.execute(in_key_order(model)) as rows:
        for part in rows.partitions():
            for row in part:
                tally.add(row)
            report(len(part))
    return tally


class _Page:
    """Rows on their way into the target's transaction."""

    def __init__(self, session: Session, streams: Sequence[Stream]) -> None:
        self.rows = 0
        self.full = False
        self._session = session
        self._waiting: dict[Stream, list[Row[Any]]] = {stream: [] for stream in streams}
        self._characters = 0

    def take(self, stream: Stream) -> None:
        before = stream.tally.characters
        self._waiting[stream].append(stream.take())
        self.rows += 1
        self._characters += stream.tally.characters - before
        if self._characters >= PAGE:
            self.flush()
            self.full = True

    def flush(self) -> None:
        for stream, rows in self._waiting.items():  # parents first
            if rows:
                self._insert(stream, rows)
                rows.clear()
        self._characters = 0

    def _insert(self, stream: Stream, rows: list[Row[Any]]) -> None:
        names = stream.model.__table__.columns.keys()
        try:
            insert_many(self._session, stream.model, [dict(zip(names, row, strict=True)) for row in rows])
        except (exc.StatementError, ValueError) as error:
            reason = refused_values(error)
            if reason is None:
                raise
            first, last = (
                tuple(str(row._mapping[column.name])[:60] for column in stream.model.__table__.primary_key)
                for row in (rows[0], rows[-1])
            )
            raise Conflict(
                f"The target cannot hold a row of {stream.name} between {first} and {last}: {reason}; "
                "what was moved before stays, so change that row in the source and start again."
            ) from error
