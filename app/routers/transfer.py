"""Data in and out in bulk: ingest, session events, import, export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse

from app.routers.access import ADMIN, WRITE, Guarded
from app.routers.deps import Db, Exports, Turns
from app.routers.problems import responses
from app.routers.uploads import media_type, received
from app.schemas.arrow import ARROW_STREAM
from app.schemas.common import MAX_ITEMS, Id
from app.schemas.runs import Appended, Stored
from app.schemas.transfer import ExportRequest, ExportStarted, ExportState, Imported, ImportOptions
from app.services import backup, documents, importing, ingest, recording

router = APIRouter(prefix="/api/test/db", tags=["transfer"], route_class=Guarded)

_INGEST_BODY = {
    "requestBody": {
        "required": True,
        "description": "RunDocuments as a JSON array, one a line, or rows of an Arrow IPC stream. May be "
        "gzip-compressed.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "array",
                    "maxItems": MAX_ITEMS,
                    "items": {"$ref": "#/components/schemas/RunDocument"},
                }
            },
            "application/x-ndjson": {"schema": {"type": "string"}},
            ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_EVENTS_BODY = {
    "requestBody": {
        "required": True,
        "description": "Events of the session in their order, one JSON object a line, as the pytest plugin "
        "sends them. May be gzip-compressed.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}
_IMPORT_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file as the body, or as the `file` of a form. May be gzip-compressed.",
        "content": {
            "application/xml": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@router.post("/ingest", dependencies=[WRITE], responses=responses(413), openapi_extra=_INGEST_BODY)
async def ingest_runs(request: Request, database: Db, turns: Turns) -> Stored:
    """Stores many runs in one transaction; ids that exist are replaced, one bad item stores nothing."""
    async with received(request) as stream, turns.turn():
        return await run_in_threadpool(
            lambda: database.write(documents.store_runs, ingest.read_runs(stream, media_type(request)))
        )


@router.post(
    "/run/{run_id}/events",
    dependencies=[WRITE],
    responses=responses(404, 413),
    openapi_extra=_EVENTS_BODY,
)
async def record_events(run_id: Id, request: Request, database: Db, turns: Turns) -> Appended:
    """Stores a part of a test session's stream; the `session` event makes the run, `finished` ends it."""
    async with received(request) as stream, turns.turn():
        return await run_in_threadpool(database.write, recording.record_stream, run_id, stream)


@router.post("/import", dependencies=[WRITE], responses=responses(413), openapi_extra=_IMPORT_BODY)
async def import_file(
    request: Request, options: Annotated[ImportOptions, Query()], database: Db, turns: Turns
) -> Imported:
    """Imports a JUnit XML file, an export file or a spool file in one transaction."""
    async with received(request) as stream, turns.turn():
        return await run_in_threadpool(database.write, importing.import_file, stream, options)


@router.post("/export", dependencies=[ADMIN], status_code=202, responses=responses(413))
def start_export(export_jobs: Exports, export_request: ExportRequest | None = None) -> ExportStarted:
    """Begins an export into the export directory, in the background."""
    return export_jobs.start(export_request or ExportRequest())


@router.get("/exports/{export_id}", dependencies=[ADMIN], responses=responses(404))
def export_state(export_id: str, export_jobs: Exports) -> ExportState:
    """How far an export is."""
    return export_jobs.state(export_id)


@router.get(
    "/exports/{export_id}/file",
    dependencies=[ADMIN],
    responses=responses(404, 409),
    response_class=FileResponse,
)
def export_file(export_id: str, export_jobs: Exports) -> FileResponse:
    """The exported file."""
    path = export_jobs.file(export_id)
    return FileResponse(path, media_type="application/json", filename=path.name)


@router.post("/backup", dependencies=[ADMIN], responses=responses(), response_class=StreamingResponse)
def backup_database(request: Request, database: Db, with_results: bool = False) -> StreamingResponse:
    """A backup of an embedded database at one moment, as a zip file; it can be written meanwhile."""
    settings = request.app.state.settings
    opened = ExitStack()
    stream = opened.enter_context(
        backup.backup_file(
            database,
            settings.export_dir,
            settings.results_dir if with_results else None,
            private=[settings.tokens_path],
        )
    )

    def content() -> Iterator[bytes]:
        with opened:
            while chunk := stream.read(1 << 20):
                yield chunk

    return StreamingResponse(content(), media_type="application/zip")
