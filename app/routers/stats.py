"""Statistics and the performance report."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.routers.access import READ, Guarded
from app.routers.deps import Db
from app.routers.problems import responses
from app.schemas.stats import (
    HardwareStats,
    HardwareStatsQuery,
    ModelStats,
    ModelStatsQuery,
    PerformanceQuery,
    PerformanceReport,
)
from app.services import stats

router = APIRouter(prefix="/api/test/db", tags=["statistics"], route_class=Guarded)


@router.get("/models/stats", dependencies=[READ], responses=responses())
def model_stats(query: Annotated[ModelStatsQuery, Query()], database: Db) -> list[ModelStats]:
    """One row a model, most runs first."""
    return database.read(stats.model_stats, query)


@router.get("/hardware/stats", dependencies=[READ], responses=responses())
def hardware_stats(query: Annotated[HardwareStatsQuery, Query()], database: Db) -> list[HardwareStats]:
    """One row a platform, most runs first; a run on two platforms counts once in each."""
    return database.read(stats.hardware_stats, query)


@router.get("/performance", dependencies=[READ], responses=responses())
def performance(query: Annotated[PerformanceQuery, Query()], database: Db) -> PerformanceReport:
    """What happened in the last days: by day, model, platform and metric."""
    return database.read(stats.performance, query)
