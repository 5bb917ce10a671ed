"""Whether the server lives, is ready, and what is broken in the database."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.errors import AppError, Unavailable
from app.routers.access import READ, Guarded, admits
from app.routers.deps import Db, Ready
from app.routers.problems import responses
from app.schemas.check import Finding
from app.services import check
from app.vocabulary import Scope

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
        None,
        description="What had been lost when the server was started to go on with what is left; only for "
        "those who may read.",
    )


@probes.get("/healthz")
async def healthz() -> Health:
    """The process answers; says nothing of the database."""
    return Health(status="ok")


@probes.get("/readyz", responses=responses(), response_model_exclude_none=True)
async def readyz(request: Request, ready: Ready) -> Readiness:
    """The database answers and is migrated; 503 says what is missing, to those who may read."""
    may_read = admits(request, Scope.READ)
    try:
        revision = await ready.revision()
    except AppError:
        if may_read:
            raise
        raise Unavailable("The server is not ready; ask with a token, and it says why.") from None
    lost = request.app.state.lost if may_read else None
    return Readiness(status="ready", database="ok", revision=revision, lost=lost)


@router.get("/api/test/db/check", dependencies=[READ], responses=responses())
def check_database(database: Db) -> list[Finding]:
    """Broken rows, such as children of a run that does not exist; normally none."""
    return database.read(check.find_broken)
