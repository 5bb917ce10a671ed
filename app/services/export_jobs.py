"""Exports in the background: a thread writes the file, its state can be asked for."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.db import Database, utcnow
from app.errors import AppError, Conflict, Invalid, NotFound, Unavailable
from app.schemas.transfer import ExportRequest, ExportStarted, ExportState
from app.services.export import Progress, write_export
from app.services.files import atomic_file

logger = logging.getLogger("testdb")

KEPT = 1000
"""States remembered; the oldest ended one makes room."""


class ExportJobs:
    """The exports of one server into one directory. Thread-safe; states end with the process."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self._directory = directory
        self._states: dict[str, ExportState] = {}
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export")
        self._stopping = threading.Event()

    def start(self, request: ExportRequest) -> ExportStarted:
        """Begins an export. Raises Invalid for a name that leads elsewhere, Conflict for a taken one."""
        export_id, now = str(uuid.uuid4()), utcnow()
        filename = request.filename or f"test-runs-{now:%Y%m%dT%H%M%S}-{export_id[:8]}.json"
        with self._lock:
            target = self._target(filename, overwrite=request.overwrite)
            state = ExportState(
                export_id=export_id,
                status="started",
                filename=filename,
                runs=0,
                batches=0,
                bytes=0,
                error=None,
            )
            self._forget_the_oldest()
            self._states[export_id] = state
        self._workers.submit(self._run, state, target, request)
        return ExportStarted(
            export_id=export_id,
            status="started",
            message=f"Exporting to {filename}; ask /api/test/db/exports/{export_id} how far it is.",
            filename=filename,
            timestamp=now,
        )

    def state(self, export_id: str) -> ExportState:
        """How far an export is; raises NotFound."""
        with self._lock:
            if export_id not in self._states:
                raise NotFound(f"There is no export {export_id!r} since this server started.")
            return self._states[export_id].model_copy()

    def file(self, export_id: str) -> Path:
        """The finished file; raises NotFound, and Conflict while it is not finished."""
        state = self.state(export_id)
        if state.status != "completed":
            raise Conflict(
                f"Export {export_id!r} is {state.status}: {state.error or 'ask again when it is completed'}."
            )
        path = self._directory / state.filename
        if path.is_symlink() or not path.is_file():
            raise NotFound(f"The file {state.filename!r} of the export is gone.")
        return path

    def close(self) -> None:
        """Stops exports under way, which end as errors, and waits for them."""
        self._stopping.set()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def _target(self, filename: str, *, overwrite: bool) -> Path:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"The export directory cannot be made: {error.strerror}.") from error
        target = self._directory / filename
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise Invalid.of("filename", "names a link or folder; choose another name")
        if target.exists() and not overwrite:
            raise Conflict(
                f"The file {filename!r} exists already; choose another name, or send overwrite: true."
            )
        if any(state.filename == filename and state.status == "started" for state in self._states.values()):
            raise Conflict(f"Another export is writing {filename!r}; wait for it, or choose another name.")
        return target

    def _run(self, state: ExportState, target: Path, request: ExportRequest) -> None:
        def report(progress: Progress) -> None:
            if self._stopping.is_set():
                raise Unavailable("The server was stopped before the export was finished.")
            state.runs, state.batches, state.bytes = progress.runs, progress.batches, progress.bytes

        try:
            with atomic_file(target, overwrite=request.overwrite) as stream:
                self._database.read(
                    write_export,
                    stream,
                    include_runs=request.include_runs,
                    include_metrics=request.include_metrics,
                    include_batches=request.include_batches,
                    report=report,
                )
        except Exception as error:
            state.error = _reason(error)
            state.status = "error"
            if not isinstance(error, AppError):
                logger.exception("export %s failed", state.export_id)
        else:
            state.status = "completed"

    def _forget_the_oldest(self) -> None:
        if len(self._states) >= KEPT:
            ended = (key for key, state in self._states.items() if state.status != "started")
            with contextlib.suppress(StopIteration):
                del self._states[next(ended)]


def _reason(error: Exception) -> str:
    """What a client may know: neither a statement nor a path of the server."""
    if isinstance(error, AppError):
        return error.detail
    if isinstance(error, OSError) and error.strerror:
        return f"The file cannot be written: {error.strerror}."
    return f"This is a fault of the server ({type(error).__name__}); its log says more."
