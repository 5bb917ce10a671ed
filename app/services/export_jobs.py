"""Exports in the background: a thread writes the file, its state can be asked for."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.db import Database, utcnow
from app.db.engine import embedded_file
from app.db.leases import Leases
from app.errors import AppError, Conflict, Invalid, NotFound, Unavailable
from app.schemas.transfer import ExportRequest, ExportStarted, ExportState
from app.services.export import Progress, write_export
from app.services.files import atomic_file, is_beside

logger = logging.getLogger("testdb")

STATES = ".exports"
"""Folder inside the export directory: the state of each export, and files that are not complete yet."""
KEPT = 1000
"""States remembered; the oldest ended one makes room."""
TELL = 0.5
"""Seconds between two notes of how far an export is."""
LOST = "The server that wrote it stopped; export again."


class ExportJobs:
    """The exports into one directory, whichever of the servers that share it writes them. Thread-safe.

    Their states are files in it. Who writes an export has a lease on it and on its name: one that is not
    ended and that nobody has was left by a server that died. Neither the database nor `private` files are
    replaced, should they lie in the directory.
    """

    def __init__(self, database: Database, directory: Path, *, private: Collection[Path] = ()) -> None:
        self._database = database
        file = embedded_file(database.engine.url)
        self._private = [path.resolve() for path in (file, *private) if path is not None]
        self._directory = directory
        self._states = directory / STATES
        self._leases = Leases(database)
        self._workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export")
        self._stopping = threading.Event()

    def start(self, request: ExportRequest) -> ExportStarted:
        """Begins an export. Raises Invalid for a name that leads elsewhere, Conflict for a taken one."""
        export_id, now = str(uuid.uuid4()), utcnow()
        filename = request.filename or f"test-runs-{now:%Y%m%dT%H%M%S}-{export_id[:8]}.json"
        state = ExportState(
            export_id=export_id,
            status="started",
            filename=filename,
            runs=0,
            batches=0,
            bytes=0,
            error=None,
        )
        try:
            self._states.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"The export directory cannot be made: {error.strerror}.") from error
        self._tidy()
        if not self._leases.take(_name_lease(filename)):
            raise Conflict(f"Another export is writing {filename!r}; wait for it, or choose another name.")
        try:
            target = self._target(filename, overwrite=request.overwrite)
            self._leases.take(_lease(export_id))
            self._store(state)
            self._workers.submit(self._run, state, target, request)
        except BaseException:
            self._leases.release(_name_lease(filename))
            self._leases.release(_lease(export_id))
            raise
        return ExportStarted(
            export_id=export_id,
            status="started",
            message=f"Exporting to {filename}; ask /api/test/db/exports/{export_id} how far it is.",
            filename=filename,
            timestamp=now,
        )

    def state(self, export_id: str) -> ExportState:
        """How far an export is; raises NotFound."""
        state = self._stored(export_id)
        if state.status == "started" and self._leases.take(_lease(state.export_id)):
            try:
                state = self._stored(export_id)  # it may have ended just now
                if state.status == "started":
                    state.status, state.error = "error", LOST
                    self._file(state.export_id, "part").unlink(missing_ok=True)
                    self._store(state)
            finally:
                self._leases.release(_lease(state.export_id))
        return state

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
        """Stops exports under way and those that wait, which end as errors, and waits for them."""
        self._stopping.set()
        self._workers.shutdown(wait=True)
        self._leases.close()

    def _target(self, filename: str, *, overwrite: bool) -> Path:
        target = self._directory / filename
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise Invalid.of("filename", "names a link or folder; choose another name")
        if any(is_beside(target, file) for file in self._private):
            raise Invalid.of("filename", "names a file of the server's own; choose another name")
        if target.exists() and not overwrite:
            raise Conflict(
                f"The file {filename!r} exists already; choose another name, or send overwrite: true."
            )
        return target

    def _run(self, state: ExportState, target: Path, request: ExportRequest) -> None:
        told = time.monotonic()

        def report(progress: Progress) -> None:
            nonlocal told
            if self._stopping.is_set():
                raise Unavailable("The server was stopped before the export was finished.")
            state.runs, state.batches, state.bytes = progress.runs, progress.batches, progress.bytes
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                self._leases.keep()
                self._store(state)

        try:
            report(Progress())
            part = self._file(state.export_id, "part")
            with atomic_file(target, overwrite=request.overwrite, part=part) as stream:
                self._database.read(
                    write_export,
                    stream,
                    include_runs=request.include_runs,
                    include_metrics=request.include_metrics,
                    include_batches=request.include_batches,
                    report=report,
                )
        except Exception as error:
            state.status, state.error = "error", _reason(error)
            if isinstance(error, OSError) and error.strerror:
                logger.error("export %s: %s", state.export_id, state.error)
            elif not isinstance(error, AppError):
                logger.exception("export %s failed", state.export_id)
        else:
            state.status = "completed"
        # Whoever reads that it has ended may use the name, but must not take it for left behind.
        self._leases.release(_name_lease(state.filename))
        try:
            self._store(state)
        except Unavailable as error:
            logger.error("export %s: %s", state.export_id, error.detail)
        finally:
            self._leases.release(_lease(state.export_id))

    def _file(self, export_id: str, suffix: str) -> Path:
        """A file of an export in the folder of the states. Raises ValueError for what is no id."""
        return self._states / f"{uuid.UUID(export_id)}.{suffix}"

    def _stored(self, export_id: str) -> ExportState:
        try:
            return ExportState.model_validate_json(self._file(export_id, "json").read_bytes())
        except (ValueError, FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"There is no export {export_id!r}, or it is forgotten.") from error

    def _store(self, state: ExportState) -> None:
        """Raises Unavailable. Only who has the lease may store, so there is one new file at a time."""
        new = self._file(state.export_id, "new")
        try:
            new.write_bytes(state.model_dump_json().encode())
            new.replace(self._file(state.export_id, "json"))
        except OSError as error:
            new.unlink(missing_ok=True)
            raise Unavailable(f"The export directory cannot be written: {error.strerror}.") from error

    def _tidy(self) -> None:
        """Removes what servers that died left behind, and the oldest states."""
        with contextlib.suppress(FileNotFoundError):  # another server is doing the same
            for part in self._states.glob("*.part"):
                with contextlib.suppress(NotFound):
                    self.state(part.stem)
            states = sorted(self._states.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            for path in states[: max(0, len(states) - KEPT + 1)]:
                with contextlib.suppress(NotFound):
                    if self.state(path.stem).status == "started":
                        continue
                path.unlink(missing_ok=True)


def _lease(export_id: str) -> str:
    return f"export:{export_id}"


def _name_lease(filename: str) -> str:
    return f"export file:{filename}"


def _reason(error: Exception) -> str:
    """What a client may know: neither a statement nor a path of the server."""
    if isinstance(error, AppError):
        return error.detail
    if isinstance(error, OSError) and error.strerror:
        return f"The file cannot be written: {error.strerror}."
    return f"This is a fault of the server ({type(error).__name__}); its log says more."
