"""Statements of other people, run within limits: they only read, and end in time."""

from __future__ import annotations

import os
import re
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from sqlalchemy import Connection, Table
from sqlalchemy.orm import Session

from app.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from app.db.wall import Admitted

WATCHED = 0.01  # seconds between two looks at a statement
SENDING = 5
"""Looks at a canceled statement until nothing more is taken from it."""
MOST_TEXT = 32 << 20
"""Characters in all rows of an answer, which formats write as up to six bytes each."""
ROWS = 200
"""Read at a time at most, so that a wide result is noticed before it is whole."""


Show = Callable[[str], Callable[[Any], Any]]


@dataclass(frozen=True)
class Limits:
    """`timeout` in seconds; `memory` in bytes is what this process may grow by, and four times what a sort or
    hash table may take where the engine works in another."""

    timeout: float
    memory: int


@dataclass(frozen=True)
class Rows:
    """Rows as they are shown, with their columns: a name, and one of the types text, integer, number,
    boolean, timestamp, date, time, interval and json, with `[]` behind it for a list."""

    columns: list[tuple[str, str]]
    rows: list[list[Any]]
    truncated: bool


def select(
    session: Session,
    tables: Mapping[str, Table],
    sql: str,
    parameters: list[Any] | Mapping[str, Any],
    limit: int,
    limits: Limits,
    show: Show,
) -> Rows:
    """Runs one SELECT on the tables, of what `app.db.wall` admits, and returns up to `limit` rows.

    `show` yields for a column's type what makes of a value of it what the answer has; it raises ValueError.

    The session must be one that only reads. Raises Invalid for what is not admitted, what the engine refuses,
    and what takes too long or too much; Unavailable when the database does not answer.
    """
    # The parser takes long to load: only those wait for it who ask.
    from app.db.dialects import grammar_of
    from app.db.wall import admit

    connection = session.connection()
    admitted = admit(grammar_of(connection.dialect), tables, sql, parameters, limit + 1)
    run = _run_duckdb if connection.dialect.name == "duckdb" else _run_postgresql
    return run(connection, admitted, limit, limits, show)


class _Watch:
    """Stops a statement when its time is over, or the process has grown too much."""

    def __init__(self, limits: Limits, stop: Callable[[], None]) -> None:
        self._limits = limits
        self._stop = stop
        self._over = threading.Event()
        self.reason: str | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, name="query-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def check(self) -> None:
        if self.reason:
            raise Invalid.of("sql", self.reason)

    def _run(self) -> None:
        end, most = time.monotonic() + self._limits.timeout, memory() + self._limits.memory
        while not self._over.wait(WATCHED):
            if time.monotonic() > end:
                self.reason = too_long(self._limits)
            elif memory() > most:
                self.reason = (
                    f"was stopped, as the server needed {self._limits.memory >> 20} MiB of memory more than "
                    "before it; beside large requests, send it again when they are done"
                )
            if self.reason:
                self._stop()


def too_long(limits: Limits) -> str:
    return f"took longer than {limits.timeout:g} seconds, and was stopped"


def memory() -> int:
    """Bytes of memory that the process has now; where the system does not tell, what it had at most."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def _run_duckdb(connection: Connection, admitted: Admitted, limit: int, limits: Limits, show: Show) -> Rows:
    driver: Any = connection.connection.driver_connection
    watch = _Watch(limits, driver.interrupt)
    try:
        driver.execute("SET TimeZone = 'UTC'")
        with watch(), ThreadPoolExecutor(1, initializer=_step_back) as aside:
            aside.submit(driver.execute, admitted.sql, admitted.parameters).result()
            columns = [(name, _type(str(kind))) for name, kind, *_ in driver.description]
            rows = _taken(driver.fetchmany, limit, watch, [show(kind) for _, kind in columns])
    except duckdb.FatalException as error:
        raise Unavailable("The database has stopped working; start the server anew.") from error
    except (duckdb.Error, RuntimeError) as error:
        watch.check()
        raise Invalid.of("sql", _said(error)) from error
    return Rows(columns, rows[:limit], len(rows) > limit)


def _step_back() -> None:
    """Other requests go before this thread, where the system knows priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _run_postgresql(
    connection: Connection, admitted: Admitted, limit: int, limits: Limits, show: Show
) -> Rows:
    psycopg: Any = connection.dialect.loaded_dbapi
    driver: Any = connection.connection.driver_connection
    stop = _Stop(driver)
    watch = _Watch(limits, stop)
    try:
        _restrict(driver, limits)
        _no_functions(driver, admitted.fields)
        with watch(), psycopg.RawServerCursor(driver, "query") as cursor:
            for kind in ("json", "jsonb"):  # read by who shows it, as on the other engine
                cursor.adapters.register_loader(kind, psycopg.types.string.TextLoader)
            cursor.execute(admitted.sql, admitted.parameters)
            columns = [(column.name, _OIDS.get(column.type_code, "text")) for column in cursor.description]
            rows = _taken(cursor.fetchmany, limit, watch, [show(kind) for _, kind in columns])
    except psycopg.errors.QueryCanceled as error:
        raise Invalid.of("sql", watch.reason or too_long(limits)) from error
    except psycopg.OperationalError as error:
        watch.check()
        if (error.sqlstate or "08")[:2] in ("08", "57"):
            raise Unavailable(f"The database does not answer: {_said(error)}") from error
        raise Invalid.of("sql", _said(error)) from error
    except psycopg.Error as error:
        watch.check()
        raise Invalid.of("sql", _said(error)) from error
    finally:
        if stop.hung_up:
            connection.invalidate()
    return Rows(columns, rows[:limit], len(rows) > limit)


class _Stop:
    """Cancels a statement of PostgreSQL. What it sends already is whole rows, of up to a gigabyte each: when
    they keep coming, the connection ends."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._calls = 0
        self.hung_up = False

    def __call__(self) -> None:
        self._calls += 1
        if self._calls == 1:
            self._driver.cancel()
        elif self._calls == SENDING and not self._driver.closed:
            with socket.socket(fileno=os.dup(self._driver.fileno())) as connection:
                connection.shutdown(socket.SHUT_RDWR)
            self.hung_up = True


def _restrict(driver: Any, limits: Limits) -> None:
    """Sets what holds to the end of the transaction."""
    kilobytes = limits.memory >> 10
    settings = {
        "statement_timeout": f"{limits.timeout * 1000 + 500:.0f}",  # should nobody cancel it
        "cursor_tuple_fraction": "1",
        "lock_timeout": f"{limits.timeout * 1000:.0f}",
        "work_mem": f"{max(kilobytes >> 2, 64)}kB",
        "max_parallel_workers_per_gather": "0",
        "jit": "off",
        "standard_conforming_strings": "on",
    }
    for name, value in settings.items():
        driver.execute("SELECT set_config(%s, %s, true)", (name, value))
    # Only some roles may bound what spills to disk.
    driver.execute(
        "SELECT set_config('temp_file_limit', %s, true) FROM pg_roles"
        " WHERE rolname = current_user AND rolsuper",
        (f"{kilobytes * 4}kB",),
    )


def _no_functions(driver: Any, fields: Collection[str]) -> None:
    """Refuses names behind a dot that PostgreSQL may take for a function, or for a type to cast to.

    Which it has, only the database knows: extensions bring more.
    """
    if fields and (found := driver.execute(_FUNCTIONS, (sorted(fields),)).fetchone()):
        raise Invalid.of("sql", f"has .{found[0]}, which may mean a function; give that column another name")


_FUNCTIONS = """
    SELECT name FROM unnest(%s::name[]) name
    WHERE EXISTS (SELECT FROM pg_type WHERE typname = name) OR EXISTS (
        SELECT FROM pg_proc
        WHERE proname = name AND (provariadic <> 0 OR 1 BETWEEN pronargs - pronargdefaults AND pronargs)
    )
    LIMIT 1
"""


def _taken(
    fetch: Callable[[int], list[tuple[Any, ...]]],
    limit: int,
    watch: _Watch,
    shown: list[Callable[[Any], Any]],
) -> list[list[Any]]:
    """The first `limit` rows and, if there are more, one of them; few at first, as each may be large."""
    rows: list[list[Any]] = []
    count, size = 1, 0
    try:
        while len(rows) <= limit and (batch := fetch(count)):
            for row in batch:
                watch.check()  # what is shown may take much more than what was read
                size += _characters(row)
                if size > MOST_TEXT:
                    raise Invalid.of("sql", f"yields more than {MOST_TEXT >> 20} MiB of text; ask for less")
                rows.append([show(value) for show, value in zip(shown, row, strict=True)])
            count = min(2 * count, ROWS)
    except (OverflowError, ValueError, RecursionError) as error:
        raise Invalid.of("sql", "yields a value that cannot be shown; cast it to a text") from error
    watch.check()
    return rows


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return _characters(list(value.items()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0


def _said(error: Exception) -> str:
    """The first line: the others show the statement as it was written anew, or suggest other names."""
    line = (str(error).strip().splitlines() or ["it failed"])[0]
    return f"was refused by the database: {re.sub('cte_', '', line)[:300]}"


def _type(name: str) -> str:
    if name.endswith("]"):
        return _type(name[: name.rindex("[")]) + "[]"
    for pattern, kind in _TYPES:
        if re.match(pattern, name):
            return kind
    return "text"


_TYPES = (
    (r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?$", "integer"),
    ("DOUBLE|FLOAT|DECIMAL", "number"),
    ("BOOLEAN", "boolean"),
    ("TIMESTAMP", "timestamp"),
    ("DATE", "date"),
    ("INTERVAL", "interval"),
    ("TIME", "time"),
    ("JSON|STRUCT|MAP|UNION", "json"),
)
_OIDS = {
    **{16: "boolean", 20: "integer", 21: "integer", 23: "integer", 26: "integer"},
    **{700: "number", 701: "number", 1700: "number", 1114: "timestamp", 1184: "timestamp"},
    **{1082: "date", 1083: "time", 1266: "time", 1186: "interval", 114: "json", 3802: "json"},
    **{1000: "boolean[]", 1005: "integer[]", 1007: "integer[]", 1016: "integer[]", 1021: "number[]"},
    **{1022: "number[]", 1231: "number[]", 1002: "text[]", 1009: "text[]", 1015: "text[]"},
    **{1115: "timestamp[]", 1185: "timestamp[]", 1182: "date[]", 199: "json[]", 3807: "json[]"},
}
