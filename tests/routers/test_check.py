"""The check of the database over HTTP: silent on what is sound, and it finds each kind of broken row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.orm import DeclarativeBase
from starlette.testclient import TestClient

from app.models import (
    BatchTestRun,
    TestRun,
    TestRunArtifact,
    TestRunBatch,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
)
from tests.marks import ON_DUCKDB
from tests.routers import history
from tests.routers.helpers import B, ok, problem


@pytest.fixture
def sound(api: TestClient) -> TestClient:
    """A database with a history in which nothing is broken."""
    history.store(api, history.generate(40, datetime.now(UTC)))
    steps = [{"name": "s", "status": "passed"}, {"name": "t", "status": "running"}]
    run = {"run_id": "r", "model_name": "m", "batch_id": "b", "steps": steps, "artifacts": [{"path": "p"}]}
    ok(api.post(f"{B}/ingest", json=[{**run, "tags": {"a": "b"}, "results": {"tests_passed": 1}}]))
    ok(api.post(f"{B}/batch/weekly/complete"))
    return api


def store(client: TestClient, model: type[DeclarativeBase], *rows: dict[str, Any]) -> None:
    """Rows past the API, as a script might write them."""
    with client.app.state.database.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(insert(model), list(rows))


def change(client: TestClient, model: type[DeclarativeBase], key: str, **values: Any) -> None:
    column = model.__table__.primary_key.columns[0]  # type: ignore[attr-defined]
    with client.app.state.database.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(update(model).where(column == key).values(values))


def found(client: TestClient) -> list[dict[str, Any]]:
    """The findings: which table, how many rows, which keys."""
    findings = ok(client.get(f"{B}/check"))
    assert all(set(item) == {"table", "problem", "rows", "examples"} for item in findings)
    assert all(item.pop("problem") for item in findings)
    return findings


def test_a_sound_database(api: TestClient, sound: TestClient) -> None:
    assert ok(sound.get(f"{B}/check")) == []
    problem(sound.get(f"{B}/check?fix=true"), 422, "fix")


def test_no_client_makes_rows_that_are_broken(api: TestClient) -> None:
    """Clocks disagree, and somebody may know the end of a run before its status."""
    end = {"started_at": "2026-01-01T00:00:00Z", "completed_at": "2025-01-01T00:00:00Z"}
    runs = [{"model_name": "m", "status": status, **end} for status in ("completed", "running")]
    ok(api.post(f"{B}/ingest", json=runs))
    assert ok(api.get(f"{B}/check")) == []


def test_an_empty_database(api: TestClient) -> None:
    assert ok(api.get(f"{B}/check")) == []


@pytest.mark.parametrize(
    ("model", "key", "values"),
    [
        (TestRun, "r", {"status": "finished"}),
        (TestRun, "r", {"status": "Completed"}),
        (TestRun, "r", {"status": ""}),
        (TestRun, "r", {"progress": 1.01}),
        (TestRun, "r", {"progress": -0.01}),
        (TestRun, "r", {"progress": float("nan")}),
        (BatchTestRun, "b", {"status": "done"}),
    ],
)
def test_a_row_that_breaks_a_promise(
    sound: TestClient, model: type[DeclarativeBase], key: str, values: dict[str, Any]
) -> None:
    change(sound, model, key, **values)
    assert found(sound) == [{"table": model.__tablename__, "rows": 1, "examples": [key]}]


def test_steps_of_an_unknown_status(sound: TestClient) -> None:
    change(sound, TestRunStep, "r", status="ok")
    assert found(sound) == [{"table": "test_run_steps", "rows": 2, "examples": ["r"]}]


def test_some_examples_of_many(sound: TestClient) -> None:
    store(sound, TestRun, *({"run_id": f"x{n}", "model_name": "m", "status": "x"} for n in range(30)))
    assert found(sound) == [{"table": "test_runs", "rows": 30, "examples": ["x0", "x1", "x10", "x11", "x12"]}]


def test_several_kinds_at_once(sound: TestClient) -> None:
    change(sound, TestRun, "r", status="x", progress=2.0)
    change(sound, BatchTestRun, "b", status="x")
    assert {item["table"] for item in found(sound)} == {"test_runs", "batch_test_runs"}
    assert len(found(sound)) == 3


CHILDREN = [
    (TestRunResult, {"result_data": {}}),
    (TestRunStep, {"step_name": "s"}),
    (TestRunMetric, {"id": 1, "metric_name": "x", "metric_value": 1.0}),
    (TestRunTag, {"tag_name": "t"}),
    (TestRunArtifact, {"artifact_path": "p"}),
    (TestRunBatch, {"batch_id": "b"}),
]


@ON_DUCKDB  # foreign keys forbid it on the other
@pytest.mark.parametrize(("model", "values"), CHILDREN)
def test_rows_of_no_run(sound: TestClient, model: type[DeclarativeBase], values: dict[str, Any]) -> None:
    store(sound, model, {"run_id": "gone", **values}, {"run_id": "away", **values})
    assert found(sound) == [{"table": model.__tablename__, "rows": 2, "examples": ["away", "gone"]}]


@ON_DUCKDB
def test_a_membership_in_no_batch(sound: TestClient) -> None:
    store(sound, TestRunBatch, {"run_id": "r", "batch_id": "gone"})
    assert found(sound) == [{"table": "test_run_batch", "rows": 1, "examples": ["gone"]}]
    assert ok(sound.get(f"{B}/run/r"))["batch_ids"] == ["b"]


@ON_DUCKDB  # the other has a physical key
def test_two_points_of_one_id(sound: TestClient) -> None:
    point = {"run_id": "r", "id": 7, "metric_name": "x", "metric_value": 1.0}
    store(sound, TestRunMetric, point, point, point, {**point, "id": 8})
    assert found(sound) == [{"table": "test_run_metrics", "rows": 1, "examples": ["r"]}]


def test_unknown_words_break_neither_readers_nor_writers(sound: TestClient) -> None:
    change(sound, TestRun, "r", status="x", progress=float("nan"))
    change(sound, TestRunStep, "r", status="x")
    change(sound, BatchTestRun, "b", status="x")
    for url in READ:
        ok(sound.get(f"{B}/{url}"))
    assert ok(sound.post(f"{B}/run/r/steps", json=[{"name": "s", "progress": 0.5}]))["stored"] == 1
    assert ok(sound.post(f"{B}/batch/b/runs", json={"run_ids": ["run-0001"]}))["actual_run_count"] == 2
    # The run is not known to be over.
    assert ok(sound.post(f"{B}/batch/b/complete"))["status"] == "running"
    assert ok(sound.post(f"{B}/run/r/complete", json={}))["status"] == "completed"
    assert [item["table"] for item in found(sound)] == ["test_run_steps"]


@ON_DUCKDB
def test_orphans_break_no_reader(sound: TestClient) -> None:
    before = [ok(sound.get(f"{B}/{url}")) for url in READ]
    for model, values in CHILDREN:
        store(sound, model, {"run_id": "gone", **values})
    store(sound, TestRunBatch, {"run_id": "r", "batch_id": "gone"})
    assert [ok(sound.get(f"{B}/{url}")) for url in READ] == before


READ = ("runs?limit=1000", "batches", "batch/b", "run/r", "models/stats", "hardware/stats")
