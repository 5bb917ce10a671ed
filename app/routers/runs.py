"""Runs: reading, recording, deleting."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from app.routers.access import ADMIN, READ, WRITE, Guarded
from app.routers.deps import CREATED, LINKED, PAGED, Db, Turns, paged
from app.routers.problems import responses
from app.routers.uploads import media_type, received
from app.schemas.arrow import ARROW_STREAM
from app.schemas.common import MAX_ITEMS, Id, Tags
from app.schemas.documents import (
    ArtifactDocument,
    Completion,
    Ending,
    Results,
    RunDocument,
    RunPatch,
    StepDocument,
)
from app.schemas.points import reader_of_points
from app.schemas.runs import (
    Appended,
    Deleted,
    MetricPoint,
    MetricQuery,
    RunDetail,
    RunQuery,
    RunSummary,
    SearchRequest,
)
from app.services import deletion, documents, runs, search, tracking
from app.vocabulary import RunStatus

router = APIRouter(prefix="/api/test/db", tags=["runs"], route_class=Guarded)

_METRICS_BODY = {
    "requestBody": {
        "required": True,
        "description": "Points as a JSON array, or as an Arrow IPC stream with the columns `metric_name`, "
        "`value` and, if wanted, `unit` and `timestamp`. May be gzip-compressed.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_ITEMS,
                    "items": {"$ref": "#/components/schemas/MetricDocument"},
                }
            },
            ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("/runs", dependencies=[READ], responses=PAGED | responses())
def list_runs(
    query: Annotated[RunQuery, Query()], request: Request, response: Response, database: Db
) -> list[RunSummary]:
    """Runs, newest first; the header `Link` leads to the next page."""
    page = database.read(runs.list_runs, query)
    paged(request, response, page)
    return page.items


@router.post("/runs", dependencies=[WRITE], status_code=201, responses=CREATED | responses(413))
def create_run(document: RunDocument, response: Response, database: Db) -> RunDetail:
    """Records a run, with any of its parts."""
    detail = database.write(documents.create_run, document)
    response.headers["Location"] = f"/api/test/db/run/{detail.run_id}"
    return detail


@router.get("/run/{run_id}", dependencies=[READ], responses=responses(404))
def get_run(run_id: str, database: Db) -> RunDetail:
    """A run with everything it has."""
    return database.read(runs.get_run, run_id)


@router.put(
    "/run/{run_id}",
    dependencies=[WRITE],
    responses={201: {"model": RunDetail, **CREATED[201]}, **responses(413)},
)
def put_run(run_id: Id, document: RunDocument, response: Response, database: Db) -> RunDetail:
    """Makes the run this document; safe to send twice (201 for a new run, then 200)."""
    detail, created = database.write(documents.put_run, run_id, document)
    if created:
        response.status_code = 201
        response.headers["Location"] = f"/api/test/db/run/{run_id}"
    return detail


@router.patch("/run/{run_id}", dependencies=[WRITE], responses=responses(404, 413))
def update_run(run_id: str, patch: RunPatch, database: Db) -> RunDetail:
    """A live update; it is stored and its step recorded."""
    return database.write(tracking.update_run, run_id, patch)


@router.delete("/run/{run_id}", dependencies=[ADMIN], responses=responses(404))
def delete_run(run_id: str, database: Db, dry_run: bool = False) -> Deleted:
    """Removes a run and everything of it; with `dry_run` only says what would go."""
    return database.write(deletion.delete_run, run_id, dry_run=dry_run)


@router.post("/run/{run_id}/complete", dependencies=[WRITE], responses=responses(404, 413))
def complete_run(run_id: str, database: Db, completion: Completion | None = None) -> RunDetail:
    """Ends a run well, with its results; sent twice it changes nothing."""
    return database.write(tracking.complete_run, run_id, completion or Completion())


@router.post("/run/{run_id}/error", dependencies=[WRITE], responses=responses(404, 413))
def fail_run(run_id: str, database: Db, ending: Ending | None = None) -> RunDetail:
    """Ends a run with an error; sent twice it changes nothing."""
    return database.write(tracking.end_run, run_id, RunStatus.ERROR, ending)


@router.post("/run/{run_id}/cancel", dependencies=[WRITE], responses=responses(404, 413))
def cancel_run(run_id: str, database: Db, ending: Ending | None = None) -> RunDetail:
    """Ends a run as cancelled; sent twice it changes nothing."""
    return database.write(tracking.end_run, run_id, RunStatus.CANCELLED, ending)


Steps = Annotated[list[StepDocument], Field(min_length=1, max_length=MAX_ITEMS)]
Artifacts = Annotated[list[ArtifactDocument], Field(min_length=1, max_length=MAX_ITEMS)]


@router.post("/run/{run_id}/steps", dependencies=[WRITE], responses=responses(404, 413))
def add_steps(run_id: str, steps: Steps, database: Db) -> Appended:
    """Appends steps, or updates those whose names are known; all or none."""
    return database.write(tracking.add_steps, run_id, steps)


@router.get("/run/{run_id}/metrics", dependencies=[READ], responses=LINKED | responses(404))
def list_metrics(
    run_id: str,
    query: Annotated[MetricQuery, Query()],
    request: Request,
    response: Response,
    database: Db,
) -> list[MetricPoint]:
    """The whole series in the order it was recorded; the header `Link` leads to the next page."""
    page = database.read(runs.list_metrics, run_id, query)
    paged(request, response, page)
    return page.items


@router.post(
    "/run/{run_id}/metrics", dependencies=[WRITE], responses=responses(404, 413), openapi_extra=_METRICS_BODY
)
async def add_metrics(run_id: str, request: Request, database: Db, turns: Turns) -> Appended:
    """Appends points to the series; all or none."""
    read = reader_of_points(media_type(request))
    async with received(request) as stream, turns.turn():
        return await run_in_threadpool(lambda: database.write(tracking.add_metrics, run_id, read(stream)))


@router.post("/run/{run_id}/artifacts", dependencies=[WRITE], responses=responses(404, 413))
def add_artifacts(run_id: str, artifacts: Artifacts, database: Db) -> Appended:
    """Records artifacts, or updates those whose paths are known; all or none."""
    return database.write(tracking.add_artifacts, run_id, artifacts)


@router.put("/run/{run_id}/tags", dependencies=[WRITE], responses=responses(404, 413))
def set_tags(
    run_id: str,
    tags: Annotated[Tags, Body(examples=[{"branch": "main", "no longer wanted": None}])],
    database: Db,
) -> RunDetail:
    """Merges tags into those the run has; null removes one."""
    return database.write(tracking.set_tags, run_id, tags)


@router.put("/run/{run_id}/results", dependencies=[WRITE], responses=responses(404, 413))
def set_results(
    run_id: str,
    results: Annotated[Results, Body(examples=[{"tests_passed": 2, "tests_failed": 1, "tests_skipped": 0}])],
    database: Db,
) -> RunDetail:
    """Replaces the result object."""
    return database.write(tracking.set_results, run_id, results)


@router.post("/search", dependencies=[READ], responses=PAGED | responses(413))
def search_runs(
    search_request: SearchRequest,
    request: Request,
    response: Response,
    database: Db,
    cursor: str | None = None,
    count: bool = False,
) -> list[RunSummary]:
    """Runs in which every word occurs; the next page is the same body sent to the URL in `Link`."""
    page = database.read(search.search_runs, search_request, cursor=cursor, count=count)
    paged(request, response, page)
    return page.items
