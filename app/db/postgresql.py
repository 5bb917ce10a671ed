"""What is special about connections to PostgreSQL: they notice a server that is gone, or that hangs."""

from __future__ import annotations

import selectors
import time
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

PATIENCE = 3.0
"""Seconds that a connection of the pool gets to show that its server is there, before it is used."""

# Of the client, which otherwise waits hours for a server whose machine lost its power; TCP only.
CONNECT_DEFAULTS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


class PostgreSQLDialect(PGDialect_psycopg):
    """SQLAlchemy's, whose ping waits as long as a server that hangs."""

    supports_statement_cache = True

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Whether the server answers within PATIENCE."""
        line, end = dbapi_connection.pgconn, time.monotonic() + PATIENCE
        try:
            line.send_query(b"")
            with selectors.DefaultSelector() as selector:
                selector.register(line.socket, selectors.EVENT_READ)
                while True:
                    while line.is_busy():
                        if not selector.select(max(end - time.monotonic(), 0)):
                            return False
                        line.consume_input()
                    if (result := line.get_result()) is None:
                        return True
                    if result.status != self.loaded_dbapi.pq.ExecStatus.EMPTY_QUERY:
                        return False  # what it says while it shuts down
        except self.loaded_dbapi.Error:
            return False


def register() -> None:
    """Makes `postgresql+psycopg://` URLs use this dialect in place of SQLAlchemy's own."""
    registry.register("postgresql.psycopg", __name__, PostgreSQLDialect.__name__)
