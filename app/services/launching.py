"""Runs that servers run themselves: queued, claimed, told about, ended. The queue is in the database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.types import utcnow
from app.models import BatchTestRun, TestRun, TestRunMetric, is_new_id, new_id
from app.schemas.documents import ArtifactDocument, RunDocument
from app.schemas.events import Event
from app.schemas.runner import BatchLaunched, BatchLaunchRequest, Launched, LaunchRequest, LiveResults
from app.services.batches import runs_ended
from app.services.documents import chunks, store_runs
from app.services.live import live_results
from app.services.recording import end_session, record_events
from app.services.runs import require_run
from app.services.spool import PORTION
from app.services.tracking import set_result_file, store_artifacts
from app.vocabulary import SERVER, TERMINAL, RunStatus

CANCELLED = "cancelled on request"
QUEUED = "Queued"
STARTING = "Starting"


def run_lease(run_id: str) -> str:
    """The name of the lease of who executes a run."""
    return f"run:{run_id}"


@dataclass(frozen=True)
class Job:
    """A run to execute."""

    run_id: str
    model_name: str
    hardware: list[str]
    test_type: str
    timeout: float | None
    save_results: bool


def launch(session: Session, request: LaunchRequest) -> Launched:
    """Queues a run."""
    run_id, now = new_id(), utcnow()
    store_runs(session, [_document(run_id, request.model_name, request, request.batch_id, now)])
    return Launched(
        run_id=run_id,
        status=RunStatus.INITIALIZING,
        message=f"The run is queued; ask /api/test/status/{run_id} how far it is.",
        started_at=now,
    )


def launch_batch(session: Session, request: BatchLaunchRequest) -> BatchLaunched:
    """Makes a batch and queues a run for each model, in their order."""
    batch_id, now = new_id(), utcnow()
    models = list(dict.fromkeys(request.models))
    session.add(
        BatchTestRun(batch_id=batch_id, description=request.description, started_at=now, creator=SERVER)
    )
    session.flush()
    documents = [
        # A microsecond apart: those that wait are started in the order of their starts.
        _document(new_id(), model, request, batch_id, now + timedelta(microseconds=place))
        for place, model in enumerate(models)
    ]
    store_runs(session, documents)
    return BatchLaunched(batch_id=batch_id, run_ids=[str(document.run_id) for document in documents])


def _document(
    run_id: str,
    model_name: str,
    request: LaunchRequest | BatchLaunchRequest,
    batch_id: str | None,
    now: datetime,
) -> RunDocument:
    # Not validated: clients may not send such a document.
    return RunDocument.model_construct(
        run_id=run_id,
        model_name=model_name,
        hardware=request.hardware,
        test_type=request.test_type,
        timeout=request.timeout,
        save_results=request.save_results,
        status=RunStatus.INITIALIZING,
        current_step=QUEUED,
        started_at=now,
        creator=SERVER,
        tags=dict(request.tags),
        batch_id=batch_id,
    )


def queued(session: Session) -> list[Job]:
    """The runs that wait for a server, those that came first in front."""
    return _jobs(session, RunStatus.INITIALIZING)


def under_way(session: Session) -> list[Job]:
    """The runs that a server runs, or ran when it died."""
    return _jobs(session, RunStatus.RUNNING)


def claim(session: Session, run_id: str) -> bool:
    """Starts the clock of a run that waits; false when it waits no longer. Raises NotFound."""
    run = require_run(session, run_id, for_update=True)
    if run.status != RunStatus.INITIALIZING:
        return False
    run.status, run.current_step, run.started_at = RunStatus.RUNNING, STARTING, utcnow()
    return True


def cancel(session: Session, run_id: str) -> tuple[bool, bool]:
    """Ends a run that waits, or is under way on another server: (ended, by a server that must notice).

    Raises NotFound. A run that has ended, or that no server runs, is left alone.
    """
    run = require_run(session, run_id, for_update=True)
    if run.status in TERMINAL or run.creator != SERVER:
        return False, False
    executed = run.status == RunStatus.RUNNING
    end_session(session, run_id, RunStatus.CANCELLED, CANCELLED)
    runs_ended(session, [run_id])
    return True, executed


def refuse(session: Session, run_id: str, error: str) -> None:
    """Ends a run that waits but cannot be executed. Raises NotFound; Conflict when it has ended otherwise."""
    end_session(session, run_id, RunStatus.ERROR, error)
    runs_ended(session, [run_id])


def replay(session: Session, run_id: str, events: Iterable[Event]) -> None:
    """Stores the whole stream of a run, of which a part may be stored already."""
    session.execute(delete(TestRunMetric).where(TestRunMetric.run_id == run_id))
    for portion in chunks(events, PORTION):
        record_events(session, run_id, portion)


def conclude(
    session: Session,
    run_id: str,
    status: RunStatus,
    error: str | None,
    artifacts: Sequence[ArtifactDocument],
    *,
    at: datetime,
    write: Callable[[LiveResults], Path | None],
) -> RunStatus:
    """Ends a run that was executed, with its results and files, keeps its batches true; returns its status.

    `write` makes the result file, and may be called again. A run that somebody else has ended meanwhile keeps
    its status. Raises NotFound when it was deleted.
    """
    run = require_run(session, run_id, for_update=True)
    if artifacts:
        store_artifacts(session, run_id, artifacts)
    if run.status not in TERMINAL:
        end_session(session, run_id, status, error, at=at)
    if (file := write(live_results(session, run_id))) is not None:
        set_result_file(session, run, str(file))
    session.flush()
    runs_ended(session, [run_id])
    return RunStatus(run.status)


def statuses(session: Session, run_ids: Collection[str]) -> dict[str, str]:
    """The status of each of the runs that exist."""
    rows = session.execute(select(TestRun.run_id, TestRun.status).where(TestRun.run_id.in_(run_ids)))
    return dict(rows.all())


def _jobs(session: Session, status: RunStatus) -> list[Job]:
    rows = session.execute(
        select(*(getattr(TestRun, field.name) for field in fields(Job)))
        .where(TestRun.status == status, TestRun.creator == SERVER)
        .order_by(TestRun.started_at, TestRun.run_id)
    )
    # An id becomes the name of a folder: none that a script wrote into the table leads to another.
    return [Job(**row._mapping) for row in rows if is_new_id(row.run_id)]
