"""Live updates of runs: status, ends, steps, metrics, artifacts, tags, results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import case, delete, func, or_, select
from sqlalchemy.orm import Session

from app.db.bulk import Columns, among, insert_columns, insert_many, upsert_many
from app.db.types import utcnow
from app.errors import Conflict
from app.models import (
    TestRun,
    TestRunArtifact,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
    new_metric_ids,
)
from app.schemas.documents import (
    ArtifactDocument,
    Completion,
    Ending,
    MetricDocument,
    RunPatch,
    StepDocument,
)
from app.schemas.points import Points
from app.schemas.runs import Appended, RunDetail
from app.services.documents import metric_rows, result_row, seconds_between, shifted
from app.services.parts import parts_of
from app.services.runs import detail, get_run, lock_run, require_run
from app.services.units import unit_of
from app.vocabulary import LAST_STEP, TERMINAL, RunStatus, StepStatus


def update_run(session: Session, run_id: str, patch: RunPatch) -> RunDetail:
    """Stores an update and records its step. Raises NotFound; Conflict when the run has ended otherwise."""
    run = require_run(session, run_id, for_update=True)
    if already_ended(run, patch.status):
        return _answer(session, run)
    if patch.error is not None:
        run.error = patch.error
    if patch.progress is not None:
        run.progress = patch.progress
    if patch.status in TERMINAL:
        status = RunStatus(patch.status)
        finish(session, run, status, step_name=patch.current_step, progress=patch.progress)
        return _answer(session, run)
    if patch.status is not None:
        run.status = patch.status
    if patch.current_step is not None:
        run.current_step = patch.current_step
    if run.current_step:
        step = StepDocument(step_name=run.current_step, status=StepStatus.RUNNING, progress=run.progress)
        ending = StepStatus.COMPLETED if patch.current_step is not None else None
        _store_steps(session, run_id, [step], ending=ending)
    return _answer(session, run)


def complete_run(session: Session, run_id: str, completion: Completion) -> RunDetail:
    """Ends a run well, with its results, metrics and result file; sent twice it changes nothing.

    Raises NotFound; Conflict when the run has ended otherwise.
    """
    run = require_run(session, run_id, for_update=True)
    if already_ended(run, RunStatus.COMPLETED):
        return _answer(session, run)
    finish(session, run, RunStatus.COMPLETED)
    if completion.results is not None:
        upsert_many(session, TestRunResult, [result_row(run_id, completion.results)])
    metrics = [
        _point(f"{hardware}.{name}", value, unit_of(name))
        for hardware, values in (completion.performance_metrics or {}).items()
        for name, value in values.items()
    ]
    metrics.append(duration_point(run))
    insert_many(session, TestRunMetric, metric_rows(run_id, metrics, run.completed_at or utcnow()))
    if completion.result_file is not None:
        set_result_file(session, run, completion.result_file)
    return _answer(session, run)


def set_result_file(session: Session, run: TestRun, path: str) -> None:
    """Names the run's result file, which is one of its artifacts."""
    run.result_file = path
    artifact = ArtifactDocument(
        artifact_path=path, artifact_type="result", description="Result file of the run"
    )
    store_artifacts(session, run.run_id, [artifact])


def duration_point(run: TestRun) -> MetricDocument:
    """The metric that every completed run has: its duration in seconds."""
    return _point("duration", run.duration or 0.0, "s")


def _point(name: str, value: float, unit: str) -> MetricDocument:
    # Not validated again: a value that is not finite came as a string and is a float now.
    return MetricDocument.model_construct(metric_name=name, value=value, unit=unit, timestamp=None)


def end_run(session: Session, run_id: str, status: RunStatus, ending: Ending | None) -> RunDetail:
    """Ends a run without completing it; sent twice it changes nothing. Raises NotFound and Conflict."""
    run = require_run(session, run_id, for_update=True)
    if already_ended(run, status):
        return _answer(session, run)
    if ending is not None and ending.error is not None:
        run.error = ending.error
    finish(session, run, status)
    return _answer(session, run)


def add_steps(session: Session, run_id: str, steps: Sequence[StepDocument]) -> Appended:
    """Appends steps, or updates the fields given of those that exist. Raises NotFound."""
    lock_run(session, run_id)
    _store_steps(session, run_id, steps)
    return Appended(run_id=run_id, stored=len(steps))


def add_metrics(session: Session, run_id: str, points: Points) -> Appended:
    """Appends points to the series; those without a time were measured now. Raises NotFound."""
    lock_run(session, run_id)
    count, now = len(points.names), utcnow()
    columns = {
        "id": new_metric_ids(count),
        "metric_name": points.names,
        "metric_value": points.values,
        "metric_unit": [unit or "" for unit in points.units],
        "timestamp": [now if time is None else time for time in points.timestamps],
    }
    insert_columns(session, TestRunMetric, Columns(columns, same={"run_id": run_id}))
    return Appended(run_id=run_id, stored=count)


def add_artifacts(session: Session, run_id: str, artifacts: Sequence[ArtifactDocument]) -> Appended:
    """Records artifacts; one whose path is known is replaced and keeps its time. Raises NotFound."""
    lock_run(session, run_id)
    store_artifacts(session, run_id, artifacts)
    return Appended(run_id=run_id, stored=len(artifacts))


def set_tags(session: Session, run_id: str, tags: dict[str, str | None]) -> RunDetail:
    """Merges tags into those the run has; None removes one. Raises NotFound."""
    lock_run(session, run_id)
    removed = [name for name, value in tags.items() if value is None]
    if removed:
        session.execute(
            delete(TestRunTag).where(TestRunTag.run_id == run_id, among(TestRunTag.tag_name, removed))
        )
    rows = [
        {"run_id": run_id, "tag_name": name, "tag_value": value}
        for name, value in tags.items()
        if value is not None
    ]
    upsert_many(session, TestRunTag, rows)
    return get_run(session, run_id)


def set_results(session: Session, run_id: str, results: dict[str, object]) -> RunDetail:
    """Replaces the result object. Raises NotFound."""
    lock_run(session, run_id)
    upsert_many(session, TestRunResult, [result_row(run_id, results)])
    return get_run(session, run_id)


def _answer(session: Session, run: TestRun) -> RunDetail:
    session.flush()
    return detail(run, parts_of(session, [run.run_id])[run.run_id])


def _store_steps(
    session: Session,
    run_id: str,
    steps: Sequence[StepDocument],
    *,
    at: datetime | None = None,
    ending: StepStatus | None = None,
) -> datetime:
    """Stores steps that were reported at that time (else now), and returns the time they were given.

    A new one starts then, or after the one before it; where another machine's clock is ahead, just after the
    newest start: a new step comes last. With `ending`, every other step that is running ends so.
    """
    names = list(dict.fromkeys(step.step_name for step in steps))
    of_run = TestRunStep.run_id == run_id
    named = among(TestRunStep.step_name, names)
    # As a condition of the statement, the names would keep DuckDB from using the index on the run.
    newest = session.scalar(select(func.max(case((~named, TestRunStep.started_at)))).where(of_run))
    now = at or utcnow()
    if newest is not None:
        now = max(now, shifted(newest, 1e-6) or now)
    concerned = named if ending is None else or_(named, TestRunStep.status == StepStatus.RUNNING)
    rows = {
        row.step_name: dict(row._mapping)
        for row in session.execute(select(*TestRunStep.__table__.c).where(of_run, concerned))
    }
    known = set(rows)
    for name in known - set(names):
        rows[name] |= {
            "status": ending,
            "completed_at": now,
            "duration": seconds_between(rows[name]["started_at"], now),
        }
    time = now
    for step in steps:
        row = rows[step.step_name] = _merged(rows.get(step.step_name), run_id, step, time)
        # A microsecond apart: the order of steps is the order of their starts.
        time = max(time, shifted(row["started_at"], 1e-6) or time)
    upsert_many(session, TestRunStep, [row for name, row in rows.items() if name in known])
    insert_many(session, TestRunStep, [row for name, row in rows.items() if name not in known])
    return now


def store_artifacts(session: Session, run_id: str, artifacts: Sequence[ArtifactDocument]) -> None:
    """Records artifacts of a run that is there; one whose path is known keeps its time."""
    paths = list({artifact.artifact_path for artifact in artifacts})
    stored = session.execute(
        select(TestRunArtifact.artifact_path, TestRunArtifact.created_at).where(
            TestRunArtifact.run_id == run_id, among(TestRunArtifact.artifact_path, paths)
        )
    )
    known = {row.artifact_path: row.created_at for row in stored}
    now = utcnow()
    rows = {
        artifact.artifact_path: {
            "run_id": run_id,
            "artifact_path": artifact.artifact_path,
            "artifact_type": artifact.artifact_type,
            "description": artifact.description,
            "created_at": artifact.created_at or known.get(artifact.artifact_path, now),
        }
        for artifact in artifacts
    }
    upsert_many(session, TestRunArtifact, list(rows.values()))


def already_ended(run: TestRun, status: RunStatus | None) -> bool:
    """Whether the run has ended just so, and a repeated request has nothing to do. Raises Conflict."""
    if run.status not in TERMINAL:
        return False
    if status == run.status:
        return True
    wish = f"cannot become {status}" if status else "takes no more updates"
    raise Conflict(f"Run {run.run_id!r} has ended as {run.status} and {wish}.")


def finish(
    session: Session,
    run: TestRun,
    status: RunStatus,
    *,
    step_name: str | None = None,
    at: datetime | None = None,
    progress: float | None = None,
    live_steps: StepStatus | None = None,
) -> None:
    """Ends a run (at that time, else now) with its last step, and the steps that were live with it.

    These end as the run does unless `live_steps` says how. Without `progress` a completed run is done, and
    any other is where it was.
    """
    if progress is None:
        progress = 1.0 if status == RunStatus.COMPLETED else run.progress
    last = StepDocument(
        step_name=step_name or LAST_STEP[status],
        status=StepStatus(status),
        progress=progress,
        error=run.error if status != RunStatus.COMPLETED else None,
    )
    now = _store_steps(session, run.run_id, [last], at=at, ending=live_steps or StepStatus(status))
    run.status = status
    run.current_step = last.step_name
    run.completed_at = now
    run.duration = seconds_between(run.started_at, now)
    run.progress = progress
    session.flush()


def _merged(row: dict[str, Any] | None, run_id: str, step: StepDocument, now: datetime) -> dict[str, Any]:
    """The row of a step after this report of it."""
    given = {name: value for name in StepDocument.model_fields if (value := getattr(step, name)) is not None}
    merged: dict[str, Any] = {
        "run_id": run_id,
        "step_name": step.step_name,
        "status": StepStatus.PENDING,
        "progress": 0.0,
        "started_at": now,
        "completed_at": None,
        "duration": None,
        "error": None,
        **(row or {}),
        **given,
    }
    if merged["status"] in (StepStatus.PENDING, StepStatus.RUNNING):  # one that runs again has not ended
        return merged | {name: given.get(name) for name in ("completed_at", "duration")}
    started_at, completed_at = merged["started_at"], merged["completed_at"]
    if completed_at is None:
        ended = shifted(started_at, step.duration) if step.duration is not None else max(started_at, now)
        merged["completed_at"] = completed_at = ended
    if merged["duration"] is None and completed_at is not None:
        merged["duration"] = seconds_between(started_at, completed_at)
    if step.progress is None:
        merged["progress"] = 1.0
    return merged
