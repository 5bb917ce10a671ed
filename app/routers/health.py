"""Whether the server lives, is ready, and what is broken in the database."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.db.migrate import require_current
from app.routers.access import READ, Guarded
from app.routers.deps import Db
from app.routers.problems import responses
from app.schemas.check import Finding
from app.services import check

router = APIRouter(tags=["operations"], route_class=Guarded)
probes = APIRouter(tags=["operations"])
"""What anybody may ask."""


class Health(BaseModel):
    status: str


class Readiness(BaseModel):
    status: str
    database: str
    revision: str
    lost: str | None = Field(
        None, description="What had been lost when the server was started to go on with what is left."
    )


@probes.get("/healthz")
async def healthz() -> Health:
    """The process answers; says nothing of the database."""
    return Health(status="ok")


@probes.get("/readyz", responses=responses(), response_model_exclude_none=True)
def readyz(request: Request, database: Db) -> Readiness:
    """The database answers and is migrated; 503 says what is missing."""
    database.ping()
    return Readiness(
        status="ready",
        database="ok",
        revision=require_current(database.engine),
        lost=request.app.state.lost,
    )


@router.get("/api/test/db/check", dependencies=[READ], responses=responses())
def check_database(database: Db) -> list[Finding]:
    """Broken rows, such as children of a run that does not exist; normally none."""
    return database.read(check.find_broken)
