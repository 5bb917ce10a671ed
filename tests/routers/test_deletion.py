"""Deletion over HTTP: all of a run and nothing else, in as many statements for ten thousand as for one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from tests.routers.helpers import B, add, ok, problem, rows, run

NOTHING = {
    "test_runs": 0, "test_run_results": 0, "test_run_steps": 0, "test_run_metrics": 0, "test_run_tags": 0,
    "test_run_batch": 0, "test_run_artifacts": 0,
}  # fmt: skip
EVERYTHING = {
    "test_runs": 1, "test_run_results": 1, "test_run_steps": 2, "test_run_metrics": 3, "test_run_tags": 4,
    "test_run_batch": 1, "test_run_artifacts": 2,
}  # fmt: skip


def document(run_id: str, batch_id: str = "b") -> dict[str, Any]:
    """A run with rows in every table, as `EVERYTHING` counts them."""
    return {
        "run_id": run_id,
        "model_name": "m",
        "batch_id": batch_id,
        "results": {"tests_passed": 1},
        "steps": [{"name": "s1", "status": "passed"}, {"name": "s2"}],
        "metrics": [{"name": "x", "value": 1}, {"name": "x", "value": 2}, {"name": "y", "value": 3}],
        "tags": dict.fromkeys("abcd", "v"),
        "artifacts": [{"path": "p1"}, {"path": "p2"}],
    }


def delete(client: TestClient, what: str, **parameters: bool) -> dict[str, Any]:
    return ok(client.delete(f"{B}/{what}", params=parameters))


def test_a_run_goes_with_all_of_its_rows(api: TestClient) -> None:
    ok(api.post(f"{B}/ingest", json=[document("gone"), document("stays"), document("gone2")]))
    before, neighbour = rows(api), run(api, "stays")
    told = datetime.now(UTC)
    answer = delete(api, "run/gone")
    assert set(answer) == {"status", "message", "timestamp", "deleted"}
    assert answer["status"] == "success"
    assert "'gone'" in answer["message"]
    assert told <= datetime.fromisoformat(answer["timestamp"]) <= datetime.now(UTC)
    assert answer["deleted"] == EVERYTHING
    assert rows(api) == {table: before[table] - EVERYTHING.get(table, 0) for table in before}
    assert run(api, "stays") == neighbour
    assert len(ok(api.get(f"{B}/run/stays/metrics"))) == 3
    for response in (
        api.get(f"{B}/run/gone"),
        api.get(f"{B}/run/gone/metrics"),
        api.delete(f"{B}/run/gone"),
        api.delete(f"{B}/run/gone?dry_run=true"),
    ):
        problem(response, 404)
    batch = ok(api.get(f"{B}/batch/b"))
    assert (batch["run_count"], batch["actual_run_count"]) == (3, 2)
    assert ok(api.get(f"{B}/check")) == []


def test_a_bare_run(api: TestClient) -> None:
    add(api)
    assert delete(api, "run/r")["deleted"] == {**NOTHING, "test_runs": 1}
    assert set(rows(api).values()) == {0}
    add(api)
    assert run(api)["batch_ids"] == []


def test_a_rehearsal_tells_the_same_and_changes_nothing(api: TestClient) -> None:
    ok(api.post(f"{B}/ingest", json=[document(f"r{n}") for n in range(3)]))
    before, details = rows(api), [run(api, f"r{n}") for n in range(3)]
    for what, parameters in (
        ("run/r0", {}),
        ("batch/b", {}),
        ("batch/b", {"delete_runs": True}),
    ):
        told = delete(api, what, dry_run=True, **parameters)
        assert told["status"] == "success"
        assert told["message"].startswith("Would")
        assert rows(api) == before
        assert [run(api, f"r{n}") for n in range(3)] == details
    assert delete(api, "run/r0", dry_run=False)["deleted"] == EVERYTHING
    told = delete(api, "batch/b", dry_run=True, delete_runs=True)
    done = delete(api, "batch/b", delete_runs=True)
    assert told["deleted"] == done["deleted"]
    assert done["deleted"] == {
        **{table: 2 * number for table, number in EVERYTHING.items()},
        "batch_test_runs": 1,
    }
    assert set(rows(api).values()) == {0}


def test_a_batch_goes_and_its_runs_stay(api: TestClient) -> None:
    ok(api.post(f"{B}/ingest", json=[document("r1"), document("r2"), document("other", "c")]))
    ok(api.post(f"{B}/batch/c/runs", json={"run_ids": ["r1"]}))
    before = rows(api)
    answer = delete(api, "batch/b")
    assert answer["deleted"] == {"test_run_batch": 2, "batch_test_runs": 1}
    assert rows(api) == {**before, "test_run_batch": 2, "batch_test_runs": 1}
    assert (run(api, "r1")["batch_ids"], run(api, "r2")["batch_ids"]) == (["c"], [])
    problem(api.get(f"{B}/batch/b"), 404)
    problem(api.delete(f"{B}/batch/b"), 404)
    problem(api.delete(f"{B}/batch/b?delete_runs=true&dry_run=true"), 404)


def test_a_batch_goes_with_its_runs(api: TestClient) -> None:
    ok(api.post(f"{B}/ingest", json=[document("shared"), document("own"), document("other", "c")]))
    ok(api.post(f"{B}/batch/c/runs", json={"run_ids": ["shared"]}))
    other = run(api, "other")
    answer = delete(api, "batch/b", delete_runs=True)
    doubled = {table: 2 * number for table, number in EVERYTHING.items()}
    assert answer["deleted"] == {**doubled, "test_run_batch": 3, "batch_test_runs": 1}
    assert rows(api) == {**EVERYTHING, "batch_test_runs": 1}
    assert run(api, "other") == other
    left = ok(api.get(f"{B}/batch/c"))
    assert (left["run_count"], left["actual_run_count"]) == (2, 1)
    assert ok(api.get(f"{B}/check")) == []


def test_an_empty_batch(api: TestClient) -> None:
    for parameters in ({}, {"delete_runs": True}):
        ok(api.post(f"{B}/batches", json={"batch_id": "b"}), 201)
        deleted = delete(api, "batch/b", **parameters)["deleted"]
        assert {table: number for table, number in deleted.items() if number} == {"batch_test_runs": 1}
    assert set(rows(api).values()) == {0}


def test_what_cannot_be_deleted(api: TestClient) -> None:
    ok(api.post(f"{B}/ingest", json=[document("r")]))
    before = rows(api)
    for run_id in ("nope", "R", "r ", "%25", "_", "' OR 1=1 --", "%00", "x" * 201):
        problem(api.delete(f"{B}/run/{run_id}"), 404)
        problem(api.delete(f"{B}/batch/{run_id}?delete_runs=true"), 404)
    problem(api.delete(f"{B}/run/r?dry_run=perhaps"), 422, "dry_run")
    problem(api.delete(f"{B}/run/r?dryrun=true"), 422, "dryrun")
    problem(api.delete(f"{B}/run/r?delete_runs=true"), 422, "delete_runs")
    problem(api.delete(f"{B}/batch/b?delete_run=true"), 422, "delete_run")
    assert rows(api) == before


@contextmanager
def statements(client: TestClient) -> Iterator[list[str]]:
    """The statements of requests meanwhile."""
    engine, seen = client.app.state.database.engine, []  # type: ignore[attr-defined]

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if threading.current_thread().name != "runner":  # it looks at its queue all the time
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_many_runs_take_no_more_statements(api: TestClient) -> None:
    needed = {}
    for size in (1, 30, 1500):
        ok(api.post(f"{B}/ingest", json=[document(f"r{n}") for n in range(size)]))
        with statements(api) as seen:
            told = delete(api, "batch/b", delete_runs=True, dry_run=True)
        rehearsed = len(seen)
        with statements(api) as seen:
            done = delete(api, "batch/b", delete_runs=True)
        needed[size] = (rehearsed, len(seen))
        assert told["deleted"] == done["deleted"]
        assert done["deleted"]["test_run_metrics"] == 3 * size
        assert set(rows(api).values()) == {0}
    assert len(set(needed.values())) == 1, needed
    assert max(needed[1]) <= 20


def test_a_deletion_meets_writers_and_readers(api: TestClient) -> None:
    numbers, names = count(), [f"r{n}" for n in range(12)]
    ok(api.post(f"{B}/ingest", json=[document(name) for name in names]))
    answers: list[tuple[str, int]] = []
    stop = threading.Event()

    def busy(kind: str) -> None:
        while not stop.is_set():
            n = next(numbers)
            name = names[n % len(names)]
            if kind == "read":
                response = api.get(f"{B}/run/{name}" if n % 2 else f"{B}/runs?batch_id=b")
            elif kind == "batch":
                response = api.get(f"{B}/batch/b" if n % 2 else f"{B}/performance")
            else:
                what, body = (
                    ("metrics", [{"name": "new", "value": n} for _ in range(1 + n % 40)]),
                    ("steps", [{"name": f"new{n}"}]),
                    ("artifacts", [{"path": f"new{n}"}]),
                )[n % 3]
                response = api.post(f"{B}/run/{name}/{what}", json=body)
            answers.append((kind, response.status_code))

    with ThreadPoolExecutor(4) as threads:
        workers = [threads.submit(busy, kind) for kind in ("write", "write", "read", "batch")]
        try:
            for name in names[:6]:
                delete(api, f"run/{name}")
            delete(api, "batch/b", delete_runs=True)
        finally:
            stop.set()
        for worker in workers:
            worker.result()
    # A writer that met the deletion again and again is told so; a reader never is.
    assert {status for kind, status in answers if kind == "write"} <= {200, 404, 409}
    assert {status for kind, status in answers if kind != "write"} <= {200, 404}
    assert set(rows(api).values()) == {0}
    assert ok(api.get(f"{B}/check")) == []


@pytest.mark.parametrize("endpoint", ["run/r", "batch/b?delete_runs=true"])
def test_two_deletions_at_once(api: TestClient, endpoint: str) -> None:
    for _ in range(3):
        ok(api.post(f"{B}/ingest", json=[document("r")]))
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _n: api.delete(f"{B}/{endpoint}").status_code, range(4)))
        assert sorted(found) == [200, 404, 404, 404]
        delete(api, "batch/b") if endpoint == "run/r" else None
        assert set(rows(api).values()) == {0}
