"""The API as its users meet it: over HTTP, on each engine.

`client` has an application and a database of its own. `api` shares one application per engine with other
tests and finds its tables empty: for the many small tests that need nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from app.models import Base
from tests.postgres import Databases


@pytest.fixture(scope="session")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The published description of the API, which is the same for every application."""
    return create_app(Settings(db_path=tmp_path_factory.mktemp("unused") / "never.duckdb")).openapi()


@contextmanager
def serving(settings: Settings, openapi: dict[str, Any]) -> Iterator[TestClient]:
    """A client of a running application; a fault of the server is an answer, not an exception."""
    app = create_app(settings)
    app.openapi_schema = openapi  # to derive it again would take longer than most tests
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(settings: Settings, openapi: dict[str, Any]) -> Iterator[TestClient]:
    """A client of an application on a fresh database."""
    with serving(settings, openapi) as client:
        yield client


@pytest.fixture
def api(engine_name: str, request: pytest.FixtureRequest) -> TestClient:
    """A client of the application that the tests of an engine share, on empty tables."""
    client: TestClient = request.getfixturevalue(f"_shared_{engine_name}")
    client.app.state.database.write(_empty)  # type: ignore[attr-defined]
    return client


@pytest.fixture(scope="session")
def _shared_duckdb(
    duckdb_template: Path, tmp_path_factory: pytest.TempPathFactory, openapi: dict[str, Any]
) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("shared")
    file = shutil.copy(duckdb_template, folder / "shared.duckdb")
    with serving(
        Settings(database_url=f"duckdb:///{file}", export_dir=folder / "exports"), openapi
    ) as client:
        yield client


@pytest.fixture(scope="session")
def _shared_postgresql(
    postgres_databases: Databases, tmp_path_factory: pytest.TempPathFactory, openapi: dict[str, Any]
) -> Iterator[TestClient]:
    exports = tmp_path_factory.mktemp("shared") / "exports"
    with (
        postgres_databases.migrated() as url,
        serving(Settings(database_url=url, export_dir=exports), openapi) as client,
    ):
        yield client


def _empty(session: Any) -> None:
    for table in reversed(Base.metadata.sorted_tables):
        session.execute(delete(table))
