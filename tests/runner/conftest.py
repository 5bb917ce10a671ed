"""Applications and servers with a suite of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.config import Settings
from app.runner import execution
from tests.routers.conftest import openapi, serving
from tests.runner.suite import write_suite

__all__ = ["openapi"]

A = "/api/test"
PATIENCE = 60
TERMINAL = {"completed", "error", "timeout", "cancelled"}


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suites") / "suite")


@pytest.fixture
def tests(
    url: str,
    suite: Path,
    tmp_path: Path,
    openapi: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TestClient]:
    """A client of an application on a fresh database, which runs the suite."""
    monkeypatch.setattr(execution, "GRACE", 0.5)
    monkeypatch.setenv("MARKER_OF_THE_TEST", f"marker-{tmp_path}")
    settings = Settings(
        database_url=url, suites=suite, results_dir=tmp_path / "results", export_dir=tmp_path / "exports"
    )
    with serving(settings, openapi) as client:
        yield client


def start(client: Any, test_type: str, **fields: Any) -> str:
    """Starts a run and returns its id."""
    answer = client.post(f"{A}/run", json={"model_name": "alpha", "test_type": test_type, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def until(client: Any, run_id: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The run's status as soon as it is as wanted."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        status: dict[str, Any] = client.get(f"{A}/status/{run_id}").json()
        if wanted(status):
            return status
        time.sleep(0.05)
    raise AssertionError(f"The run did not get there: {status}")


def ended(client: Any, run_id: str) -> dict[str, Any]:
    """The run's status at its end."""
    return until(client, run_id, lambda status: status["status"] in TERMINAL)


def waiting_in(test: str) -> Callable[[dict[str, Any]], bool]:
    return lambda status: str(status["current_step"]).endswith(test)


def processes(marker: str) -> list[int]:
    """The processes with this text in their command lines or environments."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                told = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            except OSError:
                continue
            if marker.encode() in told:
                found.append(int(path.name))
    return found
