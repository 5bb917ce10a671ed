"""What a run has on disk: its events while it is under way, its output, result and attached files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.db.leases import Leases
from app.errors import Invalid, Unavailable
from app.models import is_new_id
from app.schemas.documents import ArtifactDocument
from app.schemas.events import Event, FinishedEvent, StartedEvent, TestEvent, parse_event
from app.schemas.runner import LiveResults
from app.services.files import atomic_file
from app.services.launching import Job, run_lease
from app.services.spool import PORTION

logger = logging.getLogger("testdb.runner")


class RunFolder:
    """The folder of a run inside the results directory."""

    def __init__(self, results_dir: Path, job: Job) -> None:
        self.path = results_dir.resolve() / job.run_id
        self.events = self.path / "events.jsonl"
        self.output = self.path / "output.log"
        self.attached = self.path / "artifacts"
        self._job = job

    def make(self) -> None:
        """Raises Unavailable when the results directory cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.events.touch()
        except OSError as error:
            raise Unavailable(f"The results directory cannot be written: {error.strerror}.") from error

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def artifacts(self) -> list[ArtifactDocument]:
        """What the run's processes printed, if anything; files that tests attach are told as events."""
        if not self.output.is_file() or not self.output.stat().st_size:
            return []
        return [
            ArtifactDocument(
                artifact_path=str(self.output), artifact_type="log", description="Output of the run"
            )
        ]

    def write_result(self, results: LiveResults) -> Path | None:
        """Writes the result file, if the run wants one; None when there is none."""
        if not self._job.save_results or not self.path.is_dir():
            return None
        target = self.path / "result.json"
        try:
            with atomic_file(target, overwrite=True) as stream:
                results.result_file = str(target)
                stream.write(results.model_dump_json(indent=2).encode() + b"\n")
        except (OSError, Unavailable) as error:
            logger.error("run %s: its result file was not written: %s", self._job.run_id, error)
            return None
        return target


def remove_results(results_dir: Path, leases: Leases, run_ids: Iterable[str]) -> None:
    """Removes the folders of deleted runs; who still executes one does so at its end.

    Only a server names folders as ids that it makes. A link in the place of a folder stays, and what it
    leads to.
    """
    for run_id in run_ids:
        folder = results_dir.resolve() / run_id
        if not is_new_id(run_id) or folder.is_symlink() or not folder.is_dir():
            continue
        try:
            if leases.take(run_lease(run_id)):
                shutil.rmtree(folder, ignore_errors=True)
                leases.release(run_lease(run_id))
        except Unavailable as error:
            logger.warning("%s stays: %s", folder, error.detail)


class EventStream:
    """The events that a suite appends to a file, in portions; damaged lines are left out."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = 0
        self.running: dict[str, None] = {}
        """The tests that have begun and not ended."""
        self.finished: FinishedEvent | None = None

    def read(self) -> tuple[list[Event], int]:
        """The next events, and the position behind them, to be accepted once they are stored."""
        events: list[Event] = []
        position = self._position
        with self._file.open("rb") as stream:
            stream.seek(position)
            while len(events) < PORTION and (line := stream.readline()).endswith(b"\n"):
                try:
                    events.append(parse_event(line))
                except Invalid as error:
                    logger.warning("%s: %s", self._file, error.detail)
                position += len(line)
        return events, position

    def accept(self, events: list[Event], position: int) -> None:
        self._position = position
        for event in events:
            if isinstance(event, StartedEvent):
                self.running[event.test] = None
            elif isinstance(event, TestEvent):
                self.running.pop(event.test, None)
            elif isinstance(event, FinishedEvent):
                self.finished = event


def all_events(file: Path) -> Iterator[Event]:
    """Every event of a file, read in portions."""
    stream = EventStream(file)
    while True:
        events, position = stream.read()
        if not events:
            return
        yield from events
        stream.accept(events, position)
