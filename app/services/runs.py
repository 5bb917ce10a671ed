"""Reading runs: lists, details, series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, bindparam, exists, func, or_, select, tuple_
from sqlalchemy.orm import Session

from app.db.database import note_change
from app.db.functions import holds
from app.errors import NotFound
from app.models import TestRun, TestRunBatch, TestRunMetric, TestRunTag
from app.schemas.common import build, is_id
from app.schemas.runs import MetricPoint, MetricQuery, RunDetail, RunFilters, RunQuery, RunSummary
from app.services.paging import Page, decode_cursor, encode_cursor, newest_first
from app.services.parts import Parts, counts_of, parts_of


def require_run(session: Session, run_id: str, *, for_update: bool = False) -> TestRun:
    """The run; raises NotFound. `for_update` makes other writers of the same run wait."""
    run = session.get(TestRun, run_id, with_for_update=for_update or None) if is_id(run_id) else None
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.")
    if for_update:
        note_change(session, run_id)
    return run


def lock_run(session: Session, run_id: str) -> None:
    """Makes other writers of the run wait until this unit of work ends; raises NotFound."""
    session.flush()
    found = is_id(run_id) and session.connection().scalar(_LOCK, {"run_id": run_id})
    if not found:
        raise NotFound(f"There is no run {run_id!r}.")
    note_change(session, run_id)


def conditions(filters: RunFilters) -> list[ColumnElement[bool]]:
    """The WHERE conditions of the filters that are given."""
    found: list[ColumnElement[bool]] = [has_tag(tag) for tag in filters.tag]
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


def has_tag(text: str) -> ColumnElement[bool]:
    """Whether a run has the tag `name`, or `name=value`."""
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
        select(*COLUMNS).where(*where),
        TestRun.started_at,
        TestRun.run_id,
        cursor=query.cursor,
        limit=query.limit,
    )
    total = None
    if query.count:
        total = session.scalar(select(func.count()).select_from(TestRun).where(*where))
    return Page(summarize(session, runs), next_cursor, total)


def summarize(session: Session, runs: Sequence[Any]) -> list[RunSummary]:
    """The rows of runs with what the list shows of their parts."""
    counts = counts_of(session, [run.run_id for run in runs])
    return [
        build(
            RunSummary,
            **{name: getattr(run, name) for name in _SUMMARY_COLUMNS},
            **vars(counts[run.run_id]),
            batch_id=next(iter(counts[run.run_id].batch_ids), None),
        )
        for run in runs
    ]


COLUMNS = tuple(TestRun.__table__.columns)
_NAMES = [column.key for column in COLUMNS]
_SUMMARY_COLUMNS = [name for name in RunSummary.model_fields if name in _NAMES]
_BY_ID = select(*COLUMNS).where(TestRun.run_id == bindparam("run_id"))
_LOCK = select(TestRun.run_id).where(TestRun.run_id == bindparam("run_id")).with_for_update()


def get_run(session: Session, run_id: str) -> RunDetail:
    """A run with everything it has; raises NotFound."""
    run = None
    if is_id(run_id):
        session.flush()
        run = session.connection().execute(_BY_ID, {"run_id": run_id}).one_or_none()
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.")
    return details(session, [run])[0]


def details(session: Session, runs: Sequence[Any]) -> list[RunDetail]:
    """The details of at most `MOST` rows of runs, in their order."""
    parts = parts_of(session, [run.run_id for run in runs])
    return [detail(run, parts[run.run_id]) for run in runs]


def detail(run: Any, parts: Parts) -> RunDetail:
    """A row of a run, or the run itself, with its parts."""
    return build(
        RunDetail,
        **{name: getattr(run, name) for name in _NAMES},
        **vars(parts),
        batch_id=next(iter(parts.batch_ids), None),
    )


def list_metrics(session: Session, run_id: str, query: MetricQuery) -> Page[MetricPoint]:
    """One page of the series in the order they were recorded; raises NotFound."""
    require_run(session, run_id)
    points = select(*TestRunMetric.__table__.c).where(TestRunMetric.run_id == run_id)
    if query.name is not None:
        points = points.where(TestRunMetric.metric_name == query.name)
    if query.cursor is not None:
        points = points.where(TestRunMetric.id > decode_cursor(query.cursor, run_id, int)[0])
    rows = session.execute(points.order_by(TestRunMetric.id).limit(query.limit + 1)).all()
    page = rows[: query.limit]
    next_cursor = encode_cursor(run_id, page[-1].id) if len(rows) > query.limit else None
    return Page([metric_point(row) for row in page], next_cursor)


def metric_point(row: Any) -> MetricPoint:
    return build(
        MetricPoint,
        metric_name=row.metric_name,
        value=row.metric_value,
        unit=row.metric_unit,
        timestamp=row.timestamp,
    )


def fields(row: Any, answer: type[BaseModel]) -> dict[str, Any]:
    """The columns of a row that an answer shows."""
    return {name: getattr(row, name) for name in answer.model_fields}
