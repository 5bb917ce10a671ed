"""The application: `create_app(settings)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from fastapi_swagger import patch_fastapi

from app import __version__
from app.config import Settings
from app.db.opening import open_database
from app.middleware import MOST_ANSWERED, Answers, BodyLimit, Places, RequestLog, SameSite
from app.routers import (
    batches,
    health,
    metrics,
    problems,
    query,
    retention,
    runs,
    sockets,
    stats,
    testing,
    transfer,
)
from app.routers.deps import only_known_parameters
from app.routers.uploads import Held
from app.routers.writers import Writers
from app.runner.runner import Runner
from app.runner.suites import BUILTIN, load_suite
from app.runner.watching import Watchers
from app.services.export_jobs import ExportJobs
from app.services.metrics import Requests
from app.services.query import Queries
from app.services.readiness import Readiness
from app.services.retention import Retention
from app.services.tokens import Access, TokenFile

DESCRIPTION = """One place for the history of test runs: record them as they happen, ask about them later.

Times are ISO 8601 in UTC, durations are seconds. Lists are newest first; the header `Link` leads to the next
page. Errors are `application/problem+json`."""


def create_app(
    settings: Settings | None = None,
    *,
    lost: str | None = None,
    on_fatal: Callable[[str], object] | None = None,
) -> FastAPI:
    """An application on the database of the settings.

    `lost` says what the database has lost, for those who ask whether it is ready; `on_fatal` is called with
    a reason when it answers nothing more until the process starts anew.

    At its start an embedded file is made or migrated; a server's database must be migrated already. Raises
    MigrationError or Unavailable then, and SuiteError at once for a suite that cannot be used.
    """
    settings = settings or Settings()
    suite = load_suite(settings.suites or BUILTIN)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = await run_in_threadpool(
            open_database, settings.sqlalchemy_url, write_timeout=settings.write_timeout
        )
        if on_fatal is not None:
            database.stop = on_fatal
        app.state.database = database
        app.state.export_jobs = ExportJobs(database, settings.export_dir, private=[settings.tokens_path])
        app.state.queries = Queries(database, settings)
        app.state.readiness = Readiness(database)
        app.state.watchers = Watchers(database)
        app.state.writers = Writers(queue=settings.max_requests // 2, patience=settings.write_timeout)
        app.state.runner = Runner(database, suite, settings.results_dir, max_parallel=settings.max_parallel)
        app.state.retention = Retention(
            database,
            settings.results_dir,
            retention=settings.retention,
            keep_tags=settings.retention_keep_tags,
            every=settings.retention_every,
        )
        await run_in_threadpool(app.state.runner.start)
        app.state.retention.start()
        try:
            yield
        finally:
            await run_in_threadpool(app.state.retention.close)
            app.state.watchers.close()
            await run_in_threadpool(app.state.runner.close)
            await run_in_threadpool(app.state.export_jobs.close)
            await run_in_threadpool(database.close)

    app = FastAPI(
        title="Test Suite Database",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    patch_fastapi(app)  # /docs from files of its own: it works where there is no network
    app.state.settings = settings
    always = not settings.loopback_only and not settings.insecure
    app.state.access = Access(TokenFile(settings.tokens_path), always=always)
    app.state.lost = lost
    problems.install(app)
    app.add_middleware(BodyLimit, limit=settings.max_body_mb << 20, patience=settings.request_timeout)
    app.add_middleware(Answers, limit=MOST_ANSWERED)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Link", "Location", "X-Total-Count", "X-Request-ID"],
        )
    app.add_middleware(Places, limit=settings.max_requests)
    app.add_middleware(
        SameSite, hosts=[settings.host, *settings.allowed_hosts], origins=settings.allowed_origins
    )
    app.state.held = Held()
    app.state.requests = Requests()
    app.add_middleware(RequestLog, requests=app.state.requests)
    for module in (runs, batches, stats, query, transfer, retention, testing, health, metrics):
        app.include_router(module.router, dependencies=[Depends(only_known_parameters)])
    app.include_router(health.probes, dependencies=[Depends(only_known_parameters)])
    app.include_router(sockets.router)
    return app
