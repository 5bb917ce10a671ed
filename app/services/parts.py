"""What belongs to runs in the other tables, read in one statement whatever the number of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Select,
    Text,
    bindparam,
    cast,
    func,
    null,
    select,
    union_all,
)
from sqlalchemy import literal_column as sql
from sqlalchemy.orm import Session

from app.db.bulk import among
from app.db.functions import finite, latest, mean, mean_of
from app.db.types import UtcDateTime
from app.models import (
    Base,
    BatchTestRun,
    TestRunArtifact,
    TestRunBatch,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
)
from app.schemas.common import build
from app.schemas.runs import Artifact, MetricSummary, Step

FEW_POINTS = 2000
"""Up to this many points of all runs together are summed up here; the engine does it for more."""

MOST = 1000
"""Runs that are asked for at once."""


@dataclass
class Parts:
    """What a run has beside its row."""

    results: dict[str, Any] | None = None
    steps: list[Step] = field(default_factory=list)
    metrics: dict[str, MetricSummary] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    batch_ids: list[str] = field(default_factory=list)
    """Newest first."""


@dataclass
class Counts:
    """What a list shows of a run beside its row."""

    tests_passed: int = 0
    tests_failed: int = 0
    tests_skipped: int = 0
    step_count: int = 0
    metric_count: int = 0
    artifact_count: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    batch_ids: list[str] = field(default_factory=list)


class _Shared(NamedTuple):
    """The columns that the rows of all tables are put into."""

    kind: ColumnElement[str]
    run_id: ColumnElement[str]
    name: ColumnElement[Any] = cast(null(), Text)
    text: ColumnElement[Any] = cast(null(), Text)
    text2: ColumnElement[Any] = cast(null(), Text)
    number: ColumnElement[Any] = cast(null(), Double)
    number2: ColumnElement[Any] = cast(null(), Double)
    whole: ColumnElement[Any] = cast(null(), BigInteger)
    whole2: ColumnElement[Any] = cast(null(), BigInteger)
    whole3: ColumnElement[Any] = cast(null(), BigInteger)
    time: ColumnElement[Any] = cast(null(), UtcDateTime)
    time2: ColumnElement[Any] = cast(null(), UtcDateTime)


def _rows(kind: str, table: type[Base], **columns: Any) -> Select[Any]:
    run_id = table.__table__.c.run_id
    shared = _Shared(sql(f"'{kind}'", Text), run_id, **columns)
    labelled = [column.label(name) for name, column in shared._asdict().items()]
    return select(*labelled).where(run_id.in_(bindparam("run_ids", expanding=True)))


_COUNTED = {
    "whole": cast(TestRunResult.tests_passed, BigInteger),
    "whole2": cast(TestRunResult.tests_failed, BigInteger),
    "whole3": cast(TestRunResult.tests_skipped, BigInteger),
}
_TAGS = _rows("tag", TestRunTag, name=TestRunTag.tag_name, text=TestRunTag.tag_value)
_BATCHES = _rows("batch", TestRunBatch, name=TestRunBatch.batch_id)

_STEPS = _rows(
    "step",
    TestRunStep,
    name=TestRunStep.step_name,
    text=TestRunStep.status,
    text2=TestRunStep.error,
    number=TestRunStep.progress,
    number2=TestRunStep.duration,
    time=TestRunStep.started_at,
    time2=TestRunStep.completed_at,
)
_POINTS = _rows(
    "metric",
    TestRunMetric,
    name=TestRunMetric.metric_name,
    text=TestRunMetric.metric_unit,
    number=TestRunMetric.metric_value,
    whole=TestRunMetric.id,
    time=TestRunMetric.timestamp,
).limit(FEW_POINTS + 1)
_ARTIFACTS = _rows(
    "artifact",
    TestRunArtifact,
    name=TestRunArtifact.artifact_path,
    text=TestRunArtifact.artifact_type,
    text2=TestRunArtifact.description,
    time=TestRunArtifact.created_at,
)

_PARTS = union_all(
    _rows("result", TestRunResult, text=cast(TestRunResult.result_data, Text), **_COUNTED),
    _STEPS,
    select(_POINTS.subquery()),
    _TAGS,
    _ARTIFACTS,
    _BATCHES,
)


def _number(kind: str, table: type[Base]) -> Select[Any]:
    return _rows(kind, table, whole=func.count()).group_by(table.__table__.c.run_id)


_COUNTS = union_all(
    _rows("result", TestRunResult, **_COUNTED),
    _number("steps", TestRunStep),
    _number("metrics", TestRunMetric),
    _number("artifacts", TestRunArtifact),
    _TAGS,
    _BATCHES,
)


def parts_of(session: Session, run_ids: Sequence[str]) -> dict[str, Parts]:
    """The parts of at most `MOST` runs."""
    found = {run_id: Parts() for run_id in run_ids}
    rows = _by_kind(session, _PARTS, run_ids)
    for row in rows["result"]:
        found[row.run_id].results = counted(json.loads(row.text), row.whole, row.whole2, row.whole3)
    for row in sorted(rows["step"], key=attrgetter("time", "name")):
        found[row.run_id].steps.append(
            build(
                Step,
                step_name=row.name,
                status=row.text,
                progress=row.number,
                started_at=row.time,
                completed_at=row.time2,
                duration=row.number2,
                error=row.text2,
            )
        )
    for row in sorted(rows["artifact"], key=attrgetter("time", "name")):
        found[row.run_id].artifacts.append(
            build(
                Artifact,
                artifact_type=row.text,
                artifact_path=row.name,
                description=row.text2,
                created_at=row.time,
            )
        )
    _add_names(session, found, rows)
    if len(rows["metric"]) <= FEW_POINTS:
        points = [
            Point(row.run_id, row.name, row.time, row.whole, row.number, row.text) for row in rows["metric"]
        ]
        for run_id, name, summary in summed_up(points):
            found[run_id].metrics[name] = summary
    else:
        for run_id, metrics in metric_summaries(session, run_ids).items():
            found[run_id].metrics = metrics
    return found


def counted(stored: dict[str, Any], passed: int, failed: int, skipped: int) -> dict[str, Any]:
    """The stored result object, its counts as they are counted."""
    return {**stored, "tests_passed": passed, "tests_failed": failed, "tests_skipped": skipped}


def counts_of(session: Session, run_ids: Sequence[str]) -> dict[str, Counts]:
    """The counts of at most `MOST` runs."""
    found = {run_id: Counts() for run_id in run_ids}
    rows = _by_kind(session, _COUNTS, run_ids)
    for row in rows["result"]:
        counts = found[row.run_id]
        counts.tests_passed, counts.tests_failed, counts.tests_skipped = row.whole, row.whole2, row.whole3
    for row in rows["steps"]:
        found[row.run_id].step_count = row.whole
    for row in rows["metrics"]:
        found[row.run_id].metric_count = row.whole
    for row in rows["artifacts"]:
        found[row.run_id].artifact_count = row.whole
    _add_names(session, found, rows)
    return found


class Point(NamedTuple):
    """A point of a series; points in order are series by series, the oldest first."""

    run_id: str
    name: str
    time: datetime
    id: int
    value: float
    unit: str


class _Kinds(dict[str, list[Any]]):
    def __missing__(self, kind: str) -> list[Any]:
        return []


def _by_kind(session: Session, statement: Any, run_ids: Sequence[str]) -> _Kinds:
    kinds = _Kinds()
    if run_ids:
        for row in session.connection().execute(statement, {"run_ids": list(run_ids)}):
            kinds.setdefault(row.kind, []).append(row)
    return kinds


def _add_names(session: Session, found: dict[str, Any], rows: _Kinds) -> None:
    for row in sorted(rows["tag"], key=attrgetter("name")):
        found[row.run_id].tags[row.name] = row.text
    ids = sorted({row.name for row in rows["batch"]})
    if ids:  # a join in the one statement would read all batches each time
        batch = BatchTestRun.__table__.c
        newest = select(batch.batch_id).where(among(batch.batch_id, ids))
        places = session.scalars(newest.order_by(batch.started_at.desc(), batch.batch_id))
        place = {batch_id: number for number, batch_id in enumerate(places)}
        for row in sorted(rows["batch"], key=lambda row: place.get(row.name, -1)):
            if row.name in place:  # what refers to nothing is not shown
                found[row.run_id].batch_ids.append(row.name)


def summed_up(points: Iterable[Point]) -> Iterator[tuple[str, str, MetricSummary]]:
    """For each run, and each of its metrics by name, the summary."""
    for (run_id, name), grouped in groupby(sorted(points), attrgetter("run_id", "name")):
        series = list(grouped)
        values = [point.value for point in reversed(series) if math.isfinite(point.value)]
        summary = build(
            MetricSummary,
            value=series[-1].value,
            unit=series[-1].unit,
            timestamp=series[-1].time,
            count=len(values),
            min=min(values, default=None),
            max=max(values, default=None),
            avg=mean_of(values),
        )
        yield run_id, name, summary


def metric_summaries(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, MetricSummary]]:
    """For each run, its metrics by name: the latest point and figures over the finite values.

    Computed by the engine, for any number of points.
    """
    point = TestRunMetric.__table__.c
    value, newest = finite(point.metric_value), (point.timestamp, point.id)
    summaries = (
        select(
            point.run_id,
            point.metric_name,
            latest(point.metric_value, *newest).label("value"),
            latest(point.metric_unit, *newest).label("unit"),
            func.max(point.timestamp).label("timestamp"),
            func.count(value).label("count"),
            func.min(value).label("min"),
            func.max(value).label("max"),
            mean(value, *(key.desc() for key in newest)).label("avg"),
        )
        .where(point.run_id.in_(run_ids))
        .group_by(point.run_id, point.metric_name)
        .order_by(point.metric_name)
    )
    found: dict[str, dict[str, MetricSummary]] = {run_id: {} for run_id in run_ids}
    for row in session.execute(summaries).mappings():
        summary = {name: row[name] for name in MetricSummary.model_fields}
        found[row["run_id"]][row["metric_name"]] = build(MetricSummary, **summary)
    return found
