"""What can be run, and requests that cannot."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.models import TestRun
from tests.marks import ON_DUCKDB
from tests.routers import test_events
from tests.routers.helpers import B, add, ids, ok, problem, rows
from tests.runner.conftest import PATIENCE, A, ended, processes, start, until, waiting_in
from tests.runner.suite import TESTS


@ON_DUCKDB
def test_what_can_be_run(tests: TestClient) -> None:
    assert ok(tests.get(f"{A}/models")) == [
        {"name": name, "type": "t", "modality": "m"} for name in ("alpha", "beta")
    ]
    types = {item["id"]: item for item in ok(tests.get(f"{A}/types"))}
    assert list(types) == list(TESTS)
    assert set(types["good"]) == {"id", "name", "description", "methods"}
    assert types["good"]["methods"] == ["test_good.py::test_metrics", "test_good.py::test_attached"]
    assert types["crash"]["methods"] == ["test_ends.py::test_crash"]
    platforms = {item["name"]: item for item in ok(tests.get(f"{A}/hardware"))}
    assert list(platforms) == ["cpu", "cuda", "rocm", "mps", "openvino", "qnn", "webnn", "webgpu"]
    assert platforms["cpu"]["available"] is True
    assert all(item["description"] and item["type"] for item in platforms.values())


@ON_DUCKDB
@pytest.mark.parametrize("path", ["run", "batch"])
def test_what_does_not_exist_is_listed(tests: TestClient, path: str) -> None:
    model = {"run": {"model_name": "gamma"}, "batch": {"models": ["alpha", "gamma"]}}[path]
    field = {"run": "model_name", "batch": "models[1]"}[path]
    body = {**model, "hardware": ["cpu", "abacus"], "test_type": "bad"}
    found = problem(tests.post(f"{A}/{path}", json=body), 422, field, "hardware", "test_type")
    told = {error["field"]: error["message"] for error in found["errors"]}
    assert told[field] == "there is no model 'gamma'; there are: alpha, beta"
    assert "cpu, cuda, rocm" in told["hardware"]
    assert "good, mixed" in told["test_type"]
    assert rows(tests)["test_runs"] == rows(tests)["batch_test_runs"] == 0


@ON_DUCKDB
def test_a_platform_that_is_not_there(tests: TestClient) -> None:
    missing = next(item for item in ok(tests.get(f"{A}/hardware")) if not item["available"])
    answer = tests.post(f"{A}/run", json={"model_name": "alpha", "hardware": missing["name"]})
    message = problem(answer, 422, "hardware")["errors"][-1]["message"]
    assert missing["description"] in message
    assert "available: cpu" in message


@ON_DUCKDB
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hardware": []}, "hardware"),
        ({"hardware": [1]}, "hardware"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 86_401}, "timeout"),
        ({"timeout": "NaN"}, "timeout"),
        ({"timeout": "Infinity"}, "timeout"),
        ({"timeout": "300"}, "timeout"),
        ({"model_name": None}, "model_name"),
        ({"model": "alpha"}, "model"),
        ({"tags": {"": "x"}}, "tags."),
        ({"tags": {"a": None}}, "tags.a"),
        ({"batch_id": "a b"}, "batch_id"),
        ({"save_results": "maybe"}, "save_results"),
    ],
)
def test_bad_requests(tests: TestClient, fields: dict[str, Any], field: str) -> None:
    answer = tests.post(f"{A}/run", json={"model_name": "alpha", "test_type": "good", **fields})
    named = [error["field"] for error in problem(answer, 422)["errors"]]
    assert any(name.startswith(field.rstrip(".")) for name in named), named
    assert rows(tests)["test_runs"] == 0


@ON_DUCKDB
@pytest.mark.parametrize("body", [{}, {"models": []}, {"models": "alpha"}, {"models": ["alpha"], "tag": {}}])
def test_bad_batches(tests: TestClient, body: dict[str, Any]) -> None:
    problem(tests.post(f"{A}/batch", json=body), 422)
    assert rows(tests)["batch_test_runs"] == 0


def test_unknown_runs(tests: TestClient) -> None:
    for path in ("status/nobody", "results/nobody", "events/nobody", "status/..%2Fx"):
        problem(tests.get(f"{A}/{path}"), 404)
    problem(tests.post(f"{A}/cancel/nobody"), 404)
    problem(tests.get(f"{A}/runs?limit=0"), 422, "limit")
    problem(tests.get(f"{A}/runs?state=running"), 422, "state")


def test_what_is_asked_for_is_what_is_stored(tests: TestClient) -> None:
    answer = tests.post(
        f"{A}/run",
        json={
            "model_name": "beta",
            "hardware": "cpu",
            "test_type": "good",
            "timeout": None,
            "tags": {"n": 1},
        },
    )
    body = answer.json()
    assert answer.status_code == 202
    assert set(body) == {"run_id", "status", "message", "started_at"}
    assert body["status"] == "initializing"
    found = ok(tests.get(f"{B}/run/{body['run_id']}"))
    assert (found["model_name"], found["hardware"], found["test_type"]) == ("beta", ["cpu"], "good")
    assert (found["timeout"], found["save_results"], found["tags"]) == (None, True, {"n": "1"})
    assert ended(tests, body["run_id"])["status"] == "completed"


def test_the_newest_runs_also_of_others(tests: TestClient) -> None:
    run_id = start(tests, "good")
    add(tests, "external", status="error")
    ended(tests, run_id)
    assert set(ids(tests.get(f"{A}/runs"))) == {run_id, "external"}
    assert ids(tests.get(f"{A}/runs?limit=1&status=completed")) == [run_id]
    assert ids(tests.get(f"{A}/runs?status=failed")) == ["external"]
    assert ok(tests.get(f"{A}/runs")) == ok(tests.get(f"{B}/runs"))


def test_status_and_results_of_runs_that_are_recorded_from_elsewhere(tests: TestClient) -> None:
    add(
        tests,
        "r",
        status="running",
        progress=0.25,
        current_step="Inference",
        started_at="2026-01-01T00:00:00Z",
    )
    status = ok(tests.get(f"{A}/status/r"))
    assert (status["progress"], status["current_step"]) == (0.25, "Inference")
    assert status["elapsed_time"] > 0
    assert status["estimated_remaining_time"] == pytest.approx(3 * status["elapsed_time"])
    problem(tests.get(f"{A}/results/r"), 409)
    ok(tests.post(f"{B}/run/r/complete", json={"tests_passed": 3}))
    results = ok(tests.get(f"{A}/results/r"))
    assert results["results"]["tests_passed"] == 3
    status = ok(tests.get(f"{A}/status/r"))
    assert (status["elapsed_time"], status["estimated_remaining_time"]) == (results["duration"], None)
    add(tests, "odd", status="completed", duration="NaN")
    assert ok(tests.get(f"{A}/status/odd"))["elapsed_time"] == "NaN"
    assert ok(tests.get(f"{A}/results/odd"))["results"] is None


OWN = {"model_name": "alpha", "test_type": "good", "creator": "testdb", "hardware": ["cpu"]}
"""A run as servers queue them."""


@pytest.mark.parametrize("status", ["initializing", "running"])
def test_a_run_of_the_server_comes_from_nobody_else(tests: TestClient, status: str) -> None:
    run_id = str(uuid.uuid4())
    document = {**OWN, "run_id": run_id, "status": status}
    lines, session = json.dumps(document), test_events.begin(run_id, creator="testdb")
    array = tests.post(f"{B}/ingest", json=[{**document, "status": "error"}, document])
    plain = {"headers": {"Content-Type": "application/x-ndjson"}}
    problem(array, 422, "[1].creator")
    problem(tests.post(f"{B}/runs", json={**document, "run_id": ".tokens"}), 422, "creator")
    problem(tests.put(f"{B}/run/{run_id}", json=document), 422, "creator")
    problem(tests.post(f"{B}/ingest", content=lines, **plain), 422, "[0].creator")  # type: ignore[arg-type]
    problem(test_events.send(tests, session, run_id=run_id), 422, "[0].creator")
    assert rows(tests)["test_runs"] == 0
    ended_runs = [{**document, "status": "completed"}]
    assert ok(tests.post(f"{B}/ingest", json=ended_runs))["runs"] == 1
    whole = test_events.lines(session, test_events.started("t"))
    assert ok(tests.post(f"{B}/import", content=whole))["runs"] == 1


def test_an_import_starts_nothing(tests: TestClient, tmp_path: Path) -> None:
    queued, live = str(uuid.uuid4()), str(uuid.uuid4())
    steps = [{"step_name": "a", "status": "passed"}, {"step_name": "b", "status": "running"}]
    runs = [
        {**OWN, "run_id": queued, "status": "initializing"},
        {**OWN, "run_id": live, "status": "running", "steps": steps, "completed_at": None},
        {**OWN, "run_id": ".retention.json", "hardware": [], "timeout": "NaN"},
        {**OWN, "run_id": "external", "status": "running", "creator": "ci"},
    ]
    over, going_on, unknown = "over", "going-on", "unknown"
    batches = [{"batch_id": name, "status": "running", "run_count": 2} for name in (over, going_on)]
    for run, batch_id in zip(runs, (over, over, unknown, going_on), strict=True):
        run["batch_ids"] = [batch_id] if run["run_id"] != queued else [over, going_on]
    export = {"format": "test-suite-db", "version": 1, "runs": runs, "batches": batches}
    answer = ok(tests.post(f"{B}/import", json=export))
    assert (answer["runs"], len(answer["warnings"])) == (4, 1)
    assert "3 runs" in answer["warnings"][0]
    assert ended(tests, start(tests, "good"))["status"] == "completed"
    for run_id in (queued, live, ".retention.json"):
        status = ok(tests.get(f"{A}/status/{run_id}"))
        assert (status["status"], status["error"]) == ("error", "not over when it was exported")
        assert not (tmp_path / "results" / run_id).exists()
    assert [step["status"] for step in ok(tests.get(f"{B}/run/{live}"))["steps"]] == ["passed", "error"]
    assert ok(tests.get(f"{A}/status/external"))["status"] == "running"
    for batch_id, status in {over: "error", going_on: "running", unknown: "error"}.items():
        batch = ok(tests.get(f"{B}/batch/{batch_id}"))
        assert (batch["status"], batch["completed_at"] is None) == (status, status == "running")
    assert ok(tests.get(f"{B}/check")) == []


def test_only_ids_that_a_server_makes_are_executed(tests: TestClient, tmp_path: Path) -> None:
    """Not even where a script has written others into the table."""
    add(tests, ".tokens")
    change = update(TestRun).values(creator="testdb", model_name="alpha", test_type="good", hardware=["cpu"])
    tests.app.state.database.write(Session.execute, change)  # type: ignore[attr-defined]
    assert ended(tests, start(tests, "good"))["status"] == "completed"
    assert ok(tests.get(f"{A}/status/.tokens"))["status"] == "initializing"
    assert not (tmp_path / "results" / ".tokens").is_dir()


def test_what_a_run_left_on_disk_goes_with_it(tests: TestClient, tmp_path: Path) -> None:
    results, outside = tmp_path / "results", tmp_path / "outside"
    batch = {"models": ["alpha", "beta"], "test_type": "good"}
    deleted, pruned = start(tests, "good"), start(tests, "good")
    together = tests.post(f"{A}/batch", json=batch).json()
    for run_id in (deleted, pruned, *together["run_ids"]):
        assert ended(tests, run_id)["status"] == "completed"
    linked = str(uuid.uuid4())
    outside.mkdir()
    (results / linked).symlink_to(outside)
    for run_id in (linked, "named"):
        (results / run_id).mkdir(exist_ok=True)
        (results / run_id / "file").touch()
        add(tests, run_id)
    kept = {linked, "named"}

    def left() -> set[str]:
        return {path.name for path in results.iterdir()} - kept

    assert left() == {deleted, pruned, *together["run_ids"]}
    ok(tests.delete(f"{B}/run/{deleted}?dry_run=true"))
    assert deleted in left()
    for run_id in (deleted, *kept):
        ok(tests.delete(f"{B}/run/{run_id}"))
    assert left() == {pruned, *together["run_ids"]}
    ok(tests.delete(f"{B}/batch/{together['batch_id']}"))
    assert left() == {pruned, *together["run_ids"]}
    ok(tests.post(f"{B}/batches", json={"batch_id": "b", "run_ids": together["run_ids"]}), 201)
    ok(tests.delete(f"{B}/batch/b?delete_runs=true"))
    assert left() == {pruned}
    while not ok(tests.post(f"{B}/prune", json={"older_than": "1s"}))["deleted"]["test_runs"]:
        time.sleep(0.1)
    assert left() == set()
    assert (outside / "file").exists()
    assert (results / "named" / "file").exists()


def test_a_run_that_is_deleted_while_it_is_under_way(tests: TestClient, tmp_path: Path) -> None:
    run_id = start(tests, "slow")
    until(tests, run_id, waiting_in("test_waits"))
    ok(tests.delete(f"{B}/run/{run_id}"))
    end = time.monotonic() + PATIENCE
    while (tmp_path / "results" / run_id).exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert processes(f"marker-{tmp_path}") == []
