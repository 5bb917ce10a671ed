"""One run: its process, its events on their way to the database, and its end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from app.db import Database, utcnow
from app.db.engine import passwords
from app.errors import AppError, Conflict, NotFound, Unavailable
from app.runner.command import child_environment, pytest_command
from app.runner.folder import EventStream, RunFolder, all_events
from app.runner.process import Ended, Process
from app.runner.suites import Suite
from app.services import launching, recording
from app.services.launching import Job
from app.vocabulary import RunStatus

logger = logging.getLogger("testdb.runner")

T = TypeVar("T")

LOOK = 0.1  # seconds between two looks at what the suite has told
ASK = 1.0  # seconds between two questions whether the run was ended from elsewhere
RETRY = 1.0  # seconds before a database that did not answer is asked again
GRACE = 5.0  # seconds between the signals TERM and KILL
MAX_OUTPUT = 4 << 20
TAIL = 2000  # characters of the output that an error quotes

SERVER_STOPPED = "server stopped"


class Execution:
    """Runs a job to its end. `run` blocks; `stop` may be called from any thread, also before.

    `keep` is called now and then while it is under way, to keep the lease on it.
    """

    def __init__(
        self, database: Database, suite: Suite, results_dir: Path, job: Job, *, keep: Callable[[], None]
    ) -> None:
        self.job = job
        self.done = threading.Event()
        self.status: RunStatus | None = None
        """How the run ended, once it is done; None when it was deleted."""
        self._database = database
        self._suite = suite
        self._keep = keep
        self._folder = RunFolder(results_dir, job)
        self._stream = EventStream(self._folder.events)
        self._process: Process | None = None
        self._stopped: str | None = None
        self._lock = threading.Lock()

    def stop(self, reason: str) -> None:
        """Ends the process group; the run ends as cancelled or, for SERVER_STOPPED, as an error."""
        with self._lock:
            self._stopped = self._stopped or reason
            if self._process is not None:
                self._process.stop()

    def run(self) -> None:
        """Executes the run; returns when it is recorded and all of its processes are gone."""
        try:
            self._folder.make()
            self._start()
            self._conclude(self._follow())
        except NotFound:
            logger.info("run %s was deleted while it was under way", self.job.run_id)
            self._folder.remove()
        except Unavailable as error:
            self._refuse(error.detail)
        except Exception:
            logger.exception("run %s could not be executed", self.job.run_id)
            self._refuse("The server could not execute the run; its log says more.")
        finally:
            if self._process is not None:  # also when the loop around it failed
                self._process.stop()
                self._process.wait()
            self.done.set()

    def _start(self) -> None:
        selected = self._suite.type(self.job.test_type)
        assert selected is not None, "the runner has checked it"
        with self._lock:
            if self._stopped is None:
                self._process = Process(
                    pytest_command(self._suite, selected, self.job, self._folder),
                    cwd=self._suite.folder,
                    env=child_environment(os.environ, passwords(self._database.engine.url)),
                    output=self._folder.output,
                    timeout=self.job.timeout,
                    grace=GRACE,
                    max_output=MAX_OUTPUT,
                )

    def _follow(self) -> Ended | None:
        """Stores what the suite tells, until its processes are gone; None when there never were any."""
        if self._process is None:
            return None
        asked = time.monotonic()
        while True:
            ended = self._process.wait(LOOK)
            try:
                while self._store_portion():
                    pass
                if time.monotonic() - asked > ASK:
                    asked = time.monotonic()
                    self._keep()
                    self._notice_an_end()
            except (Conflict, NotFound):
                self._process.stop()
            except Unavailable as error:
                logger.warning("run %s: %s", self.job.run_id, error.detail)
            if ended is not None:
                return ended

    def _store_portion(self) -> bool:
        """Whether there was anything new. What could not be stored is read again the next time."""
        events, position = self._stream.read()
        if events:
            self._database.write(recording.record_events, self.job.run_id, events)
        self._stream.accept(events, position)
        return bool(events)

    def _notice_an_end(self) -> None:
        found = self._database.read(launching.statuses, [self.job.run_id])
        if found.get(self.job.run_id) != RunStatus.RUNNING:
            raise Conflict("The run was ended by somebody else.")

    def _conclude(self, ended: Ended | None) -> None:
        at = utcnow()
        self._patiently(self._store_rest)
        status, error = self._outcome(ended)
        self.status = self._patiently(
            lambda: conclude(self._database, self._folder, self.job, status, error, at=at)
        )

    def _store_rest(self) -> None:
        try:
            while self._store_portion():
                pass
        except Conflict:
            return  # nothing is added to a run that somebody else has ended

    def _outcome(self, ended: Ended | None) -> tuple[RunStatus, str | None]:
        finished = self._stream.finished
        running = f", while running {', '.join(self._stream.running)}" if self._stream.running else ""
        if ended is not None and ended.ended_by == "timeout":
            return RunStatus.TIMEOUT, f"The time limit of {self.job.timeout:g} seconds passed{running}."
        if self._stopped == SERVER_STOPPED:
            return RunStatus.ERROR, SERVER_STOPPED
        if ended is None or self._stopped is not None:
            return RunStatus.CANCELLED, self._stopped
        if finished is None:
            return RunStatus.ERROR, _with_tail(f"The suite {_how(ended)}{running}.", ended.tail)
        if finished.status == RunStatus.COMPLETED:
            return RunStatus.COMPLETED, finished.error
        # Nobody asked it to stop: an interruption is a fault of the suite.
        return RunStatus.ERROR, _with_tail(finished.error or "The suite did not finish.", ended.tail)

    def _refuse(self, error: str) -> None:
        try:
            self._patiently(self._database.write, launching.refuse, self.job.run_id, error)
        except AppError as reason:
            logger.warning("run %s is not ended: %s", self.job.run_id, reason.detail)

    def _patiently(self, work: Callable[..., T], *args: object) -> T:
        """Does the work, waiting for a database that does not answer, unless the server is stopping."""
        while True:
            try:
                return work(*args)
            except Unavailable as error:
                if self._stopped == SERVER_STOPPED:
                    raise
                logger.warning("run %s: %s", self.job.run_id, error.detail)
                time.sleep(RETRY)


def recover(database: Database, results_dir: Path, job: Job) -> None:
    """Ends a run whose server died, as an error, with everything that its suite had told."""
    folder = RunFolder(results_dir, job)
    if folder.events.is_file():
        database.write(lambda session: launching.replay(session, job.run_id, all_events(folder.events)))
    conclude(database, folder, job, RunStatus.ERROR, SERVER_STOPPED)


def conclude(
    database: Database,
    folder: RunFolder,
    job: Job,
    status: RunStatus,
    error: str | None,
    *,
    at: datetime | None = None,
) -> RunStatus:
    """Records the end of a run and its files; returns the status it has then."""
    final = database.write(
        launching.conclude,
        job.run_id,
        status,
        error,
        folder.artifacts(),
        at=at or utcnow(),
        write=folder.write_result,
    )
    folder.events.unlink(missing_ok=True)
    logger.info("run %s ended as %s", job.run_id, final)
    return final


def _how(ended: Ended) -> str:
    if ended.error is not None:
        return f"could not be run ({ended.error})"
    if ended.signal is not None:
        return f"was killed by {signal.Signals(ended.signal).name} before it finished"
    return f"exited with code {ended.code} before it finished"


def _with_tail(reason: str, tail: str) -> str:
    tail = tail.replace("\x00", "\\x00").strip()[-TAIL:]
    return f"{reason}\n\nThe end of its output:\n{tail}" if tail else reason
