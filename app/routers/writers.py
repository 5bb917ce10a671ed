"""Requests that write: on an embedded file they wait for each other, and nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import Busy, Unavailable

WRITERS = 16
"""Requests that write at once; each has one of the server's 40 threads until it is done."""


class Writers:
    """Turns of one event loop: so many have theirs at once, at most `queue` wait up to `patience` seconds."""

    def __init__(self, *, queue: int, patience: float) -> None:
        self._places = asyncio.Semaphore(WRITERS)
        self._queue = queue
        self._patience = patience
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Raises Busy when too many wait, Unavailable when the turn does not come in time."""
        if self._places.locked() and self._waiting >= self._queue:
            raise Busy(f"{self._waiting} writes wait already; send this one again in a second.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(
                f"Other writes have kept this one waiting for {self._patience:g} seconds; "
                "send it again later."
            ) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()
