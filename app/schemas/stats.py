"""Statistics and the performance report."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

from pydantic import Field

from app.schemas.common import Answer, AnyFloat, Name, Request
from app.schemas.runs import MetricSummary, RunSummary

MAX_DAYS = 36_500


class ModelStatsQuery(Request):
    days: Annotated[int, Field(ge=1, le=MAX_DAYS)] | None = Field(None, description="Only the last days.")
    hardware: Name | None = None
    test_type: Name | None = None


class HardwareStatsQuery(Request):
    days: Annotated[int, Field(ge=1, le=MAX_DAYS)] | None = Field(None, description="Only the last days.")
    model_name: Name | None = None
    test_type: Name | None = None


class PerformanceQuery(Request):
    days: Annotated[int, Field(ge=1, le=365)] = 30
    model_name: Name | None = None


class RunStats(Answer):
    """Counts and durations (seconds; completed runs only) of a group of runs."""

    total_runs: int
    completed_runs: int
    failed_runs: int
    cancelled_runs: int
    success_rate: float | None = Field(description="Completed of terminal runs; null when none has ended.")
    avg_duration: float | None
    min_duration: float | None
    max_duration: float | None
    p50_duration: float | None
    p95_duration: float | None
    tests_passed: int
    tests_failed: int
    tests_skipped: int
    latest_run: datetime


class _OfModel(Answer):
    model_name: str


class _OfHardware(Answer):
    hardware: str = Field(description="The platform.")


# The key stands first in the answer: fields of the last base come first.
class ModelStats(RunStats, _OfModel):
    """The statistics of a model."""


class HardwareStats(RunStats, _OfHardware):
    """The statistics of a platform."""


class DailyStats(Answer):
    day: date
    total_runs: int
    completed_runs: int
    failed_runs: int
    cancelled_runs: int
    avg_duration: float | None


class RunMetrics(Answer):
    """The metrics of one completed run."""

    run_id: str
    model_name: str
    hardware: list[str]
    test_type: str
    duration: AnyFloat | None
    completed_at: datetime | None
    metrics: dict[str, MetricSummary]


class MetricGroup(Answer):
    """Figures over the finite values of one metric of one model on the same hardware."""

    model_name: str
    hardware: list[str]
    metric_name: str
    metric_unit: str
    count: int
    avg: float
    min: float
    max: float
    p50: float
    p95: float
    p99: float


class PerformanceReport(Answer):
    daily_stats: list[DailyStats]
    model_stats: list[ModelStats]
    hardware_stats: list[HardwareStats]
    latest_runs: list[RunSummary]
    performance_metrics: list[RunMetrics]
    metric_summary: list[MetricGroup]
    generated_at: datetime
