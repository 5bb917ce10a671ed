"""The live status of runs, for however many watch: one query a change, and no reader waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Set
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from app.db import Database
from app.errors import NotFound, Unavailable
from app.services.live import Snapshot, snapshot

logger = logging.getLogger("testdb")

LOOK = 1.0  # seconds between two looks at a run that other servers may change


@dataclass
class _Watched:
    """A run that somebody watches."""

    readers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the run may have changed since it was last read."""
    published: asyncio.Condition = field(default_factory=asyncio.Condition)
    latest: Snapshot | None = None
    version: int = 0
    gone: bool = False
    """Nothing more will come: the run was deleted, or the server stops."""
    task: asyncio.Task[None] | None = None


class Watchers:
    """The runs that are watched, in one event loop. A slow reader gets the latest status, not each."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._watched: dict[str, _Watched] = {}
        self._closed = False
        database.on_change(self._on_change)

    def close(self) -> None:
        """Ends every stream."""
        self._closed = True
        for watched in self._watched.values():
            watched.gone = True
            watched.changed.set()

    async def follow(self, run_id: str) -> AsyncGenerator[Snapshot]:
        """The status at once, and after each change, to the end of the run. Raises NotFound."""
        watched = self._watched.get(run_id)
        if watched is None:
            watched = self._watched[run_id] = _Watched()
            watched.changed.set()
            watched.task = asyncio.create_task(self._publish(run_id, watched))
        watched.readers += 1
        seen = 0
        try:
            while not self._closed:
                async with watched.published:
                    while watched.version == seen and not watched.gone:
                        await watched.published.wait()
                if watched.version > seen and watched.latest is not None:
                    seen = watched.version
                    yield watched.latest
                    if watched.latest.ended:
                        return
                elif not seen:
                    raise NotFound(f"There is no run {run_id!r}.")
                else:
                    return
        finally:
            watched.readers -= 1
            if not watched.readers and watched.task is not None:
                watched.task.cancel()
                if self._watched.get(run_id) is watched:
                    del self._watched[run_id]

    def _on_change(self, run_ids: Set[str]) -> None:
        """Called in the thread of whoever changed them."""
        if not self._watched.keys().isdisjoint(run_ids):
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._mark, frozenset(run_ids))

    def _mark(self, run_ids: Set[str]) -> None:
        for run_id in run_ids & self._watched.keys():
            self._watched[run_id].changed.set()

    async def _publish(self, run_id: str, watched: _Watched) -> None:
        """Reads the run after each change, once for all who watch it."""
        try:
            while not watched.gone:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(watched.changed.wait(), LOOK if self._database.shared else None)
                watched.changed.clear()
                try:
                    found = await run_in_threadpool(self._database.read, snapshot, run_id)
                except Unavailable:
                    await asyncio.sleep(LOOK)  # it may come back
                    watched.changed.set()
                    continue
                if found != watched.latest:
                    watched.latest = found
                    watched.version += 1
                    async with watched.published:
                        watched.published.notify_all()
        except NotFound:
            logger.debug("run %s, which is watched, is not there", run_id)
        finally:
            watched.gone = True
            async with watched.published:
                watched.published.notify_all()
