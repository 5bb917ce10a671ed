"""Whether the server can do its work: asked by anybody, often, and answered soon."""

from __future__ import annotations

import asyncio

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from app.db import Database
from app.db.migrate import require_current
from app.errors import Unavailable

PATIENCE = 5.0
"""Seconds that the database gets to answer."""


class Readiness:
    """Asks the database once for all who want to know at the same time. Belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asking: asyncio.Task[str] | None = None
        self._limiter = CapacityLimiter(1)  # a thread of its own: those of the requests may all be waiting

    async def revision(self) -> str:
        """The revision of the database. Raises MigrationError or Unavailable, be it for want of an answer."""
        if self._asking is None or self._asking.done():
            question = run_sync(self._ask, abandon_on_cancel=True, limiter=self._limiter)
            self._asking = asyncio.ensure_future(question)
            self._asking.add_done_callback(_heard)
        try:
            return await asyncio.wait_for(asyncio.shield(self._asking), PATIENCE)
        except TimeoutError:
            raise Unavailable(
                f"The database does not answer: nothing came for {PATIENCE:g} seconds; it hangs, or other "
                "requests hold all connections."
            ) from None

    def _ask(self) -> str:
        self._database.ping()
        return require_current(self._database.engine)


def _heard(asked: asyncio.Task[str]) -> None:
    """Takes note of an error that comes when nobody waits for it any more."""
    if not asked.cancelled():
        asked.exception()
