"""Batches over HTTP: membership, the status that follows from the runs, sums, pages."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.services.documents import CHUNK
from tests.routers.helpers import B, add, every, ids, ok, problem, rows, run

SUMMARY = {
    "batch_id", "description", "run_count", "started_at", "completed_at", "duration", "status", "creator",
    "created_at", "actual_run_count", "completed_runs", "failed_runs", "cancelled_runs",
    "total_tests_passed", "total_tests_failed", "total_tests_skipped",
}  # fmt: skip
MEMBER = {
    "run_id", "model_name", "hardware", "status", "started_at", "completed_at", "duration", "tests_passed",
    "tests_failed", "tests_skipped",
}  # fmt: skip
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z")


def make(client: TestClient, batch_id: str = "b", **fields: Any) -> dict[str, Any]:
    """Makes a batch and returns its detail."""
    return ok(client.post(f"{B}/batches", json={"batch_id": batch_id, **fields}), 201)


def batch(client: TestClient, batch_id: str = "b") -> dict[str, Any]:
    return ok(client.get(f"{B}/batch/{batch_id}"))


def link(client: TestClient, batch_id: str, *run_ids: str) -> Any:
    return client.post(f"{B}/batch/{batch_id}/runs", json={"run_ids": list(run_ids)})


def complete(client: TestClient, batch_id: str = "b") -> dict[str, Any]:
    return ok(client.post(f"{B}/batch/{batch_id}/complete"))


def instant(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def test_a_batch_needs_nothing(api: TestClient) -> None:
    before = datetime.now(UTC)
    response = api.post(f"{B}/batches", json={})
    made = ok(response, 201)
    assert response.headers["location"] == f"{B}/batch/{made['batch_id']}"
    assert str(uuid.UUID(made["batch_id"])) == made["batch_id"]
    assert set(made) == SUMMARY | {"runs"}
    assert before <= instant(made["started_at"]) <= datetime.now(UTC)
    assert before <= instant(made["created_at"]) <= datetime.now(UTC)
    nothing = dict.fromkeys(("description", "completed_at", "duration", "creator"))
    counts = {name: 0 for name in SUMMARY if name.endswith(("_runs", "_count")) or "total" in name}
    started = {name: made[name] for name in ("batch_id", "started_at", "created_at")}
    assert made == {**nothing, **counts, **started, "status": "initializing", "runs": []}
    assert batch(api, made["batch_id"]) == made
    (listed,) = ok(api.get(f"{B}/batches"))
    assert listed == {name: made[name] for name in SUMMARY}


def test_a_batch_is_made_with_runs(api: TestClient) -> None:
    for n in (1, 3, 2):
        add(
            api, f"r{n}", hardware=["cpu", "cuda"], started_at=at(n), status="completed", duration=n * 60,
            results={"tests_passed": n, "tests_failed": 10 * n, "tests_skipped": 100 * n},
        )  # fmt: skip
    add(api, "r4", started_at=at(2), hardware="qnn")
    made = make(
        api, "night:2026.01-01_x", description="é\nx", creator="ci", run_ids=["r1", "r4", "r3", "r2", "r1"]
    )
    assert (made["batch_id"], made["description"], made["creator"]) == ("night:2026.01-01_x", "é\nx", "ci")
    assert (made["run_count"], made["actual_run_count"], made["status"]) == (4, 4, "running")
    assert (made["completed_runs"], made["failed_runs"], made["cancelled_runs"]) == (3, 0, 0)
    assert (made["total_tests_passed"], made["total_tests_failed"]) == (6, 60)
    assert made["total_tests_skipped"] == 600
    assert [member["run_id"] for member in made["runs"]] == ["r3", "r2", "r4", "r1"]
    assert all(set(member) == MEMBER for member in made["runs"])
    assert made["runs"][0] == {
        "run_id": "r3", "model_name": "m", "hardware": ["cpu", "cuda"], "status": "completed",
        "started_at": at(3), "completed_at": at(3.05), "duration": 180.0,
        "tests_passed": 3, "tests_failed": 30, "tests_skipped": 300,
    }  # fmt: skip
    without_results = made["runs"][2]
    assert [without_results[f"tests_{name}"] for name in ("passed", "failed", "skipped")] == [0, 0, 0]
    assert batch(api, "night:2026.01-01_x") == made


def test_an_id_that_exists_is_a_conflict(api: TestClient) -> None:
    add(api)
    make(api, description="first")
    body = problem(api.post(f"{B}/batches", json={"batch_id": "b", "run_ids": ["r"]}), 409)
    assert "'b'" in body["detail"]
    assert batch(api)["description"] == "first"
    assert rows(api)["test_run_batch"] == 0


def test_an_unknown_run_links_nothing(api: TestClient) -> None:
    add(api, "r1")
    add(api, "r2")
    body = problem(api.post(f"{B}/batches", json={"batch_id": "b", "run_ids": ["r1", "nope", "r2"]}), 404)
    assert "'nope'" in body["detail"]
    assert rows(api) | {"test_runs": 2} == dict.fromkeys(rows(api), 0) | {"test_runs": 2}
    made = make(api, run_ids=["r1"])
    body = problem(link(api, "b", "r2", "nope", "nope2"), 404)
    assert "'nope'" in body["detail"]
    assert batch(api) == made
    assert run(api, "r2")["batch_ids"] == []


def test_an_unknown_batch_is_404(api: TestClient) -> None:
    add(api)
    for batch_id in ("nope", "x" * 201, "a b", "'; drop table batch_test_runs", "%00", "%C3%A9"):
        for response in (
            api.get(f"{B}/batch/{batch_id}"),
            link(api, batch_id, "r"),
            api.post(f"{B}/batch/{batch_id}/complete"),
            api.delete(f"{B}/batch/{batch_id}"),
        ):
            problem(response, 404)
    assert rows(api)["test_run_batch"] == rows(api)["batch_test_runs"] == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"batch_id": ""}, "batch_id"),
        ({"batch_id": "x" * 201}, "batch_id"),
        ({"batch_id": ".."}, "batch_id"),
        ({"batch_id": "a/b"}, "batch_id"),
        ({"batch_id": "a\n"}, "batch_id"),
        ({"batch_id": 7}, "batch_id"),
        ({"description": 7}, "description"),
        ({"description": "a\x00b"}, "description"),
        ({"run_ids": "r"}, "run_ids"),
        ({"run_ids": ["ok", "not ok"]}, "run_ids[1]"),
        ({"run_ids": ["r"] * 100_001}, "run_ids"),
        ({"runs": ["r"]}, "runs"),
        ({"status": "completed"}, "status"),
    ],
)
def test_a_bad_batch_is_refused(api: TestClient, body: dict[str, Any], field: str) -> None:
    problem(api.post(f"{B}/batches", json=body), 422, field)
    assert rows(api)["batch_test_runs"] == 0


def test_bad_links_are_refused(api: TestClient) -> None:
    make(api)
    problem(link(api, "b"), 422, "run_ids")
    problem(api.post(f"{B}/batch/b/runs", json={}), 422, "run_ids")
    problem(api.post(f"{B}/batch/b/runs", json={"run_ids": ["r"], "x": 1}), 422, "x")
    problem(api.get(f"{B}/batches?state=running"), 422, "state")
    problem(api.get(f"{B}/batches?status=failed"), 422, "status")


def test_linking_twice_is_linking_once(api: TestClient) -> None:
    for n in range(3):
        add(api, f"r{n}")
    make(api, run_ids=["r0"])
    first = ok(link(api, "b", "r1", "r0", "r1"))
    assert (first["run_count"], first["actual_run_count"], len(first["runs"])) == (2, 2, 2)
    assert ok(link(api, "b", "r1")) == first
    assert ok(link(api, "b", "r2", "r1"))["run_count"] == 3
    assert rows(api)["test_run_batch"] == 3


def test_more_runs_than_a_list_of_literals_takes(api: TestClient) -> None:
    names = [f"r{n:04}" for n in range(2500)]
    started = [{"run_id": name, "model_name": "m", "started_at": at(0)} for name in names]
    ok(api.post(f"{B}/ingest", json=started))
    made = make(api, run_ids=names)
    assert (made["run_count"], made["actual_run_count"]) == (2500, 2500)
    assert [member["run_id"] for member in made["runs"]] == names
    assert ok(link(api, "b", *names[::-1]))["run_count"] == 2500


ENDS = ("completed", "error", "timeout", "cancelled")
LIVE = ("initializing", "running")


def expected(statuses: tuple[str, ...]) -> str:
    if not statuses:
        return "error"
    if any(status in LIVE for status in statuses):
        return "running"
    if len(set(statuses)) == 1 and statuses[0] in ("completed", "cancelled"):
        return statuses[0]
    return "partial" if "completed" in statuses else "error"


def test_the_status_follows_from_the_runs(api: TestClient) -> None:
    cases = {
        "-".join(statuses) or "none": statuses
        for size in range(7)
        for statuses in combinations(ENDS + LIVE, size)
    }
    make(api, "none")
    runs = [
        {"model_name": "m", "batch_id": name, "status": status, "started_at": at(n), "duration": 3600}
        for name, statuses in cases.items()
        for n, status in enumerate(statuses)
    ]
    ok(api.post(f"{B}/ingest", json=runs))
    before = {item["batch_id"]: item for item in ok(api.get(f"{B}/batches?limit=1000"))}
    after = {name: complete(api, name) for name in cases}
    for name, statuses in cases.items():
        done = after[name]
        assert done["status"] == expected(statuses), statuses
        assert done["completed_runs"] == ("completed" in statuses)
        assert done["failed_runs"] == ("error" in statuses) + ("timeout" in statuses)
        assert done["cancelled_runs"] == ("cancelled" in statuses)
        if expected(statuses) == "running":
            assert done["completed_at"] is done["duration"] is None
        elif statuses:
            assert (done["completed_at"], done["duration"]) == (at(len(statuses)), 3600 * len(statuses))
        unchanged = SUMMARY - {"status", "completed_at", "duration"}
        assert {key: done[key] for key in unchanged} == {key: before[name][key] for key in unchanged}
    done = after["none"]
    assert done["duration"] == (instant(done["completed_at"]) - instant(done["started_at"])).total_seconds()
    assert done["duration"] >= 0
    stored = {item["batch_id"]: item for item in ok(api.get(f"{B}/batches?limit=1000"))}
    assert stored == {name: {key: done[key] for key in SUMMARY} for name, done in after.items()}


def test_a_batch_lasts_until_its_last_run_ended(api: TestClient) -> None:
    for n in (2, 0, 1):
        add(api, f"r{n}", batch_id="b", status="completed", started_at=at(n), duration=3 * 3600 - n)
    done = complete(api)
    assert (done["started_at"], done["completed_at"]) == (at(2), at(5 - 2 / 3600))
    assert done["duration"] == 3 * 3600 - 2
    assert complete(api) == done


def test_a_completed_batch_goes_on_when_a_run_joins(api: TestClient) -> None:
    add(api, "r1", status="completed", duration=1)
    add(api, "r2", status="running")
    make(api, run_ids=["r1"])
    assert complete(api)["status"] == "completed"
    again = ok(link(api, "b", "r2"))
    assert (again["status"], again["completed_at"], again["duration"]) == ("running", None, None)
    ok(api.post(f"{B}/run/r2/error", json={"error": "x"}))
    assert complete(api)["status"] == "partial"


def test_a_live_batch_ends_after_its_runs(api: TestClient) -> None:
    make(api)
    add(api, "r1", batch_id="b")
    add(api, "r2", batch_id="b", status="running")
    assert complete(api)["status"] == "running"
    ok(api.post(f"{B}/run/r1/complete", json={"tests_passed": 3}))
    ok(api.post(f"{B}/run/r2/cancel"))
    done = complete(api)
    assert (done["status"], done["completed_runs"], done["cancelled_runs"]) == ("partial", 1, 1)
    assert done["total_tests_passed"] == 3
    assert done["completed_at"] == max(run(api, name)["completed_at"] for name in ("r1", "r2"))


def test_a_shared_run_counts_in_each_batch_and_stands_once_in_lists(api: TestClient) -> None:
    results = {"tests_passed": 7, "tests_failed": 5, "tests_skipped": 3}
    add(api, "shared", status="completed", results=results, started_at=at(5))
    add(api, "own", status="error", results=results, started_at=at(4))
    make(api, "b1", run_ids=["shared", "own"])
    make(api, "b2", run_ids=["shared"])
    sums = {name: (batch(api, name)["completed_runs"], batch(api, name)["total_tests_passed"])
            for name in ("b1", "b2")}  # fmt: skip
    assert sums == {"b1": (1, 14), "b2": (1, 7)}
    assert ids(api.get(f"{B}/runs")) == ["shared", "own"]
    assert ids(api.get(f"{B}/runs?batch_id=b1")) == ["shared", "own"]
    assert ids(api.get(f"{B}/runs?batch_id=b2")) == ["shared"]
    assert api.get(f"{B}/runs?count=true").headers["x-total-count"] == "2"
    assert ids(api.post(f"{B}/search", json={"query": "m"})) == ["shared", "own"]


def test_a_run_names_its_newest_batch_first(api: TestClient) -> None:
    for name, hours in (("z", 1), ("a", 3), ("m", 2), ("k", 3)):
        # A batch that a run makes starts with that run.
        add(api, f"first-{name}", batch_id=name, started_at=at(hours))
    add(api, "r")
    for name in ("m", "a", "z", "k"):
        ok(link(api, name, "r"))
    assert (run(api)["batch_id"], run(api)["batch_ids"]) == ("a", ["a", "k", "m", "z"])
    (summary,) = [item for item in ok(api.get(f"{B}/runs")) if item["run_id"] == "r"]
    assert (summary["batch_id"], summary["batch_ids"]) == ("a", ["a", "k", "m", "z"])
    add(api, "alone")
    assert (run(api, "alone")["batch_id"], run(api, "alone")["batch_ids"]) == (None, [])


def test_a_deleted_run_leaves_the_count_of_those_that_were(api: TestClient) -> None:
    for n in range(3):
        add(api, f"r{n}", status="completed", results={"tests_passed": 1})
    make(api, run_ids=["r0", "r1", "r2"])
    ok(api.delete(f"{B}/run/r1"))
    left = batch(api)
    assert (left["run_count"], left["actual_run_count"], left["total_tests_passed"]) == (3, 2, 2)
    assert [member["run_id"] for member in left["runs"]] == ["r2", "r0"]
    (listed,) = ok(api.get(f"{B}/batches"))
    assert (listed["run_count"], listed["actual_run_count"]) == (3, 2)


def test_a_run_document_makes_its_batch(api: TestClient) -> None:
    add(api, "r1", batch_id="made", started_at=at(1))
    made = batch(api, "made")
    assert (made["run_count"], made["status"], made["started_at"]) == (1, "running", at(1))
    add(api, "r2", batch_id="made", started_at=at(2))
    document = {"model_name": "m", "batch_id": "made", "started_at": at(2)}
    assert api.put(f"{B}/run/r2", json=document).status_code == 200
    assert batch(api, "made")["run_count"] == 2
    assert run(api, "r2")["batch_ids"] == ["made"]
    # A run that is replaced stays where others have put it.
    assert api.put(f"{B}/run/r2", json={"model_name": "m", "batch_id": "other"}).status_code == 200
    assert set(run(api, "r2")["batch_ids"]) == {"made", "other"}
    several = [{"model_name": "m", "batch_id": "i", "started_at": at(n)} for n in (3, 1, 2)]
    ok(api.post(f"{B}/ingest", json=several))
    assert (batch(api, "i")["run_count"], batch(api, "i")["started_at"]) == (3, at(1))
    problem(api.post(f"{B}/runs", json={"model_name": "m", "batch_id": "a b"}), 422, "batch_id")


def seed(client: TestClient) -> list[str]:
    """Thirty batches, some of one start; their ids, newest first."""
    names = [f"b{n:02}" for n in range(30)]
    documents = [
        {"model_name": "m", "batch_id": name, "started_at": at(n // 3), "status": ENDS[n % 4]}
        for n, name in enumerate(names)
    ]
    ok(client.post(f"{B}/ingest", json=documents))
    for name in names[::2]:
        complete(client, name)
    return sorted(names, key=lambda name: (-(int(name[1:]) // 3), name))


def test_a_batch_of_many_documents_starts_with_the_first_of_its_runs(api: TestClient) -> None:
    newest_first = [
        {
            "model_name": "m",
            "batch_id": "b",
            "status": "completed",
            "started_at": time.isoformat(),
            "duration": 60,
        }
        for time in (START + timedelta(minutes=number) for number in reversed(range(CHUNK + 2)))
    ]
    ok(api.post(f"{B}/ingest", json=newest_first))
    batch = ok(api.post(f"{B}/batch/b/complete"))
    assert batch["started_at"] == "2026-01-01T00:00:00Z"
    assert (batch["run_count"], batch["duration"]) == (CHUNK + 2, (CHUNK + 2) * 60)


def test_pages_of_batches(api: TestClient) -> None:
    newest = seed(api)
    for limit in (1, 7, 29, 30, 31, 1000):
        pages = every(api, f"{B}/batches?limit={limit}")
        assert [item["batch_id"] for page in pages for item in page] == newest
        assert [len(page) for page in pages] == [min(limit, 30 - start) for start in range(0, 30, limit)]
        assert all(item["actual_run_count"] == 1 for page in pages for item in page)


def test_a_new_batch_shifts_no_page(api: TestClient) -> None:
    newest = seed(api)
    response = api.get(f"{B}/batches?limit=10&status=running")
    add(api, "late", batch_id="late", started_at=at(1000))
    add(api, "early", batch_id="early", started_at=at(-1000))
    rest = every(api, response.links["next"]["url"])
    seen = [item["batch_id"] for item in [*response.json(), *(item for page in rest for item in page)]]
    assert seen == [name for name in newest if int(name[1:]) % 2] + ["early"]


def test_filters_of_batches(api: TestClient) -> None:
    newest = seed(api)

    def listed(query: str) -> list[str]:
        return [item["batch_id"] for item in ok(api.get(f"{B}/batches?{query}"))]

    assert listed("") == newest
    assert set(listed("status=running")) == {f"b{n:02}" for n in range(1, 30, 2)}
    assert set(listed("status=completed")) == {f"b{n:02}" for n in range(0, 30, 4)}
    assert set(listed("status=error")) == {f"b{n:02}" for n in range(2, 30, 4)}
    assert listed("status=cancelled") == listed("status=partial") == listed("status=initializing") == []
    assert listed(f"since={at(9)}") == ["b27", "b28", "b29"]
    assert listed(f"until={at(1)}") == ["b00", "b01", "b02"]
    assert listed(f"since={at(4)}&until={at(5)}&status=running") == ["b13"]
    assert listed("since=2026-01-01T11:00:00 02:00&limit=1000") == ["b27", "b28", "b29"]
    response = api.get(f"{B}/batches?count=true&limit=4&since={at(4)}")
    assert response.headers["x-total-count"] == "18"
    assert len(response.json()) == 4
    last = api.get(response.links["next"]["url"])
    assert last.headers["x-total-count"] == "18"
    assert "x-total-count" not in api.get(f"{B}/batches").headers


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=x", "since=x", "count=perhaps", "status=", "page=2"]
)
def test_a_bad_query_of_batches(api: TestClient, query: str) -> None:
    problem(api.get(f"{B}/batches?{query}"), 422, query.partition("=")[0])


def test_no_batches(api: TestClient) -> None:
    response = api.get(f"{B}/batches?count=true")
    assert (ok(response), response.headers["x-total-count"]) == ([], "0")
    assert "link" not in response.headers


def test_writers_of_one_batch_meet(api: TestClient) -> None:
    names = [f"r{n}" for n in range(12)]
    for name in names:
        add(api, name)
    with ThreadPoolExecutor(6) as threads:
        made = list(
            threads.map(lambda _n: api.post(f"{B}/batches", json={"batch_id": "b"}).status_code, range(6))
        )
        linked = list(
            threads.map(lambda n: link(api, "b", names[n % 12], names[(n + 1) % 12]).status_code, range(24))
        )
        added = list(
            threads.map(
                lambda n: api.post(f"{B}/runs", json={"model_name": "m", "batch_id": "n"}).status_code,
                range(12),
            )
        )
    assert sorted(made) == [201] + [409] * 5
    assert set(linked) == {200}
    assert set(added) == {201}
    assert (batch(api)["run_count"], batch(api)["actual_run_count"]) == (12, 12)
    assert (batch(api, "n")["run_count"], batch(api, "n")["actual_run_count"]) == (12, 12)
