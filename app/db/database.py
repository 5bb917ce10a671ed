"""Units of work: who commits, who waits for whom, and what is tried again."""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from typing import Any, Concatenate, ParamSpec, TypeVar

import duckdb
from sqlalchemy import URL, Engine, Row, Select, exc, func, select, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from app.db.committed import Committed
from app.db.engine import embedded_file, make_engine, session_factory, snapshot
from app.errors import Conflict, DataLost, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("testdb")

ATTEMPTS = 6
AGAIN = "test-suite-db again"
"""Names the lock of a server's database that units of work hold when they are tried again."""

FAILURES = (exc.DBAPIError, exc.TimeoutError, StaleDataError)

_CHANGED, _DELETED = "changed_runs", "deleted_runs"

Listener = Callable[[Set[str]], None]
"""Called with the ids of the runs that a committed unit of work may have changed, or has deleted."""

RETRIED_SQLSTATES = {
    "40001",  # serialization failure
    "40P01",  # deadlock
    "23505",  # a key that another unit inserted first: the second try sees that row
    "23503",  # a parent that another unit deleted first
}


class Database:
    """A database and the two ways to use it: `read(work, …)` and `write(work, …)`.

    `work` is any function whose first argument is a session. A unit that writes is committed once, after
    `work` returns, and rolled back when it raises. When it met a conflict it is run again as a whole, so
    `work` must not have effects outside the session. Thread-safe.
    """

    def __init__(self, url: str | URL, *, write_timeout: float = 60.0) -> None:
        self.engine: Engine = make_engine(url)
        self.write_timeout = write_timeout
        self._writers = session_factory(self.engine)
        self._readers = sessionmaker(snapshot(self.engine), expire_on_commit=False)
        single_writer = getattr(self.engine.dialect, "single_writer", False)
        self._write_lock = threading.Lock() if single_writer else None
        self._listeners: dict[str, list[Listener]] = {_CHANGED: [], _DELETED: []}
        self._committed: Committed | None = None
        self._process = os.getpid()
        self.lost: str | None = None
        """What the database lost before it was opened, if anything."""
        self.stop: Callable[[str], object] = logger.critical
        """Called, with a reason, when the engine answers nothing any more until the process starts anew."""

    def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work` on one snapshot of the database."""
        with self._reading() as session:
            return work(session, *args, **kwargs)

    def write(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work` in a transaction and commits it; tries again, a few times, on conflicts."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._writing(again=attempt > 1) as session:
                    return work(session, *args, **kwargs)
            except FAILURES as error:
                if not _is_conflict(error) or attempt == ATTEMPTS:
                    raise translated(error) from error
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction that commits at the end of the block; writers of an embedded file take turns.

        Raises Unavailable when the turn does not come within `write_timeout` seconds.
        """
        try:
            with self._writing() as session:
                yield session
        except FAILURES as error:
            raise translated(error) from error

    @contextmanager
    def streams(self, statements: Sequence[Select[Any]]) -> Iterator[list[Iterator[Row[Any]]]]:
        """The rows of each statement (with `yield_per`), which may be taken from them in turns.

        On a server all see one snapshot. An embedded file must be opened to be read only: each statement
        has a connection of its own there, for a connection has one result at a time.
        """
        with ExitStack() as stack:
            sessions = [
                stack.enter_context(self._reading()) for _ in (statements[:1] if self.shared else statements)
            ]
            results = [
                stack.enter_context(sessions[n % len(sessions)].execute(statement))
                for n, statement in enumerate(statements)
            ]
            yield [chain.from_iterable(result.partitions()) for result in results]

    def keep_note(self, committed: Committed, lost: str | None) -> None:
        """From now on, notes beside an embedded file what was committed to it."""
        self._committed, self.lost = committed, lost

    @property
    def shared(self) -> bool:
        """Whether other processes may change the same database."""
        return self._write_lock is None

    def on_change(self, listener: Listener) -> None:
        """Adds a listener; it is called after commits of this process, in the thread that committed."""
        self._listeners[_CHANGED].append(listener)

    def on_delete(self, listener: Listener) -> None:
        """The same for runs that were deleted."""
        self._listeners[_DELETED].append(listener)

    @contextmanager
    def _writing(self, *, again: bool = False) -> Iterator[Session]:
        with self._turn(), self._watched():
            self._require_in_place()
            with self._writers() as session, session.begin():
                if again and self.shared:
                    # One after the other: at once, they could meet the same conflict each time.
                    session.execute(select(func.pg_advisory_xact_lock(func.hashtext(AGAIN))))
                yield session
            if self._committed is not None:
                self._committed.note()
        for kind, listeners in self._listeners.items():
            if run_ids := session.info.get(kind):
                for listener in listeners:
                    listener(run_ids)

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        try:
            with self._watched(), self._readers() as session, session.begin():
                yield session
        except FAILURES as error:
            raise translated(error) from error

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Tells `stop` when the engine fails for good."""
        if not self.shared and os.getpid() != self._process:
            raise Unavailable("The database belongs to the process that this one was forked from.")
        try:
            yield
        except exc.DBAPIError as error:
            if isinstance(error.orig, duckdb.FatalException):
                self.stop(str(error.orig).splitlines()[0])
            raise

    def _require_in_place(self) -> None:
        if self._committed is not None:
            self._committed.require_in_place()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._write_lock is None:
            yield
            return
        if not self._write_lock.acquire(timeout=self.write_timeout):
            raise Unavailable(
                f"Another write has held the database for {self.write_timeout:g} seconds; "
                "send this one again later."
            )
        try:
            yield
        finally:
            self._write_lock.release()

    def ping(self) -> None:
        """Raises Unavailable when the database does not answer, or cannot be written."""
        self.read(lambda session: session.execute(text("SELECT 1")))
        self._require_in_place()

    def size(self) -> int:
        """Bytes on disk; of an embedded file with its write-ahead log. Raises Unavailable."""
        file = embedded_file(self.engine.url)
        if file is None:
            size = func.pg_database_size(func.current_database())
            return int(self.read(lambda session: session.scalar(select(size))) or 0)
        # Only looked at: whoever opens and closes it loses the locks that this process has on it.
        total = 0
        with suppress(FileNotFoundError):  # the log ends with a checkpoint
            total += file.stat().st_size
            total += file.with_name(f"{file.name}.wal").stat().st_size
        return total

    def close(self) -> None:
        """Closes every connection; an embedded file is checkpointed and its write-ahead log removed."""
        with self._turn():
            if not self.shared:
                self._checkpoint()
            if self._committed is not None:
                self._committed.close()  # before another process can have the file, and a note of its own
                self._committed = None
            self.engine.dispose()

    def _checkpoint(self) -> None:
        # The engine does so itself when it closes a file, but not for each log that it found at the start.
        with suppress(exc.DBAPIError, duckdb.Error):  # one that is only read has none
            connection = self.engine.raw_connection()
            try:
                connection.cursor().execute("CHECKPOINT")
            except duckdb.FatalException as error:
                reason = str(error).splitlines()[0]
                logger.warning("The log stays beside the file, and the next start takes it over: %s", reason)
            finally:
                connection.close()


def note_change(session: Session, *run_ids: str) -> None:
    """Tells the listeners of the database, after the commit, that these runs may have changed."""
    session.info.setdefault(_CHANGED, set()).update(run_ids)


def note_deletion(session: Session, *run_ids: str) -> None:
    """Tells them, too, that these runs are gone."""
    note_change(session, *run_ids)
    session.info.setdefault(_DELETED, set()).update(run_ids)


def _is_conflict(error: Exception) -> bool:
    """Whether the same unit of work may succeed when it is run again."""
    if isinstance(error, StaleDataError):  # another unit removed the row between its loading and its update
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    if isinstance(error.orig, duckdb.ConstraintException | duckdb.TransactionException):
        # Two writes of a row, or of a key; the second may be noticed as late as at the commit.
        return re.search("conflict|duplicate key", str(error.orig), re.IGNORECASE) is not None
    return getattr(error.orig, "sqlstate", None) in RETRIED_SQLSTATES


def refused_values(error: Exception) -> str | None:
    """Why the engine cannot hold the values it was given; None for an error that is about something else."""
    reason = getattr(error, "orig", error)
    too_large = str(getattr(reason, "sqlstate", None)).startswith("54")
    if isinstance(error, exc.DataError | exc.IntegrityError) or isinstance(reason, ValueError) or too_large:
        return " ".join(str(reason).split()).rstrip(".")
    return None


_REMEDIES = dict.fromkeys(("No space left", "File too large"), "make room for it")
_SERVER_REMEDIES = {
    "25006": "connect to its primary, or end what made it read-only",
    "25P03": "raise its idle_in_transaction_session_timeout",
    "42501": "grant its role all rights on the tables",
    "42P01": "run `testdb migrate`, or restore a backup",
    "53100": "make room on its disk",
    "53200": "give it more memory, or wait until it has less to do",
    "53300": "raise its max_connections, or end other clients",
    "55P03": "raise its lock_timeout",
    "57014": "raise its statement_timeout, if it has one",
    "57P01": "wait until it is back",
    "57P02": "wait until it is back",
    "57P03": "wait until it is back",
    "57P05": "raise its idle_session_timeout",
    "58030": "look after its disk",
}
"""What helps against what PostgreSQL tells by an SQLSTATE, whichever class its driver has for that."""


def reason_of(error: BaseException) -> str:
    """The first line of what an engine says, with the names of files, but not where they are: that is not for
    clients to know."""
    return re.sub(r'"[^"]*/([^"/]*)"', r'"\1"', str(error).strip().partition("\n")[0])


def translated(error: Exception) -> Exception:
    """What the product says about an error of the database; an error of its own making stays as it is."""
    if _is_conflict(error):
        return Conflict("Another request changed the same rows at the same time; read them and try again.")
    if isinstance(error, exc.TimeoutError):
        return Unavailable("All database connections are busy; send the request again later.")
    reason = reason_of(getattr(error, "orig", error))
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None))
    if state in ("XX001", "XX002"):
        return DataLost(f"The database is damaged ({reason}); restore a backup.")
    if remedy := _SERVER_REMEDIES.get(state):
        return Unavailable(f"The database refuses ({reason}); {remedy}, then send the request again.")
    if isinstance(error, exc.DBAPIError) and isinstance(error.orig, duckdb.Error):
        if "Corrupt database file" in reason:
            return DataLost(f"The database file is damaged ({reason}); restore a backup.")
        if found := re.search("No space left|File too large|Read-only file system|Permission denied", reason):
            remedy = _REMEDIES.get(found[0], "make it and its folder writable again")
            return Unavailable(
                f"The database cannot be written, and nothing of the request was stored ({reason}); "
                f"{remedy}, then send the request again."
            )
    if (
        isinstance(error, exc.OperationalError | exc.InterfaceError)
        # An address with an option that the driver does not know: no statement was sent yet.
        or (isinstance(error, exc.ProgrammingError) and error.statement is None)
        # After this the engine answers nothing until the process starts anew.
        or (isinstance(error, exc.DBAPIError) and isinstance(error.orig, duckdb.FatalException))
    ):
        return Unavailable(f"The database does not answer: {reason or 'no reason given'}")
    return error
