"""Retention: a server prunes by itself, now and then; of several on one database one at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from app.db import Database, utcnow
from app.db.leases import Leases
from app.errors import AppError, Unavailable
from app.schemas.common import duration
from app.schemas.retention import PruneRequest, RetentionRun, RetentionState
from app.schemas.runs import Deleted
from app.services.alone import alone
from app.services.files import atomic_file
from app.services.pruning import prune

logger = logging.getLogger("testdb.retention")

LAST = ".retention.json"
"""File in the results directory, which servers share: the last time."""
LEASE = "retention"
LOOK = 5.0  # seconds between two looks whether it is time
AGAIN = timedelta(minutes=10)
"""After a failure it is tried again so soon."""


class Retention:
    """What a server prunes, asked or by itself; one prune at a time. Thread-safe."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        retention: str | None,
        keep_tags: Sequence[str] = (),
        every: str = "1d",
    ) -> None:
        self._database = database
        self._directory = directory
        self._retention = retention
        self._keep_tags = list(keep_tags)
        self._every = every
        self._leases = Leases(database)
        self._last: RetentionRun | None = None
        self._stored = True
        self._pruning = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="retention", daemon=True)

    def start(self) -> None:
        """Begins to prune by itself, if that is wanted."""
        if self._retention is not None:
            self._thread.start()

    def close(self) -> None:
        """Stops what is under way after its portion, and waits for it."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._pruning:
            self._leases.close()

    def state(self) -> RetentionState:
        """What is pruned, and the last time."""
        return RetentionState(
            retention=self._retention, keep_tags=self._keep_tags, every=self._every, last=self.last()
        )

    def last(self) -> RetentionRun | None:
        """The last time that one of the servers pruned by itself."""
        if self._stored:  # else the file is about an earlier time, if there is one
            with suppress(OSError, ValueError):
                return RetentionRun.model_validate_json((self._directory / LAST).read_bytes())
        return self._last

    def prune(self, request: PruneRequest) -> Deleted:
        """Prunes now. Raises Busy while another prune goes on, Unavailable also when the server stops before
        it is done."""
        with alone(self._pruning, "Runs are being pruned already; send this again when that is done."):
            self._breathe(0, {})
            return prune(self._database, request, self._breathe)

    def _breathe(self, seconds: float, _deleted: Mapping[str, int]) -> None:
        if self._stopping.wait(seconds):
            raise Unavailable("The server stopped before everything was pruned; prune again for the rest.")

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._due() and self._leases.take(LEASE):
                    try:
                        if self._due():  # else another server has just done it
                            self._run()
                    finally:
                        self._leases.close()
            except AppError as error:
                logger.warning("retention: %s", error.detail)
            except Exception:
                logger.exception("retention failed")
            self._stopping.wait(LOOK)

    def _due(self) -> bool:
        last, every = self.last(), duration(self._every)
        if last is None:
            return True
        # The clocks of servers differ a little, and a wrong one must not end retention for good.
        return abs(utcnow() - last.at) >= (min(every, AGAIN) if last.error else every)

    def _run(self) -> None:
        assert self._retention is not None, "only then it was started"
        done = RetentionRun(at=utcnow(), runs=0, seconds=0.0, error=None)
        start = time.monotonic()

        def breathe(seconds: float, deleted: Mapping[str, int]) -> None:
            done.runs = deleted["test_runs"]
            self._leases.keep()
            self._breathe(seconds, deleted)

        try:
            with self._pruning:
                request = PruneRequest(older_than=self._retention, keep_tags=self._keep_tags)
                done.runs = prune(self._database, request, breathe).deleted["test_runs"]
        except AppError as error:
            done.error = error.detail
        except Exception as error:
            logger.exception("retention failed")
            done.error = f"This is a fault of the server ({type(error).__name__}); its log says more."
        done.seconds = round(time.monotonic() - start, 3)
        logger.info("retention deleted %d runs in %.1f s", done.runs, done.seconds)
        if done.error:
            logger.warning("retention: %s", done.error)
        self._store(done)

    def _store(self, done: RetentionRun) -> None:
        self._last, self._stored = done, False
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._directory / LAST, overwrite=True) as stream:
                stream.write(done.model_dump_json().encode())
            self._stored = True
        except OSError as error:
            raise Unavailable(f"{self._directory} cannot be written: {error.strerror}.") from error
