"""SQL of the caller's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from app.errors import NotAcceptable
from app.routers.access import READ, Guarded
from app.routers.deps import Sql
from app.routers.problems import responses
from app.schemas.query import SqlAnswer, SqlQuery
from app.services.query import as_arrow, as_csv, as_json

router = APIRouter(prefix="/api/test/db", tags=["statistics"], route_class=Guarded)

_FORMATS: dict[str, Callable[[SqlAnswer], bytes]] = {
    "application/json": as_json,
    "text/csv": as_csv,
    "application/vnd.apache.arrow.stream": as_arrow,
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string"}} for kind in list(_FORMATS)[1:]}}
}


@router.post(
    "/query", dependencies=[READ], response_model=SqlAnswer, responses={**responses(406, 413), **_CONTENT}
)
def query(query: SqlQuery, request: Request, queries: Sql) -> Response:
    """Runs one SELECT; `Accept` chooses JSON, CSV or an Arrow stream."""
    kind = _accepted(", ".join(request.headers.getlist("accept")))

    def render(answer: SqlAnswer) -> Response:
        headers = {"X-Truncated": str(answer.truncated).lower()}
        return Response(_FORMATS[kind](answer), media_type=kind, headers=headers)

    return queries.run(query, render)


def _accepted(accept: str) -> str:
    """The format that the client likes best, JSON where it does not care. Raises NotAcceptable."""
    wishes: list[tuple[str, float]] = []
    for part in (accept or "*/*").split(","):
        kind, *options = (piece.strip().lower() for piece in part.split(";"))
        weight = next((option[2:] for option in options if option.startswith("q=")), "1")
        wishes.append((kind, float(weight) if weight.replace(".", "", 1).isdigit() else 0.0))
    for wanted, liking in sorted(wishes, key=lambda wish: -wish[1]):
        for format in _FORMATS if liking > 0 else ():
            if wanted in (format, "*/*", f"{format.partition('/')[0]}/*"):
                return format
    raise NotAcceptable(f"Accept one of {', '.join(_FORMATS)}.")
