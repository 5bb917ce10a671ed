"""Servers that sessions are recorded in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli.helpers import options_of
from tests.plugin.sessions import Stub
from tests.server import serving


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server that only pretends."""
    stub = Stub()
    server = stub.serve()
    yield stub
    stub.ended.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def recording(duckdb_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server."""
    folder = tmp_path_factory.mktemp("recording")
    file = shutil.copy(duckdb_template, folder / "runs.duckdb")
    with serving(folder, *options_of(f"duckdb:///{file}")) as server:
        yield server.url


@pytest.fixture
def api(recording: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"{recording}/api/test", timeout=60) as client:
        yield client
