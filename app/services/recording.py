"""Recording a test session from its events: as it happens, or afterwards from its spool file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.bulk import insert_many, upsert_many
from app.errors import Conflict, Invalid
from app.models import TestRun, TestRunMetric, TestRunResult, TestRunStep, new_metric_ids
from app.schemas.common import MAX_ITEMS
from app.schemas.documents import RESERVED, ArtifactDocument, RunDocument
from app.schemas.events import (
    ArtifactEvent,
    Event,
    FinishedEvent,
    MetricEvent,
    SessionEvent,
    StartedEvent,
    TestEvent,
    parse_event,
)
from app.schemas.runs import Appended
from app.services.documents import metric_rows, result_row, store_runs
from app.services.parts import metric_summaries
from app.services.runs import require_run
from app.services.tracking import already_ended, duration_point, finish, store_artifacts
from app.vocabulary import EARLIER_ATTEMPT, LAST_STEP, OUTCOMES, SERVER, TEST_ENDS, RunStatus, StepStatus


def record_stream(session: Session, run_id: str, stream: BinaryIO) -> Appended:
    """Stores a part of a session's stream, one event a line; see `record_part`. Raises Invalid, too."""
    stream.seek(0)
    lines = [line for line in islice(stream, MAX_ITEMS + 1) if line.strip()]
    if not 0 < len(lines) <= MAX_ITEMS:
        raise Invalid.of("body", f"must hold 1 to {MAX_ITEMS} events, one a line")
    events = [parse_event(line, f"[{index}]") for index, line in enumerate(lines)]
    return record_part(session, run_id, events)


def record_part(session: Session, run_id: str, events: Sequence[Event]) -> Appended:
    """Stores a part of a session's stream; the first part makes the run, the last ends it.

    Raises NotFound for an unknown run, Conflict when a session begins twice or the run has ended.
    """
    if events and isinstance(first := events[0], SessionEvent):
        if first.run_id != run_id:
            raise Invalid.of("[0].run_id", f"is {first.run_id!r}, but the address says {run_id!r}")
        if first.creator == SERVER:
            raise Invalid.of("[0].creator", RESERVED)
        if session.get(TestRun, run_id) is not None:
            raise Conflict(f"A run {run_id!r} exists already; a session cannot begin twice.")
        begin_session(session, first)
    record_events(session, run_id, events)
    if events and isinstance(last := events[-1], FinishedEvent):
        end_session(session, run_id, last.status, last.error, at=last.time)
    return Appended(run_id=run_id, stored=len(events))


def begin_session(session: Session, event: SessionEvent) -> None:
    """Stores the run of a session as running; a run that exists is replaced."""
    # Not validated again: of a spool, which is stored whole, the creator may be anything.
    document = RunDocument.model_construct(
        run_id=event.run_id,
        model_name=event.model_name,
        hardware=event.hardware,
        test_type=event.test_type,
        creator=event.creator,
        batch_id=event.batch_id,
        tags=dict(event.tags),
        status=RunStatus.RUNNING,
        started_at=event.time,
    )
    store_runs(session, [document])


def record_events(session: Session, run_id: str, events: Sequence[Event]) -> None:
    """Stores steps, metrics and artifacts, and how far the run is. Raises NotFound and Conflict."""
    run = require_run(session, run_id, for_update=True)
    last = events[-1] if events else None
    if already_ended(run, last.status if isinstance(last, FinishedEvent) else None):
        return
    steps: dict[str, dict[str, Any]] = {}
    metrics: list[dict[str, Any]] = []
    artifacts: list[ArtifactDocument] = []
    run.status = RunStatus.RUNNING
    for event in events:
        if isinstance(event, StartedEvent):
            steps[event.test] = _live_step(run_id, event)
            run.current_step = event.test
        elif isinstance(event, TestEvent):
            steps[event.test] = _ended_step(run_id, event)
            if event.progress is not None:
                run.progress = event.progress
        elif isinstance(event, MetricEvent):
            metrics.append(_metric(run_id, event))
        elif isinstance(event, ArtifactEvent):
            artifacts.append(_artifact(event))
    session.flush()
    upsert_many(session, TestRunStep, list(steps.values()))
    for id_, metric in zip(new_metric_ids(len(metrics)), metrics, strict=True):
        metric["id"] = id_
    insert_many(session, TestRunMetric, metrics)
    if artifacts:
        store_artifacts(session, run_id, artifacts)


def end_session(
    session: Session,
    run_id: str,
    status: RunStatus,
    error: str | None,
    *,
    at: datetime | None = None,
) -> None:
    """Ends the run with the results that its tests amount to; ended just so already, it stays as it is.

    A completed run with an error stopped early, and its progress says where. Raises NotFound and Conflict.
    """
    run = require_run(session, run_id, for_update=True)
    if already_ended(run, status):
        return
    if error is not None:
        run.error = error
    completed = status == RunStatus.COMPLETED
    finish(
        session,
        run,
        status,
        at=at,
        progress=run.progress if completed and error is not None else None,
        live_steps=StepStatus.CANCELLED if completed else None,  # a test without an end did not pass
    )
    if completed and run.completed_at is not None:
        insert_many(session, TestRunMetric, metric_rows(run_id, [duration_point(run)], run.completed_at))
    upsert_many(session, TestRunResult, [result_row(run_id, session_results(session, run_id))])
    session.flush()


def session_results(session: Session, run_id: str) -> dict[str, Any]:
    """The result object of a recorded session, from its steps and metrics."""
    columns = TestRunStep.__table__.c
    rows = session.execute(
        select(columns.step_name, columns.status, columns.duration, columns.error)
        .where(
            columns.run_id == run_id,
            columns.status.in_(TEST_ENDS),
            columns.step_name.not_in(list(LAST_STEP.values())),
        )
        .order_by(columns.started_at, columns.step_name)
    ).all()
    earlier = Counter(found[1] for row in rows if (found := EARLIER_ATTEMPT.fullmatch(row.step_name)))
    details = []
    for row in rows:
        if EARLIER_ATTEMPT.fullmatch(row.step_name):
            continue
        detail = {
            "method": row.step_name,
            "status": row.status,
            "duration_ms": None if row.duration is None else _storable(round(row.duration * 1000, 6)),
            "error": row.error,
        }
        if row.step_name in earlier:
            detail["attempts"] = earlier[row.step_name] + 1
        details.append(detail)
    counts = Counter(OUTCOMES[detail["status"]] for detail in details)
    return {
        **{f"tests_{outcome}": counts[outcome] for outcome in ("passed", "failed", "skipped")},
        "test_details": details,
        "metrics": {
            name: {"value": _storable(metric.value), "unit": metric.unit}
            for name, metric in metric_summaries(session, [run_id])[run_id].items()
        },
    }


def _storable(value: float) -> float | str:
    """The number, or its text where JSON has none."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _live_step(run_id: str, event: StartedEvent) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "step_name": event.test,
        "status": StepStatus.RUNNING,
        "progress": 0.0,
        "started_at": event.time,
        "completed_at": None,
        "duration": None,
        "error": None,
    }


def _ended_step(run_id: str, event: TestEvent) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "step_name": event.test,
        "status": event.status,
        "progress": 1.0,
        "started_at": event.started,
        "completed_at": event.time,
        "duration": event.duration,
        "error": event.error,
    }


def _metric(run_id: str, event: MetricEvent) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "metric_name": event.name,
        "metric_value": event.value,
        "metric_unit": event.unit,
        "timestamp": event.time,
    }


def _artifact(event: ArtifactEvent) -> ArtifactDocument:
    return ArtifactDocument(
        artifact_path=event.path,
        artifact_type=event.type,
        description=event.description,
        created_at=event.time,
    )
