"""Whole runs: a RunDocument becomes rows. Creating, replacing, ingesting and importing all come here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.bulk import among, insert_many, lock_each, upsert_many
from app.db.database import note_change
from app.db.types import utcnow
from app.errors import Conflict, Invalid
from app.models import (
    TestRun,
    TestRunArtifact,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
    new_id,
    new_metric_ids,
)
from app.schemas.common import AnswerT, build
from app.schemas.documents import MetricDocument, RunDocument, RunRecord, StepDocument
from app.schemas.plain import PlainMetric, PlainRun, PlainStep
from app.schemas.runs import Artifact, RunDetail, Step, Stored
from app.services.batches import Link, existing_links, link, unlink
from app.services.parts import Parts, Point, counted, summed_up
from app.services.runs import detail, get_run
from app.vocabulary import OUTCOMES, TERMINAL, RunStatus, StepStatus

CHUNK = 1000
"""Documents stored at a time, at most."""
HEAVY = 20_000
"""Rows, and tests, of the documents that are held at a time."""

PARTS = (TestRunResult, TestRunStep, TestRunMetric, TestRunTag, TestRunArtifact)

T = TypeVar("T")
Row = dict[str, Any]
AnyRun = RunDocument | PlainRun


@dataclass
class Known:
    """What is kept of a run that is replaced."""

    created_at: datetime
    status: str


@dataclass
class Rows:
    """The rows of some documents."""

    runs: list[Row] = field(default_factory=list)
    results: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    metrics: list[Row] = field(default_factory=list)
    tags: list[Row] = field(default_factory=list)
    artifacts: list[Row] = field(default_factory=list)


def create_run(session: Session, document: RunDocument) -> RunDetail:
    """Stores a new run; raises Conflict when the id exists."""
    if document.run_id is not None and _known(session, [document.run_id]):
        raise Conflict(f"A run {document.run_id!r} exists already; use PUT to replace it, or another id.")
    return _new_detail(_store_chunk(session, [document], {}), document.batch_id)


def _new_detail(rows: Rows, batch_id: str | None) -> RunDetail:
    """The run that these rows are: a new one has nothing else, so it need not be read again."""
    points = [
        Point(
            row["run_id"],
            row["metric_name"],
            row["timestamp"],
            row["id"],
            row["metric_value"],
            row["metric_unit"],
        )
        for row in rows.metrics
    ]
    parts = Parts(
        results=next(
            (
                counted(row["result_data"], row["tests_passed"], row["tests_failed"], row["tests_skipped"])
                for row in rows.results
            ),
            None,
        ),
        steps=[_picked(Step, row) for row in sorted(rows.steps, key=itemgetter("started_at", "step_name"))],
        metrics={name: summary for _run_id, name, summary in summed_up(points)},
        tags={row["tag_name"]: row["tag_value"] for row in sorted(rows.tags, key=itemgetter("tag_name"))},
        artifacts=[
            _picked(Artifact, row)
            for row in sorted(rows.artifacts, key=itemgetter("created_at", "artifact_path"))
        ],
        batch_ids=[] if batch_id is None else [batch_id],
    )
    return detail(SimpleNamespace(**rows.runs[0]), parts)


def _picked(answer: type[AnswerT], row: Row) -> AnswerT:
    return build(answer, **{name: row[name] for name in answer.model_fields})


def put_run(session: Session, run_id: str, document: RunDocument) -> tuple[RunDetail, bool]:
    """Makes the run this document, and says whether it is new. A terminal run keeps its status (Conflict)."""
    if document.run_id not in (None, run_id):
        raise Invalid.of("run_id", f"is {document.run_id!r}, but the address says {run_id!r}")
    known = _known(session, [run_id])
    before = known.get(run_id)
    if before is not None and before.status in TERMINAL and before.status != document.status:
        raise Conflict(
            f"Run {run_id!r} has ended as {before.status}; its status cannot become {document.status} again."
        )
    rows = _store_chunk(session, [document.model_copy(update={"run_id": run_id})], known)
    if before is None:
        return _new_detail(rows, document.batch_id), True
    session.expire_all()
    return get_run(session, run_id), False


def store_runs(session: Session, documents: Iterable[AnyRun]) -> Stored:
    """Stores documents, replacing runs whose ids exist; the last document of an id wins, and alone counts."""
    sizes: dict[str, tuple[int, ...]] = {}
    for chunk in _portions(documents):
        by_id: dict[str, AnyRun] = {}
        for document in chunk:
            document.run_id = document.run_id or new_id()
            by_id[document.run_id] = document
        # In one order for all: two that store the same runs then never wait for each other in a circle.
        latest = [by_id[run_id] for run_id in sorted(by_id)]
        _store_chunk(session, latest, _known(session, list(by_id)))
        sizes |= {run_id: _size(document) for run_id, document in by_id.items()}
    steps, metrics, tags, artifacts = (sum(size[part] for size in sizes.values()) for part in range(4))
    return Stored(runs=len(sizes), steps=steps, metrics=metrics, tags=tags, artifacts=artifacts)


def _size(document: AnyRun) -> tuple[int, ...]:
    tags = sum(value is not None for value in document.tags.values())
    return len(document.steps), len(document.metrics), tags, len(document.artifacts)


def _portions(documents: Iterable[AnyRun]) -> Iterator[list[AnyRun]]:
    """So many documents at a time as fit into memory: one may have a hundred thousand steps."""
    portion: list[AnyRun] = []
    weight = 0
    for document in documents:
        portion.append(document)
        weight += sum(_size(document)) + len((document.results or {}).get("test_details") or ())
        if len(portion) == CHUNK or weight >= HEAVY:
            yield portion
            portion, weight = [], 0
    if portion:
        yield portion


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _known(session: Session, run_ids: Sequence[str]) -> dict[str, Known]:
    """Those of the runs that exist; other writers of them wait until this unit of work ends."""
    there = session.scalars(select(TestRun.run_id).where(among(TestRun.run_id, run_ids))).all()
    if not there:
        return {}
    lock_each(session, TestRun.run_id, there, key_share=True)
    # Before they were locked, one may have ended, or gone.
    rows = session.execute(
        select(TestRun.run_id, TestRun.created_at, TestRun.status).where(among(TestRun.run_id, there))
    )
    return {row.run_id: Known(row.created_at, row.status) for row in rows}


def _store_chunk(session: Session, documents: Sequence[AnyRun], known: dict[str, Known]) -> Rows:
    now, rows = utcnow(), Rows()
    for document in documents:
        before = known.get(document.run_id or "")
        _add_rows(rows, document, before.created_at if before else now)
    if known:
        note_change(session, *known)
        for part in PARTS:
            session.execute(delete(part).where(among(part.run_id, list(known))))
        upsert_many(session, TestRun, rows.runs)
    else:
        insert_many(session, TestRun, rows.runs)
    insert_many(session, TestRunResult, rows.results)
    insert_many(session, TestRunStep, rows.steps)
    insert_many(session, TestRunMetric, rows.metrics)
    insert_many(session, TestRunTag, rows.tags)
    insert_many(session, TestRunArtifact, rows.artifacts)
    _set_batches(session, documents, rows.runs, known)
    return rows


def _set_batches(
    session: Session, documents: Sequence[AnyRun], runs: Sequence[Row], known: dict[str, Known]
) -> None:
    wanted = []
    exact = set()  # runs whose memberships are all named; the others only gain one
    for document, run in zip(documents, runs, strict=True):
        ids = [document.batch_id] if document.batch_id else []
        if isinstance(document, RunRecord) and document.batch_ids is not None:
            ids += document.batch_ids
            exact.add(run["run_id"])
        wanted += [Link(run["run_id"], batch_id, run["started_at"]) for batch_id in ids]
    replaced = sorted(exact & known.keys())
    if replaced:
        keep = {(item.run_id, item.batch_id) for item in wanted}
        unlink(session, existing_links(session, replaced) - keep)
    link(session, wanted)


def _add_rows(rows: Rows, document: AnyRun, created_at: datetime) -> None:
    run = _run_row(document, created_at)
    run_id, started_at = run["run_id"], run["started_at"]
    recorded_at = run["completed_at"] or started_at
    rows.runs.append(run)
    if document.results is not None:
        rows.results.append(result_row(run_id, document.results))
    rows.steps += step_rows(
        run_id,
        document.steps,
        started_at,
        ended=document.status in TERMINAL,
        recorded=isinstance(document, RunRecord),
    )
    rows.metrics += metric_rows(run_id, document.metrics, recorded_at)
    rows.tags += [
        {"run_id": run_id, "tag_name": name, "tag_value": value}
        for name, value in document.tags.items()
        if value is not None
    ]
    rows.artifacts += [
        {
            "run_id": run_id,
            "artifact_path": artifact.artifact_path,
            "artifact_type": artifact.artifact_type,
            "description": artifact.description,
            "created_at": artifact.created_at or recorded_at,
        }
        for artifact in document.artifacts
    ]


def _run_row(document: AnyRun, created_at: datetime) -> Row:
    if isinstance(document, RunRecord) and document.created_at is not None:
        created_at = document.created_at
    # What an export says is null was null; a client's null is only not known yet.
    told = document.model_fields_set if isinstance(document, RunRecord) else ()
    ended = document.status in TERMINAL
    started_at = (
        document.started_at
        or shifted(document.completed_at, -(document.duration or 0.0))
        or document.completed_at
        or created_at
    )
    completed_at = document.completed_at
    if completed_at is None and "completed_at" not in told and ended and document.duration is not None:
        completed_at = shifted(started_at, document.duration)
    duration = document.duration
    if duration is None and "duration" not in told and completed_at is not None:
        duration = seconds_between(started_at, completed_at)
    progress = document.progress
    if progress is None:
        progress = 1.0 if document.status == RunStatus.COMPLETED else 0.0
    return {
        "run_id": document.run_id or new_id(),
        "model_name": document.model_name,
        "hardware": document.hardware,
        "test_type": document.test_type,
        "timeout": document.timeout,
        "save_results": document.save_results,
        "status": document.status,
        "progress": progress,
        "current_step": document.current_step,
        "started_at": started_at,
        "completed_at": completed_at,
        "duration": duration,
        "error": document.error,
        "result_file": document.result_file,
        "creator": document.creator,
        "created_at": created_at,
    }


def result_row(run_id: str, results: dict[str, Any]) -> Row:
    """The row of a result object; its counts follow from `test_details` where it has them."""
    details = results.get("test_details")
    if details:
        outcomes = [OUTCOMES[detail["status"].lower()] for detail in details]
        counts = {f"tests_{name}": outcomes.count(name) for name in ("passed", "failed", "skipped")}
    else:
        counts = {
            f"tests_{name}": results.get(f"tests_{name}", 0) for name in ("passed", "failed", "skipped")
        }
    return {"run_id": run_id, **counts, "result_data": results}


def step_rows(
    run_id: str,
    steps: Sequence[StepDocument | PlainStep],
    start: datetime,
    *,
    ended: bool,
    recorded: bool = False,
) -> list[Row]:
    """Steps laid end to end from `start` where they do not say when they started.

    Those of an export (`recorded`) keep their nulls.
    """
    rows = []
    free = start
    for step in steps:
        told = step.model_fields_set if recorded and isinstance(step, StepDocument) else ()
        status = step.status or (StepStatus.COMPLETED if ended else StepStatus.PENDING)
        started_at = step.started_at
        if started_at is None and step.completed_at is not None and step.duration is not None:
            started_at = shifted(step.completed_at, -step.duration)
        started_at = started_at or free
        completed_at, duration = step.completed_at, step.duration
        if completed_at is None and "completed_at" not in told and not status.live and duration is not None:
            completed_at = shifted(started_at, duration)
        if duration is None and "duration" not in told and completed_at is not None:
            duration = seconds_between(started_at, completed_at)
        progress = step.progress
        if progress is None:
            progress = 0.0 if status.live else 1.0
        rows.append(
            {
                "run_id": run_id,
                "step_name": step.step_name,
                "status": status,
                "progress": progress,
                "started_at": started_at,
                "completed_at": completed_at,
                "duration": duration,
                "error": step.error,
            }
        )
        # A microsecond apart at least: the order of steps is the order of their starts.
        free = max(completed_at or started_at, shifted(started_at, 1e-6) or started_at)
    return rows


def metric_rows(
    run_id: str, metrics: Sequence[MetricDocument | PlainMetric], recorded_at: datetime
) -> list[Row]:
    """Points in their order; those without a time were recorded at `recorded_at`."""
    return [
        {
            "run_id": run_id,
            "id": id_,
            "metric_name": metric.metric_name,
            "metric_value": metric.value,
            "metric_unit": metric.unit or "",
            "timestamp": metric.timestamp or recorded_at,
        }
        for id_, metric in zip(new_metric_ids(len(metrics)), metrics, strict=True)
    ]


def shifted(time: datetime | None, seconds: float) -> datetime | None:
    """The time so many seconds later; None without a time, or where that is no date."""
    if time is None or not math.isfinite(seconds):
        return None
    try:
        return time + timedelta(seconds=seconds)
    except OverflowError:
        return None


def seconds_between(start: datetime, end: datetime) -> float:
    """Never negative: clocks of two machines may disagree."""
    return max(0.0, (end - start).total_seconds())
