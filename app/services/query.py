"""SQL of the caller's own: how many run at a time, and what their rows look like outside."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from typing import Any, TypeVar

import nanoarrow
from nanoarrow.ipc import StreamWriter
from pydantic_core import to_json

from app.config import Settings
from app.db import Database
from app.db.guarded import Limits, Rows, memory, select
from app.db.types import microseconds
from app.errors import Busy
from app.models import Base
from app.schemas.query import SqlAnswer, SqlColumn, SqlQuery

T = TypeVar("T")

TABLES = Base.metadata.tables
PATIENCE = 1.0  # seconds that a query waits for its turn
QUEUE = 4  # queries that wait; each holds a thread of the server
SPARE = 64 << 20  # bytes that a query may leave behind without the next one waiting for them


class Queries:
    """Runs queries within the limits of the settings. Thread-safe."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._limits = Limits(settings.query_timeout, settings.query_memory_mb << 20)
        self._running = threading.BoundedSemaphore(settings.query_parallel)
        self._admitted = threading.BoundedSemaphore(settings.query_parallel + QUEUE)
        self._last = (0.0, 0)
        """When the last query ended, and the bytes of memory that the process had before it."""

    def run(self, query: SqlQuery, render: Callable[[SqlAnswer], T]) -> T:
        """What `render` makes of the rows, of which there are no others meanwhile: both may be large.

        Raises Invalid for what is not allowed, or was stopped; Busy when others do not end.
        """
        with self._turn(), self._settled():
            start = time.perf_counter()
            found = self._database.read(
                select, TABLES, query.sql, query.params, query.limit, self._limits, _shown
            )
            elapsed = (time.perf_counter() - start) * 1000
            return render(_answer(found, elapsed))

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Lets the allocator give back what the query before has left, for up to a second from its end:
        several large ones in a row would each begin where the other was stopped."""
        ended, before = self._last
        while time.monotonic() < ended + PATIENCE and memory() > before + SPARE:
            time.sleep(0.02)
        before = memory()
        try:
            yield
        finally:
            self._last = time.monotonic(), before

    @contextmanager
    def _turn(self) -> Iterator[None]:
        busy = Busy("Other queries are running; send this one again later.")
        if not self._admitted.acquire(blocking=False):
            raise busy
        try:
            if not self._running.acquire(timeout=PATIENCE):
                raise busy
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._admitted.release()


def _answer(found: Rows, elapsed: float) -> SqlAnswer:
    return SqlAnswer.model_construct(
        columns=[SqlColumn(name=name, type=kind) for name, kind in found.columns],
        rows=found.rows,
        truncated=found.truncated,
        elapsed_ms=round(elapsed, 3),
    )


def _shown(kind: str) -> Callable[[Any], Any]:
    """How a value of the type looks in JSON."""
    if kind.endswith("[]"):
        item = _shown(kind.removesuffix("[]"))
        return lambda values: values if values is None else [item(value) for value in values]
    if kind == "json":
        return lambda value: _read(value) if isinstance(value, str) else _plain(value)
    return _plain


def _read(text: str) -> Any:
    """What a JSON text says. Raises ValueError, or RecursionError, where no answer could have it."""
    value = json.loads(text)
    to_json(value)  # which knows no surrogates, and has a limit of depth
    return value


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date | clock):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def as_json(answer: SqlAnswer) -> bytes:
    """The answer; what JSON has no number for is text."""
    columns = [{"name": column.name, "type": column.type} for column in answer.columns]
    return to_json(
        {
            "columns": columns,
            "rows": answer.rows,
            "truncated": answer.truncated,
            "elapsed_ms": answer.elapsed_ms,
        },
        inf_nan_mode="strings",
    )


def as_csv(answer: SqlAnswer) -> bytes:
    """A header and the rows; lists and objects as JSON, nothing for NULL."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([column.name for column in answer.columns])
    for row in answer.rows:
        writer.writerow([cell(value) for value in row])
    return text.getvalue().encode()


def cell(value: Any) -> str:
    """A value as text, empty for NULL."""
    return _text(value) or ""


def as_arrow(answer: SqlAnswer) -> bytes:
    """An Arrow IPC stream of one batch; times in UTC, lists and objects as JSON text."""
    columns = list(zip(*answer.rows, strict=True)) if answer.rows else [() for _ in answer.columns]
    arrays = [
        _array(column.type, list(values)) for column, values in zip(answer.columns, columns, strict=True)
    ]
    fields = [
        nanoarrow.c_schema(array.schema).modify(name=column.name)
        for column, array in zip(answer.columns, arrays, strict=True)
    ]
    schema = nanoarrow.struct(fields)
    batch = nanoarrow.c_array_from_buffers(schema, len(answer.rows), [None], children=arrays)
    stream = io.BytesIO()
    with StreamWriter.from_writable(stream) as writer:
        writer.write_stream(nanoarrow.c_array_stream(batch))
    return stream.getvalue()


def _array(kind: str, values: list[Any]) -> Any:
    if kind == "timestamp" and all(value is None or value.endswith("Z") for value in values):
        times = [None if value is None else microseconds(datetime.fromisoformat(value)) for value in values]
        numbers = nanoarrow.c_array(times, nanoarrow.int64())
        schema = nanoarrow.timestamp("us", timezone="UTC")
        return nanoarrow.c_array_from_buffers(schema, len(values), list(numbers.view().buffers))
    if kind == "boolean":
        return nanoarrow.c_array(values, nanoarrow.bool_())
    if kind == "integer" and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return nanoarrow.c_array(values, nanoarrow.int64())
    if kind in ("integer", "number", "interval"):
        return nanoarrow.c_array(values, nanoarrow.float64())
    return nanoarrow.c_array([_text(value) for value in values], nanoarrow.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    text = to_json(value, inf_nan_mode="strings").decode()
    return text.strip('"') if isinstance(value, float) else text
