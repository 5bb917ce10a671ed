"""What routers ask for: the database, what works in the background, a page's headers."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Response

from app.db import Database
from app.errors import FieldError, Invalid
from app.routers.writers import Writers
from app.runner.runner import Runner
from app.runner.watching import Watchers
from app.services.export_jobs import ExportJobs
from app.services.metrics import Requests
from app.services.paging import Page
from app.services.query import Queries
from app.services.readiness import Readiness
from app.services.retention import Retention


async def _database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def _export_jobs(request: Request) -> ExportJobs:
    return cast(ExportJobs, request.app.state.export_jobs)


async def _readiness(request: Request) -> Readiness:
    return cast(Readiness, request.app.state.readiness)


async def _requests(request: Request) -> Requests:
    return cast(Requests, request.app.state.requests)


async def _retention(request: Request) -> Retention:
    return cast(Retention, request.app.state.retention)


async def _runner(request: Request) -> Runner:
    return cast(Runner, request.app.state.runner)


async def _watchers(request: Request) -> Watchers:
    return cast(Watchers, request.app.state.watchers)


async def _writers(request: Request) -> Writers:
    return cast(Writers, request.app.state.writers)


async def _queries(request: Request) -> Queries:
    return cast(Queries, request.app.state.queries)


Db = Annotated[Database, Depends(_database)]
Sql = Annotated[Queries, Depends(_queries)]
Exports = Annotated[ExportJobs, Depends(_export_jobs)]
Counted = Annotated[Requests, Depends(_requests)]
Ready = Annotated[Readiness, Depends(_readiness)]
Retained = Annotated[Retention, Depends(_retention)]
Tests = Annotated[Runner, Depends(_runner)]
Turns = Annotated[Writers, Depends(_writers)]
Watches = Annotated[Watchers, Depends(_watchers)]


async def only_known_parameters(request: Request) -> None:
    """Refuses a query parameter that the endpoint does not have, or has once: none is silently left out."""
    if not request.query_params:
        return
    route = request.scope["route"]
    paths: dict[str, Any] = request.app.openapi()["paths"]
    operation = paths.get(route.path_format, {}).get(request.method.lower(), {})
    known = {
        parameter["name"]: parameter["schema"]
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }
    allowed = ", ".join(sorted(known)) or "none"
    found = []
    for name, count in Counter(name for name, _value in request.query_params.multi_items()).items():
        if name not in known:
            found.append(FieldError(name, f"is not a parameter of this endpoint; it takes: {allowed}"))
        elif count > 1 and not _repeatable(known[name]):
            found.append(FieldError(name, "stands more than once; it takes one value"))
    if found:
        raise Invalid(found)


def _repeatable(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "array" or any(map(_repeatable, schema.get("anyOf", ())))


_LINK = {
    "description": 'The next page: `<URL>; rel="next"`. The last page has none.',
    "schema": {"type": "string"},
}
_TOTAL = {
    "description": "How many there are on all pages; only with `count=true`.",
    "schema": {"type": "integer"},
}
LINKED: dict[int | str, dict[str, Any]] = {200: {"headers": {"Link": _LINK}}}
PAGED: dict[int | str, dict[str, Any]] = {200: {"headers": {"Link": _LINK, "X-Total-Count": _TOTAL}}}
CREATED: dict[int | str, dict[str, Any]] = {
    201: {"headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}}
}


def paged(request: Request, response: Response, page: Page[Any]) -> None:
    """Sets `Link` to the next page, if there is one, and `X-Total-Count` if it was asked for."""
    if page.next_cursor is not None:
        url = request.url.include_query_params(cursor=page.next_cursor)
        response.headers["Link"] = f'<{url}>; rel="next"'
    if page.total is not None:
        response.headers["X-Total-Count"] = str(page.total)
