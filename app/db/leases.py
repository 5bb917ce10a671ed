"""Who works on what, when processes share a database: a lease ends with its holder, however it ends."""

from __future__ import annotations

import threading

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, exc, func, select, true

from app.db.database import Database, translated
from app.errors import Unavailable


class Leases:
    """Names of which each has at most one holder. Thread-safe.

    An embedded file has one process, which then holds them all. On a server they are advisory locks of one
    connection (https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS), which it takes
    back when the connection ends.
    """

    def __init__(self, database: Database) -> None:
        self._engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._shared = database.shared
        self._held: set[str] = set()
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def take(self, name: str) -> bool:
        """Whether the name is held from now on; false when somebody holds it, be it this process.

        Raises Unavailable when the database does not answer.
        """
        with self._lock:
            if name in self._held or (self._shared and not self._locked(name)):
                return False
            self._held.add(name)
            return True

    def keep(self) -> None:
        """Takes again what is held, if the connection was lost, before somebody else does; for now and then.

        Raises Unavailable when the database does not answer.
        """
        with self._lock:
            if not self._shared or not self._held:
                return
            try:
                self._asked(select(true()))
            except Unavailable:
                self._asked(select(true()))  # over a new connection

    def release(self, name: str) -> None:
        """Gives the name up."""
        with self._lock:
            self._held.discard(name)
            if self._connection is None:
                return
            try:
                self._connection.scalar(select(func.pg_advisory_unlock(_number(name))))
            except exc.SQLAlchemyError:
                self._forget()  # and with the connection every lock of it

    def close(self) -> None:
        """Gives everything up, as soon as the database notices that the connection has ended."""
        with self._lock:
            self._held.clear()
            self._forget()

    def _locked(self, name: str) -> bool:
        return self._asked(select(func.pg_try_advisory_lock(_number(name))))

    def _asked(self, question: Select[bool]) -> bool:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
                # A new connection, after one was lost: what this process works on is still its own.
                for held in self._held:
                    self._connection.execute(select(func.pg_try_advisory_lock(_number(held))))
            return bool(self._connection.scalar(question))
        except (exc.DBAPIError, exc.TimeoutError) as error:
            self._forget()
            raise translated(error) from error

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


def _number(name: str) -> ColumnElement[int]:
    return func.hashtextextended(name, 0, type_=BigInteger)
