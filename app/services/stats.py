"""Statistics over runs. Every figure is computed by the engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.functions import count_if, finite, holds, mean, percentiles, utc_day
from app.db.types import utcnow
from app.models import TestRun, TestRunMetric, TestRunResult
from app.schemas.common import build
from app.schemas.runs import RunQuery
from app.schemas.stats import (
    DailyStats,
    HardwareStats,
    HardwareStatsQuery,
    MetricGroup,
    ModelStats,
    ModelStatsQuery,
    PerformanceQuery,
    PerformanceReport,
    RunMetrics,
)
from app.services.parts import parts_of
from app.services.runs import COLUMNS, list_runs
from app.vocabulary import FAILED, TERMINAL, RunStatus

LATEST_RUNS = 20
METRIC_RUNS = 100


def model_stats(session: Session, query: ModelStatsQuery) -> list[ModelStats]:
    """One row a model, most runs first."""
    where = _conditions(query.days, test_type=query.test_type, hardware=query.hardware)
    return [ModelStats(**row) for row in _run_stats(session, TestRun.model_name, "model_name", where)]


def hardware_stats(session: Session, query: HardwareStatsQuery) -> list[HardwareStats]:
    """One row a platform, most runs first; a run on two platforms counts once in each."""
    where = _conditions(query.days, test_type=query.test_type, model_name=query.model_name)
    platform = func.unnest(TestRun.hardware)
    return [HardwareStats(**row) for row in _run_stats(session, platform, "hardware", where)]


def performance(session: Session, query: PerformanceQuery) -> PerformanceReport:
    """The report over the last `days`; both filters hold for every part."""
    where = _conditions(query.days, model_name=query.model_name)
    latest = list_runs(session, RunQuery(limit=LATEST_RUNS), *where)
    platform = func.unnest(TestRun.hardware)
    return PerformanceReport(
        daily_stats=_daily(session, where),
        model_stats=[
            ModelStats(**row) for row in _run_stats(session, TestRun.model_name, "model_name", where)
        ],
        hardware_stats=[HardwareStats(**row) for row in _run_stats(session, platform, "hardware", where)],
        latest_runs=latest.items,
        performance_metrics=_newest_metrics(session, where),
        metric_summary=_metric_groups(session, where),
        generated_at=utcnow(),
    )


def _conditions(
    days: int | None,
    *,
    model_name: str | None = None,
    hardware: str | None = None,
    test_type: str | None = None,
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if days is not None:
        found.append(TestRun.started_at >= utcnow() - timedelta(days=days))
    if model_name is not None:
        found.append(TestRun.model_name == model_name)
    if hardware is not None:
        found.append(holds(TestRun.hardware, hardware))
    if test_type is not None:
        found.append(TestRun.test_type == test_type)
    return found


def _status_counts(status: ColumnElement[str] | InstrumentedAttribute[str]) -> list[ColumnElement[int]]:
    return [
        func.count().label("total_runs"),
        count_if(status == RunStatus.COMPLETED).label("completed_runs"),
        count_if(status.in_(FAILED)).label("failed_runs"),
        count_if(status == RunStatus.CANCELLED).label("cancelled_runs"),
    ]


def _run_stats(
    session: Session,
    key: ColumnElement[str] | InstrumentedAttribute[str],
    name: str,
    where: list[ColumnElement[bool]],
) -> list[dict[str, Any]]:
    # The key may multiply rows (a platform each), so it is made before grouping.
    runs = (
        select(
            key.label(name),
            TestRun.status,
            TestRun.started_at,
            finite(TestRun.duration, TestRun.status == RunStatus.COMPLETED).label("duration"),
            TestRunResult.tests_passed,
            TestRunResult.tests_failed,
            TestRunResult.tests_skipped,
        )
        .outerjoin(TestRunResult, TestRunResult.run_id == TestRun.run_id)
        .where(*where)
        .subquery()
    )
    group, total = runs.c[name], func.count()
    ended = count_if(runs.c.status.in_(TERMINAL))
    statement: Select[Any] = (
        select(
            group,
            *_status_counts(runs.c.status),
            (count_if(runs.c.status == RunStatus.COMPLETED) * 1.0 / func.nullif(ended, 0)).label(
                "success_rate"
            ),
            mean(runs.c.duration).label("avg_duration"),
            func.min(runs.c.duration).label("min_duration"),
            func.max(runs.c.duration).label("max_duration"),
            percentiles((0.5, 0.95), runs.c.duration).label("halves"),
            func.coalesce(func.sum(runs.c.tests_passed), 0).label("tests_passed"),
            func.coalesce(func.sum(runs.c.tests_failed), 0).label("tests_failed"),
            func.coalesce(func.sum(runs.c.tests_skipped), 0).label("tests_skipped"),
            func.max(runs.c.started_at).label("latest_run"),
        )
        .group_by(group)
        .order_by(total.desc(), group)
    )
    found = []
    for row in session.execute(statement).mappings():
        p50, p95 = _percentiles(row["halves"], 2)
        found.append({**row, "p50_duration": p50, "p95_duration": p95})
    return found


def _percentiles(halves: Sequence[float] | None, count: int) -> list[float | None]:
    return [half * 2 for half in halves] if halves else [None] * count


def _daily(session: Session, where: list[ColumnElement[bool]]) -> list[DailyStats]:
    day = utc_day(TestRun.started_at).label("day")
    duration = finite(TestRun.duration, TestRun.status == RunStatus.COMPLETED)
    rows = session.execute(
        select(day, *_status_counts(TestRun.status), mean(duration).label("avg_duration"))
        .where(*where)
        .group_by(day)
        .order_by(day.desc())
    )
    return [DailyStats(**row) for row in rows.mappings()]


def _newest_metrics(session: Session, where: list[ColumnElement[bool]]) -> list[RunMetrics]:
    completed = (
        select(*COLUMNS)
        .where(*where, TestRun.status == RunStatus.COMPLETED)
        .order_by(TestRun.started_at.desc(), TestRun.run_id)
    )
    runs = session.execute(completed.limit(METRIC_RUNS)).all()
    parts = parts_of(session, [run.run_id for run in runs])
    if not all(part.metrics for part in parts.values()):  # to ask each run of the database takes long
        measured = exists().where(TestRunMetric.run_id == TestRun.run_id)
        runs = session.execute(completed.where(measured).limit(METRIC_RUNS)).all()
        parts = parts_of(session, [run.run_id for run in runs])
    return [
        build(
            RunMetrics,
            **{name: getattr(run, name) for name in RunMetrics.model_fields if name != "metrics"},
            metrics=parts[run.run_id].metrics,
        )
        for run in runs
    ]


def _metric_groups(session: Session, where: list[ColumnElement[bool]]) -> list[MetricGroup]:
    group = (TestRun.model_name, TestRun.hardware, TestRunMetric.metric_name, TestRunMetric.metric_unit)
    value = finite(TestRunMetric.metric_value)
    rows = session.execute(
        select(
            *group,
            func.count(value).label("count"),
            mean(value).label("avg"),
            func.min(value).label("min"),
            func.max(value).label("max"),
            percentiles((0.5, 0.95, 0.99), value).label("halves"),
        )
        .join(TestRunMetric, TestRunMetric.run_id == TestRun.run_id)
        .where(*where)
        .group_by(*group)
        .having(func.count(value) > 0)
        .order_by(*group)
    )
    found = []
    for row in rows.mappings():
        p50, p95, p99 = _percentiles(row["halves"], 3)
        found.append(build(MetricGroup, **row, p50=p50, p95=p95, p99=p99))
    return found
