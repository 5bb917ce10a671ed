"""A tour of the API: every endpoint once or more, in ways that send different statements."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.testclient import TestClient

DB = "/api/test/db"
PATIENCE = 60
NOW = 1_790_000_000.0
JUNIT = b'<testsuite name="s" timestamp="2026-02-03T04:05:06Z"><testcase name="a" time="1"/></testsuite>'
MANY = 30
"""More than go into a plain INSERT."""


class Tour:
    """Requests that must succeed, and which of the API's they were."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.asked: set[tuple[str, str]] = set()

    def ask(self, method: str, path: str, *ids: str, **request: Any) -> Any:
        """The answer to a request; each `{…}` of the path is replaced by an id."""
        self.asked.add((method, path))
        parts = path.split("{")
        address = parts[0] + "".join(
            id_ + part.partition("}")[2] for id_, part in zip(ids, parts[1:], strict=True)
        )
        answer = self.client.request(method, address, **request)
        assert answer.status_code < 300, f"{method} {address}: {answer.text}"
        return answer.json() if answer.headers["content-type"] == "application/json" else answer.text

    def until(self, path: str, id_: str, *ends: str) -> None:
        """Asks until the status is one of the ends."""
        end = time.monotonic() + PATIENCE
        while (status := self.ask("GET", path, id_)["status"]) not in ends:
            assert time.monotonic() < end, status
            time.sleep(0.05)


def document(run_id: str, size: int = 1, **fields: Any) -> dict[str, Any]:
    """A run with `size` rows of each kind."""
    return {
        "run_id": run_id,
        "model_name": "m",
        "hardware": ["cpu", "cuda"],
        "status": "completed",
        "duration": 1.5,
        "results": {"test_details": [{"method": "t", "status": "passed", "duration_ms": 1.0}]},
        "tags": {f"tag{n}": "x" for n in range(size)},
        "steps": [{"step_name": f"step{n}", "status": "passed"} for n in range(size)],
        "metrics": [{"metric_name": "cpu.latency", "value": n, "unit": "ms"} for n in range(size)],
        "artifacts": [{"artifact_path": f"/x/{n}"} for n in range(size)],
        "batch_id": "night",
        **fields,
    }


def take(client: TestClient) -> set[tuple[str, str]]:
    """Makes the requests; returns the method and path of each, as the API describes them."""
    tour = Tour(client)
    for path in ("/healthz", "/readyz"):
        tour.ask("GET", path)
    _record(tour)
    _read(tour)
    _run(tour)
    _move(tour)
    _remove(tour)
    return tour.asked


def _record(tour: Tour) -> None:
    run = f"{DB}/run/{{run_id}}"
    for run_id in ("well", "badly", "not"):
        tour.ask("POST", f"{DB}/runs", json=document(run_id, status="running"))
    tour.ask("PATCH", run, "well", json={"current_step": "a", "progress": 0.1, "status": "running"})
    tour.ask("PATCH", run, "well", json={"current_step": "b", "progress": 0.5})
    for size in (1, MANY):
        part = document("well", size)
        tour.ask("POST", f"{run}/steps", "well", json=part["steps"])
        tour.ask("POST", f"{run}/metrics", "well", json=part["metrics"])
        tour.ask("POST", f"{run}/artifacts", "well", json=part["artifacts"])
        tour.ask("PUT", f"{run}/tags", "well", json={**part["tags"], "gone": None})
    tour.ask("PUT", f"{run}/results", "well", json={"tests_passed": 1})
    end = {"performance_metrics": {"cpu": {"latency": 1.0}}, "result_file": "/x/result.json"}
    tour.ask("POST", f"{run}/complete", "well", json={"results": {"tests_passed": 2}, **end})
    tour.ask("POST", f"{run}/error", "badly", json={"error": "why"})
    tour.ask("POST", f"{run}/cancel", "not")
    for size in (1, MANY, MANY):  # the last time every run is there already
        tour.ask("PUT", run, "put", json=document("put", size))
        runs = [document(f"many{n}", 2) for n in range(size)]
        tour.ask("POST", f"{DB}/ingest", json=runs)
    head = {"event": "session", "format": "testdb-spool", "version": 1, "run_id": "s", "model_name": "m"}
    events = [
        {**head, "time": NOW, "hardware": ["cpu"], "batch_id": "night"},
        {"event": "started", "time": NOW, "test": "t"},
        {"event": "metric", "time": NOW, "name": "x", "value": 1.0},
        {"event": "test", "time": NOW + 1, "test": "t", "status": "passed", "started": NOW, "duration": 1.0},
        {"event": "artifact", "time": NOW + 1, "path": "/x/plot"},
        {"event": "finished", "time": NOW + 2, "status": "completed"},
    ]
    spool = "\n".join(map(json.dumps, events)).encode()
    tour.ask("POST", f"{run}/events", "s", content=spool)
    for content in (spool, JUNIT):
        tour.ask("POST", f"{DB}/import", content=content)
    tour.ask("POST", f"{DB}/batches", json={"batch_id": "made", "run_ids": ["well", "badly"]})
    tour.ask("POST", f"{DB}/batch/{{batch_id}}/runs", "made", json={"run_ids": ["put", "not"]})
    tour.ask("POST", f"{DB}/batch/{{batch_id}}/complete", "made")


def _read(tour: Tour) -> None:
    given: dict[str, Any]
    filters: dict[str, Any] = {
        "status": "completed", "model_name": "m", "test_type": "basic", "hardware": "cpu",
        "batch_id": "night", "tag": ["tag0", "tag0=x"], "since": "2020-01-01T00:00:00Z",
        "until": "2100-01-01T00:00:00Z",
    }  # fmt: skip
    for given in ({}, {"limit": 2}, {**filters, "count": True}):
        tour.ask("GET", f"{DB}/runs", params=given)
    for given in ({}, {"status": "running", "since": filters["since"], "count": True}):
        tour.ask("GET", f"{DB}/batches", params=given)
    page = tour.client.get(f"{DB}/runs", params={"limit": 2})
    assert tour.client.get(page.links["next"]["url"]).status_code == 200
    tour.ask("GET", f"{DB}/run/{{run_id}}", "well")
    for given in ({"limit": 2}, {"name": "cpu.latency"}):
        tour.ask("GET", f"{DB}/run/{{run_id}}/metrics", "well", params=given)
    tour.ask("GET", f"{DB}/batch/{{batch_id}}", "night")
    for query in ("tag1", "many1 tag1", "m cpu basic completed x tag0"):
        tour.ask("POST", f"{DB}/search", json={"query": query, **filters})
        assert tour.ask("POST", f"{DB}/search", json={"query": query}), query
    for given in ({}, {"days": 9, "model_name": "m"}):
        tour.ask("GET", f"{DB}/performance", params=given)
        tour.ask("GET", f"{DB}/hardware/stats", params=given)
    tour.ask("GET", f"{DB}/models/stats", params={"days": 9, "hardware": "cpu", "test_type": "basic"})
    assert tour.ask("GET", f"{DB}/check") == []


def _run(tour: Tour) -> None:
    """Runs of the suite, of which one is cancelled."""
    for what in ("models", "hardware", "types"):
        tour.ask("GET", f"/api/test/{what}")
    status = "/api/test/status/{run_id}"
    ends = ("completed", "error", "cancelled")
    run_id = tour.ask("POST", "/api/test/run", json={"model_name": "alpha", "test_type": "good"})["run_id"]
    batch = tour.ask("POST", "/api/test/batch", json={"models": ["alpha"], "test_type": "slow"})
    (slow,) = batch["run_ids"]
    tour.ask("GET", "/api/test/runs")
    tour.until(status, slow, "running")
    tour.ask("POST", "/api/test/cancel/{run_id}", slow)
    for id_ in (run_id, slow):
        tour.until(status, id_, *ends)
        tour.ask("GET", "/api/test/results/{run_id}", id_)
    tour.ask("GET", "/api/test/events/{run_id}", run_id)
    with tour.client.websocket_connect(f"/api/test/ws/{run_id}") as socket:
        assert socket.receive_json()["status"] == "completed"


def _move(tour: Tour) -> None:
    joined = "SELECT count(*) AS n FROM test_runs JOIN test_run_metrics USING (run_id) WHERE status = ?"
    tour.ask("POST", f"{DB}/query", json={"sql": joined, "params": ["completed"]})
    export = tour.ask("POST", f"{DB}/export", json={})
    tour.until(f"{DB}/exports/{{export_id}}", export["export_id"], "completed")
    exported = tour.ask("GET", f"{DB}/exports/{{export_id}}/file", export["export_id"])
    tour.ask("POST", f"{DB}/import", content=json.dumps(exported))


def _remove(tour: Tour) -> None:
    for dry_run in (True, False):
        tour.ask("DELETE", f"{DB}/run/{{run_id}}", "put", params={"dry_run": dry_run})
    tour.ask("DELETE", f"{DB}/batch/{{batch_id}}", "made")
    tour.ask("DELETE", f"{DB}/batch/{{batch_id}}", "night", params={"delete_runs": True})
    old = {"model_name": "m", "status": "completed", "started_at": "2001-01-01T00:00:00Z", "batch_id": "old"}
    tour.ask("POST", f"{DB}/runs", json=old)
    for dry_run in (True, False):
        pruned = {"older_than": "3650d", "keep_tags": ["tag0", "tag0=x"], "dry_run": dry_run}
        assert tour.ask("POST", f"{DB}/prune", json=pruned)["deleted"]["test_runs"] == 1
    for path in (f"{DB}/retention", "/metrics"):
        tour.ask("GET", path)
    assert tour.ask("GET", f"{DB}/check") == []
