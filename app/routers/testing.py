"""The Test API: what can be run here, starting and cancelling runs, watching them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse

from app.db import utcnow
from app.routers.access import READ, WRITE, Guarded
from app.routers.deps import Db, Tests, Watches
from app.routers.problems import responses
from app.schemas.runner import (
    BatchLaunched,
    BatchLaunchRequest,
    Cancelled,
    LatestQuery,
    Launched,
    LaunchRequest,
    LiveResults,
    LiveStatus,
    RunnableModel,
    RunnablePlatform,
    RunnableType,
)
from app.schemas.runs import RunQuery, RunSummary
from app.services import live, runs

router = APIRouter(prefix="/api/test", tags=["tests"], route_class=Guarded)


@router.post("/run", dependencies=[WRITE], status_code=202, responses=responses(413))
def start_run(launch_request: LaunchRequest, tests: Tests) -> Launched:
    """Queues a run of the suite; 422 lists what exists when model, platform or test type do not."""
    return tests.submit(launch_request)


@router.post("/batch", dependencies=[WRITE], status_code=202, responses=responses(413))
def start_batch(launch_request: BatchLaunchRequest, tests: Tests) -> BatchLaunched:
    """Queues a run for each model, all in one new batch."""
    return tests.submit_batch(launch_request)


@router.get("/status/{run_id}", dependencies=[READ], responses=responses(404))
def run_status(run_id: str, database: Db) -> LiveStatus:
    """How far a run is."""
    return database.read(live.live_status, run_id)


@router.get("/results/{run_id}", dependencies=[READ], responses=responses(404, 409))
def run_results(run_id: str, database: Db) -> LiveResults:
    """How a run ended; 409 while it has not."""
    return database.read(live.live_results, run_id)


@router.get("/runs", dependencies=[READ], responses=responses())
def latest_runs(query: Annotated[LatestQuery, Query()], database: Db) -> list[RunSummary]:
    """The newest runs."""
    return database.read(runs.list_runs, RunQuery(limit=query.limit, status=query.status)).items


@router.get("/models", dependencies=[READ], responses=responses())
def runnable_models(tests: Tests) -> list[RunnableModel]:
    """The models of the suite."""
    return [RunnableModel.model_validate(model) for model in tests.suite.models]


@router.get("/hardware", dependencies=[READ], responses=responses())
def platforms(tests: Tests) -> list[RunnablePlatform]:
    """The platforms, as they are detected on this machine."""
    return [RunnablePlatform.model_validate(platform) for platform in tests.hardware()]


@router.get("/types", dependencies=[READ], responses=responses())
def test_types(tests: Tests) -> list[RunnableType]:
    """The test types of the suite."""
    return [RunnableType.model_validate(item) for item in tests.suite.types]


@router.post("/cancel/{run_id}", dependencies=[WRITE], responses=responses(404))
def cancel_run(run_id: str, tests: Tests) -> Cancelled:
    """Ends a queued or running run; when it answers true, all of its processes are gone."""
    return tests.cancel(run_id)


async def _existing(run_id: str, database: Db) -> str:
    # Asked before the stream begins: after that there is no status to answer with.
    await run_in_threadpool(database.read, live.snapshot, run_id)
    return run_id


@router.get(
    "/events/{run_id}", dependencies=[READ], responses=responses(404), response_class=EventSourceResponse
)
async def watch_run(
    run_id: Annotated[str, Depends(_existing)], watches: Watches
) -> AsyncIterator[LiveStatus]:
    """The status at once and at each change, as server-sent events, to the end of the run."""
    async for found in watches.follow(run_id):
        yield found.at(utcnow())
