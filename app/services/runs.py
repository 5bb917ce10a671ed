"""Reading runs: lists, details, series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Row, Select, exists, func, or_, select, tuple_
from sqlalchemy.orm import Session

from app.db.bulk import among
from app.db.database import note_change
from app.db.functions import finite, holds, mean
from app.errors import NotFound
from app.models import (
    Base,
    BatchTestRun,
    TestRun,
    TestRunArtifact,
    TestRunBatch,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
)
from app.schemas.common import build, is_id
from app.schemas.runs import (
    Artifact,
    MetricPoint,
    MetricQuery,
    MetricSummary,
    RunDetail,
    RunFilters,
    RunQuery,
    RunSummary,
    Step,
)
from app.services.paging import Page, decode_cursor, encode_cursor, newest_first


def require_run(session: Session, run_id: str, *, for_update: bool = False) -> TestRun:
    """The run; raises NotFound. `for_update` makes other writers of the same run wait."""
    run = session.get(TestRun, run_id, with_for_update=for_update or None) if is_id(run_id) else None
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.")
    if for_update:
        note_change(session, run_id)
    return run


def conditions(filters: RunFilters) -> list[ColumnElement[bool]]:
    """The WHERE conditions of the filters that are given."""
    found: list[ColumnElement[bool]] = [_has_tag(tag) for tag in filters.tag]
    if filters.status is not None:
        found.append(TestRun.status == filters.status)
    if filters.model_name is not None:
        found.append(TestRun.model_name == filters.model_name)
    if filters.test_type is not None:
        found.append(TestRun.test_type == filters.test_type)
    if filters.hardware is not None:
        found.append(holds(TestRun.hardware, filters.hardware))
    if filters.batch_id is not None:
        members = select(TestRunBatch.run_id).where(TestRunBatch.batch_id == filters.batch_id)
        found.append(TestRun.run_id.in_(members))
    if filters.since is not None:
        found.append(TestRun.started_at >= filters.since)
    if filters.until is not None:
        found.append(TestRun.started_at < filters.until)
    return found


def _has_tag(text: str) -> ColumnElement[bool]:
    # A tag's name may itself contain `=`: each place of one may be where the name ends.
    pairs = [(text[:place], text[place + 1 :]) for place, character in enumerate(text) if character == "="]
    wanted = TestRunTag.tag_name == text
    if pairs:
        wanted = or_(wanted, tuple_(TestRunTag.tag_name, TestRunTag.tag_value).in_(pairs))
    return exists().where(TestRunTag.run_id == TestRun.run_id, wanted)


def list_runs(session: Session, query: RunQuery, *extra: ColumnElement[bool]) -> Page[RunSummary]:
    """One page of the runs that pass the filters (and `extra` conditions), newest first."""
    where = [*conditions(query), *extra]
    runs, next_cursor = newest_first(
        session,
        select(TestRun).where(*where),
        TestRun.started_at,
        TestRun.run_id,
        cursor=query.cursor,
        limit=query.limit,
    )
    total = None
    if query.count:
        total = session.scalar(select(func.count()).select_from(TestRun).where(*where))
    return Page(summarize(session, runs), next_cursor, total)


def summarize(session: Session, runs: Sequence[TestRun]) -> list[RunSummary]:
    """Adds what the list shows of each run's children: one statement a table, whatever their number."""
    ids = [run.run_id for run in runs]
    results = {
        row.run_id: row for row in session.execute(_result_counts().where(among(TestRunResult.run_id, ids)))
    }
    steps = _counts(session, TestRunStep, ids)
    metrics = _counts(session, TestRunMetric, ids)
    artifacts = _counts(session, TestRunArtifact, ids)
    tags = tags_of(session, ids)
    batches = batches_of(session, ids)
    summaries = []
    for run in runs:
        result = results.get(run.run_id)
        summaries.append(
            build(
                RunSummary,
                **{name: getattr(run, name) for name in _SUMMARY_COLUMNS},
                tests_passed=result.tests_passed if result else 0,
                tests_failed=result.tests_failed if result else 0,
                tests_skipped=result.tests_skipped if result else 0,
                step_count=steps.get(run.run_id, 0),
                metric_count=metrics.get(run.run_id, 0),
                artifact_count=artifacts.get(run.run_id, 0),
                tags=tags[run.run_id],
                batch_ids=batches[run.run_id],
                batch_id=next(iter(batches[run.run_id]), None),
            )
        )
    return summaries


_COLUMNS = [column.key for column in TestRun.__table__.columns]
_SUMMARY_COLUMNS = [name for name in RunSummary.model_fields if name in _COLUMNS]


def get_run(session: Session, run_id: str) -> RunDetail:
    """A run with everything it has; raises NotFound."""
    return details(session, [require_run(session, run_id)])[0]


def details(session: Session, runs: Sequence[TestRun]) -> list[RunDetail]:
    """The details of runs, in their order."""
    ids = [run.run_id for run in runs]
    results = {row.run_id: result_object(row) for row in rows_of(session, TestRunResult, ids)}
    steps, artifacts = defaultdict(list), defaultdict(list)
    for step in rows_of(session, TestRunStep, ids, TestRunStep.started_at, TestRunStep.step_name):
        steps[step.run_id].append(build(Step, **fields(step, Step)))
    for artifact in rows_of(
        session, TestRunArtifact, ids, TestRunArtifact.created_at, TestRunArtifact.artifact_path
    ):
        artifacts[artifact.run_id].append(build(Artifact, **fields(artifact, Artifact)))
    metrics, tags, batches = metric_summaries(session, ids), tags_of(session, ids), batches_of(session, ids)
    return [
        build(
            RunDetail,
            **{name: getattr(run, name) for name in _COLUMNS},
            results=results.get(run.run_id),
            steps=steps[run.run_id],
            metrics=metrics[run.run_id],
            tags=tags[run.run_id],
            artifacts=artifacts[run.run_id],
            batch_ids=batches[run.run_id],
            batch_id=next(iter(batches[run.run_id]), None),
        )
        for run in runs
    ]


def result_object(row: Any) -> dict[str, Any]:
    """The stored result object, its counts as they are counted."""
    return {
        **row.result_data,
        "tests_passed": row.tests_passed,
        "tests_failed": row.tests_failed,
        "tests_skipped": row.tests_skipped,
    }


def metric_summaries(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, MetricSummary]]:
    """For each run, its metrics by name: the latest point and figures over the finite values."""
    series: dict[str, Any] = {"partition_by": [TestRunMetric.run_id, TestRunMetric.metric_name]}
    value = finite(TestRunMetric.metric_value)
    points = (
        select(
            TestRunMetric.run_id,
            TestRunMetric.metric_name,
            TestRunMetric.metric_value,
            TestRunMetric.metric_unit,
            TestRunMetric.timestamp,
            func.count(value).over(**series).label("count"),
            func.min(value).over(**series).label("min"),
            func.max(value).over(**series).label("max"),
            mean(value, **series).label("avg"),
            func.row_number()
            .over(**series, order_by=[TestRunMetric.timestamp.desc(), TestRunMetric.id.desc()])
            .label("newest"),
        )
        .where(among(TestRunMetric.run_id, run_ids))
        .subquery()
    )
    found: dict[str, dict[str, MetricSummary]] = {run_id: {} for run_id in run_ids}
    rows = session.execute(select(points).where(points.c.newest == 1).order_by(points.c.metric_name))
    for row in rows:
        found[row.run_id][row.metric_name] = build(
            MetricSummary,
            value=row.metric_value,
            unit=row.metric_unit,
            timestamp=row.timestamp,
            count=row._mapping["count"],
            min=row.min,
            max=row.max,
            avg=row.avg,
        )
    return found


def list_metrics(session: Session, run_id: str, query: MetricQuery) -> Page[MetricPoint]:
    """One page of the series in the order they were recorded; raises NotFound."""
    require_run(session, run_id)
    points = select(*TestRunMetric.__table__.c).where(TestRunMetric.run_id == run_id)
    if query.name is not None:
        points = points.where(TestRunMetric.metric_name == query.name)
    if query.cursor is not None:
        points = points.where(TestRunMetric.id > decode_cursor(query.cursor, int)[0])
    rows = session.execute(points.order_by(TestRunMetric.id).limit(query.limit + 1)).all()
    page = rows[: query.limit]
    next_cursor = encode_cursor(page[-1].id) if len(rows) > query.limit else None
    return Page([metric_point(row) for row in page], next_cursor)


def metric_point(row: Any) -> MetricPoint:
    return build(
        MetricPoint,
        metric_name=row.metric_name,
        value=row.metric_value,
        unit=row.metric_unit,
        timestamp=row.timestamp,
    )


def tags_of(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {run_id: {} for run_id in run_ids}
    for tag in rows_of(session, TestRunTag, run_ids, TestRunTag.tag_name):
        found[tag.run_id][tag.tag_name] = tag.tag_value
    return found


def batches_of(session: Session, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """The batches of each run, newest first."""
    found: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
    links = (
        select(TestRunBatch.run_id, TestRunBatch.batch_id)
        .join(BatchTestRun, BatchTestRun.batch_id == TestRunBatch.batch_id)
        .where(among(TestRunBatch.run_id, run_ids))
        .order_by(BatchTestRun.started_at.desc(), BatchTestRun.batch_id)
    )
    for run_id, batch_id in session.execute(links):
        found[run_id].append(batch_id)
    return found


def rows_of(session: Session, model: type[Base], run_ids: Sequence[str], *order: Any) -> Iterator[Row[Any]]:
    """The rows of a child table that belong to the runs, as plain rows."""
    columns = model.__table__.c
    return iter(session.execute(select(*columns).where(among(columns.run_id, run_ids)).order_by(*order)))


def fields(row: Any, answer: type[BaseModel]) -> dict[str, Any]:
    """The columns of a row that an answer shows."""
    return {name: getattr(row, name) for name in answer.model_fields}


def _counts(session: Session, model: type[Base], run_ids: Sequence[str]) -> dict[str, int]:
    run_id = model.__table__.c.run_id
    counted = select(run_id, func.count()).where(among(run_id, run_ids)).group_by(run_id)
    return dict(session.execute(counted).all())


def _result_counts() -> Select[str, int, int, int]:
    return select(
        TestRunResult.run_id,
        TestRunResult.tests_passed,
        TestRunResult.tests_failed,
        TestRunResult.tests_skipped,
    )
