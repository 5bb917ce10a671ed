"""The runner of a server: what can be run, the queue, and the runs under way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Set
from pathlib import Path

from app.db import Database
from app.db.leases import Leases
from app.errors import FieldError, Invalid, NotFound, Unavailable
from app.runner.execution import GRACE, SERVER_STOPPED, Execution, recover
from app.runner.folder import remove_results
from app.runner.hardware import Platform, detect
from app.runner.suites import Suite
from app.schemas.runner import BatchLaunched, BatchLaunchRequest, Cancelled, Launched, LaunchRequest
from app.services import launching
from app.services.launching import Job, run_lease
from app.vocabulary import RunStatus

logger = logging.getLogger("testdb.runner")

LOOK = 2.0  # seconds between two looks at a queue that other servers fill, too
RECOVER = 10.0  # seconds between two looks for runs whose server died
AGAIN = 3.0  # seconds before a second look at those that seem to be
RETRY = 1.0  # seconds before a database that did not answer is asked again
PATIENCE = GRACE + 10.0  # seconds that another server gets to end a run


class Runner:
    """Runs what is queued in the database, so many runs at a time. Thread-safe.

    The queue, the status and the results are in the database; this process only holds what it executes. Of
    several servers on one database each run is taken by one, which has a lease on it.
    """

    def __init__(self, database: Database, suite: Suite, results_dir: Path, *, max_parallel: int = 2) -> None:
        self.suite = suite
        self._database = database
        self._results_dir = results_dir
        self._max_parallel = max_parallel
        self._leases = Leases(database)
        self._under_way: dict[str, Execution] = {}
        self._deleted: set[str] = set()
        """Those of them that were deleted meanwhile."""
        self._abandoned: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._dispatcher = threading.Thread(target=self._dispatch, name="runner", daemon=True)
        database.on_delete(self._remove_results)

    def start(self) -> None:
        """Ends the runs of a server that died, then takes up the queue."""
        self._recover()
        self._dispatcher.start()

    def close(self) -> None:
        """Ends what is under way, as errors; what is queued stays so."""
        self._closing.set()
        self._wake.set()
        if self._dispatcher.ident is not None:
            self._dispatcher.join()
        with self._lock:
            executions = list(self._under_way.values())
        for execution in executions:
            execution.stop(SERVER_STOPPED)
        for execution in executions:
            execution.done.wait()
        self._leases.close()

    @staticmethod
    def hardware() -> list[Platform]:
        """The platforms, as they are here and now."""
        return detect()

    def submit(self, request: LaunchRequest) -> Launched:
        """Queues a run; raises Invalid, which lists what exists, for one that cannot be run here."""
        self._check(request, {"model_name": request.model_name})
        launched = self._database.write(launching.launch, request)
        self._wake.set()
        return launched

    def submit_batch(self, request: BatchLaunchRequest) -> BatchLaunched:
        """Queues a run for each model; raises Invalid when one cannot be run here, and queues nothing."""
        self._check(request, {f"models[{place}]": model for place, model in enumerate(request.models)})
        launched = self._database.write(launching.launch_batch, request)
        self._wake.set()
        return launched

    def cancel(self, run_id: str) -> Cancelled:
        """Ends a run that is queued or under way; all its processes are gone when it says so.

        Raises NotFound. A run that has ended, or that is recorded from elsewhere, is not cancelled.
        """
        with self._lock:
            execution = self._under_way.get(run_id)
        if execution is not None:
            execution.stop(launching.CANCELLED)
            execution.done.wait()
            return Cancelled(run_id=run_id, cancelled=execution.status == RunStatus.CANCELLED)
        cancelled, elsewhere = self._database.write(launching.cancel, run_id)
        return Cancelled(run_id=run_id, cancelled=cancelled and (not elsewhere or self._is_over(run_id)))

    def execute(self, run_id: str) -> None:
        """Runs a queued run now, in this thread; for a process that serves nobody else."""
        job = next((job for job in self._database.read(launching.queued) if job.run_id == run_id), None)
        if job is not None and (execution := self._take(job)) is not None:
            self._run(execution)

    def _check(self, request: LaunchRequest | BatchLaunchRequest, models: dict[str, str]) -> None:
        wrong = []
        known = ", ".join(model.name for model in self.suite.models)
        for field, model in models.items():
            if self.suite.model(model) is None:
                wrong.append(FieldError(field, f"there is no model {model!r}; there are: {known}"))
        if self.suite.type(request.test_type) is None:
            types = ", ".join(item.id for item in self.suite.types)
            wrong.append(
                FieldError("test_type", f"there is no test type {request.test_type!r}; there are: {types}")
            )
        wrong += _unavailable(request.hardware)
        if wrong:
            raise Invalid(wrong)

    def _is_over(self, run_id: str) -> bool:
        """Whether the server that runs it has given it up, which it does when all processes are gone."""
        if self._given_up(run_id):  # its server died before it could notice, so the supervisor ends them
            time.sleep(GRACE + LOOK)
            return True
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self._given_up(run_id):
                return True
            time.sleep(0.1)
        return False

    def _given_up(self, run_id: str) -> bool:
        if free := self._leases.take(run_lease(run_id)):
            self._leases.release(run_lease(run_id))
        return free

    def _dispatch(self) -> None:
        recovered = time.monotonic()
        while not self._closing.is_set():
            pause = LOOK if self._database.shared else None
            if self._abandoned:
                pause = RETRY
            self._wake.clear()
            try:
                self._start_queued()
                wait = AGAIN if self._abandoned else RECOVER
                if self._database.shared and time.monotonic() - recovered > wait:
                    recovered = time.monotonic()
                    self._recover()
            except Unavailable as error:
                logger.warning("the queue cannot be read: %s", error.detail)
                pause = RETRY
            except Exception:
                logger.exception("the queue could not be worked on")
                pause = RETRY
            self._wake.wait(pause)

    def _start_queued(self) -> None:
        for job in self._database.read(launching.queued):
            with self._lock:
                free = self._max_parallel - len(self._under_way)
            if free <= 0 or self._closing.is_set():
                return
            if problem := self._problem(job):
                if not self._database.shared:  # else another server may be able to
                    self._database.write(launching.refuse, job.run_id, problem)
            elif (execution := self._take(job)) is not None:
                threading.Thread(target=self._run, args=[execution], name=f"run {job.run_id}").start()

    def _problem(self, job: Job) -> str | None:
        """Why a queued run cannot be executed here, such as after a start with another suite."""
        if self.suite.model(job.model_name) is None:
            return f"The suite has no model {job.model_name!r}."
        if self.suite.type(job.test_type) is None:
            return f"The suite has no test type {job.test_type!r}."
        missing = _unavailable(job.hardware)
        return f"{missing[0].message}." if missing else None

    def _take(self, job: Job) -> Execution | None:
        """The execution of a run that nobody else has taken, its clock started."""
        if not self._leases.take(run_lease(job.run_id)):
            return None
        execution = Execution(self._database, self.suite, self._results_dir, job, keep=self._leases.keep)
        with self._lock:  # before it is claimed: whoever sees it running can cancel it
            self._under_way[job.run_id] = execution
        try:
            if self._database.write(launching.claim, job.run_id):
                return execution
        except NotFound:
            pass
        except BaseException:
            self._forget(execution)
            raise
        self._forget(execution)
        return None

    def _run(self, execution: Execution) -> None:
        try:
            execution.run()
        finally:
            self._forget(execution)

    def _forget(self, execution: Execution) -> None:
        run_id = execution.job.run_id
        with self._lock:
            del self._under_way[run_id]
            deleted = run_id in self._deleted
            self._deleted.discard(run_id)
        self._leases.release(run_lease(run_id))
        if deleted:
            remove_results(self._results_dir, self._leases, [run_id])
        execution.done.set()
        self._wake.set()

    def _remove_results(self, run_ids: Set[str]) -> None:
        """What deleted runs left on disk goes, too; of those under way here when they have ended."""
        with self._lock:
            own = run_ids & self._under_way.keys()
            self._deleted |= own
        remove_results(self._results_dir, self._leases, run_ids - own)

    def _recover(self) -> None:
        """Ends the runs that nobody has a lease on.

        Where others may have it they must be found so twice: a server whose connection was cut takes its
        leases again at once.
        """
        before, self._abandoned = self._abandoned, set()
        for job in self._database.read(launching.under_way):
            if not self._leases.take(run_lease(job.run_id)):
                continue
            try:
                if self._database.shared and job.run_id not in before:
                    self._abandoned.add(job.run_id)
                elif self._is_running(job.run_id):
                    recover(self._database, self._results_dir, job)
            except NotFound:
                continue
            finally:
                self._leases.release(run_lease(job.run_id))

    def _is_running(self, run_id: str) -> bool:
        return self._database.read(launching.statuses, [run_id]).get(run_id) == RunStatus.RUNNING


def _unavailable(hardware: list[str]) -> list[FieldError]:
    platforms = {platform.name: platform for platform in detect()}
    available = ", ".join(name for name, platform in platforms.items() if platform.available)
    wrong = []
    for name in hardware:
        if name not in platforms:
            known = ", ".join(platforms)
            wrong.append(FieldError("hardware", f"there is no platform {name!r}; known are: {known}"))
        elif not platforms[name].available:
            why = f"{name} is not available here ({platforms[name].description})"
            wrong.append(FieldError("hardware", f"{why}; available: {available}"))
    return wrong
