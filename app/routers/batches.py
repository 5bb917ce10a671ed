"""Batches: reading, recording, deleting."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.routers.access import ADMIN, READ, WRITE, Guarded
from app.routers.deps import CREATED, PAGED, Db, paged
from app.routers.problems import responses
from app.schemas.batches import BatchDetail, BatchQuery, BatchSummary
from app.schemas.documents import BatchDocument, BatchRuns
from app.schemas.runs import Deleted
from app.services import batches, deletion

router = APIRouter(prefix="/api/test/db", tags=["batches"], route_class=Guarded)


@router.get("/batches", dependencies=[READ], responses=PAGED | responses())
def list_batches(
    query: Annotated[BatchQuery, Query()], request: Request, response: Response, database: Db
) -> list[BatchSummary]:
    """Batches, newest first; the header `Link` leads to the next page."""
    page = database.read(batches.list_batches, query)
    paged(request, response, page)
    return page.items


@router.post("/batches", dependencies=[WRITE], status_code=201, responses=CREATED | responses(404, 413))
def create_batch(document: BatchDocument, response: Response, database: Db) -> BatchDetail:
    """Makes a batch, with runs that exist already."""
    detail = database.write(batches.create_batch, document)
    response.headers["Location"] = f"/api/test/db/batch/{detail.batch_id}"
    return detail


@router.get("/batch/{batch_id}", dependencies=[READ], responses=responses(404))
def get_batch(batch_id: str, database: Db) -> BatchDetail:
    """A batch with its runs."""
    return database.read(batches.get_batch, batch_id)


@router.delete("/batch/{batch_id}", dependencies=[ADMIN], responses=responses(404))
def delete_batch(batch_id: str, database: Db, delete_runs: bool = False, dry_run: bool = False) -> Deleted:
    """Removes a batch; its runs stay unless `delete_runs` is given."""
    return database.write(deletion.delete_batch, batch_id, delete_runs=delete_runs, dry_run=dry_run)


@router.post("/batch/{batch_id}/runs", dependencies=[WRITE], responses=responses(404, 413))
def add_runs(batch_id: str, body: BatchRuns, database: Db) -> BatchDetail:
    """Adds runs to a batch; an unknown run adds none."""
    return database.write(batches.add_runs, batch_id, body.run_ids)


@router.post("/batch/{batch_id}/complete", dependencies=[WRITE], responses=responses(404))
def complete_batch(batch_id: str, database: Db) -> BatchDetail:
    """Derives status, end and duration from the runs as they are now."""
    return database.write(batches.complete_batch, batch_id)
