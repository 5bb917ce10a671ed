"""Pruning old runs, asked for and as the server does it by itself."""

from __future__ import annotations

from fastapi import APIRouter

from app.routers.access import ADMIN, READ, Guarded
from app.routers.deps import Retained
from app.routers.problems import responses
from app.schemas.retention import PruneRequest, RetentionState
from app.schemas.runs import Deleted

router = APIRouter(prefix="/api/test/db", tags=["operations"], route_class=Guarded)


@router.post("/prune", dependencies=[ADMIN], responses=responses(413))
def prune_runs(prune_request: PruneRequest, retention: Retained) -> Deleted:
    """Removes runs that ended and are old, in portions, and the batches that are empty by it."""
    return retention.prune(prune_request)


@router.get("/retention", dependencies=[READ], responses=responses())
def retention_state(retention: Retained) -> RetentionState:
    """What the server prunes by itself, and the last time it did."""
    return retention.state()
