"""Following a run while it is live: updates, ends, steps, metrics, artifacts, tags, results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from tests.factories import TEXTS
from tests.marks import ON_DUCKDB
from tests.routers.helpers import B, add, ok, problem, rows, run

TERMINAL = ["completed", "error", "timeout", "cancelled"]
JSON = {"content-type": "application/json"}
LAST_STEP = {"completed": "Completed", "error": "Error", "timeout": "Timeout", "cancelled": "Cancelled"}


def patch(client: TestClient, **fields: Any) -> Any:
    return ok(client.patch(f"{B}/run/r", json=fields))


def steps(detail: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["step_name"], step["status"]) for step in detail["steps"]]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_an_update_is_stored_and_its_step_recorded(api: TestClient) -> None:
    add(api)
    detail = patch(api, status="running", progress=0.25, current_step="Load")
    assert (detail["status"], detail["progress"], detail["current_step"]) == ("running", 0.25, "Load")
    (step,) = detail["steps"]
    assert (step["step_name"], step["status"], step["progress"]) == ("Load", "running", 0.25)
    assert (step["completed_at"], step["duration"], step["error"]) == (None, None, None)
    assert detail == run(api)
    detail = patch(api, progress=0.5)
    assert (detail["status"], detail["progress"], detail["current_step"]) == ("running", 0.5, "Load")
    assert detail["steps"][0]["progress"] == 0.5
    detail = patch(api, current_step="Infer", progress=1)
    assert steps(detail) == [("Load", "completed"), ("Infer", "running")]
    load, infer = detail["steps"]
    assert load["completed_at"] >= load["started_at"]
    assert load["duration"] == (at(load["completed_at"]) - at(load["started_at"])).total_seconds()
    assert load["progress"] == 0.5
    assert infer["progress"] == 1.0
    detail = patch(api, error="half of it failed")
    assert (detail["error"], detail["status"], detail["completed_at"]) == (
        "half of it failed",
        "running",
        None,
    )
    assert detail == run(api)


def test_a_step_that_is_entered_again_has_not_ended(api: TestClient) -> None:
    add(api)
    for name in ("A", "B", "A"):
        detail = patch(api, current_step=name)
    assert steps(detail) == [("A", "running"), ("B", "completed")]
    assert (detail["steps"][0]["completed_at"], detail["steps"][0]["duration"]) == (None, None)


def test_an_update_of_a_run_without_a_step_records_none(api: TestClient) -> None:
    for n, current_step in enumerate([None, ""]):
        add(api, f"r{n}", current_step=current_step)
        detail = ok(api.patch(f"{B}/run/r{n}", json={"status": "running", "progress": 0.5}))
        assert (detail["status"], detail["progress"], detail["steps"]) == ("running", 0.5, [])


def test_the_new_step_comes_last_though_another_clock_is_ahead(api: TestClient) -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    add(api, steps=[{"step_name": "from elsewhere", "started_at": ahead, "status": "passed"}])
    patch(api, current_step="Infer")
    ok(api.post(f"{B}/run/r/steps", json=[{"step_name": "b"}, {"step_name": "a"}]))
    detail = ok(api.post(f"{B}/run/r/complete"))
    assert [name for name, _ in steps(detail)] == ["from elsewhere", "Infer", "b", "a", "Completed"]
    assert detail["completed_at"] >= detail["steps"][-1]["started_at"]


@pytest.mark.parametrize("status", [*TERMINAL, "failed"])
def test_a_terminal_status_ends_the_run(api: TestClient, status: str) -> None:
    told = "error" if status == "failed" else status
    start = datetime.now(UTC) - timedelta(seconds=60)
    add(api, started_at=start.isoformat())
    patch(api, status="running", current_step="Infer", progress=0.5)
    detail = patch(api, status=status, error="why")
    assert (detail["status"], detail["error"]) == (told, "why")
    assert abs(at(detail["completed_at"]) - datetime.now(UTC)) < timedelta(seconds=10)
    assert detail["duration"] == (at(detail["completed_at"]) - at(detail["started_at"])).total_seconds()
    assert 60 <= detail["duration"] < 70
    assert detail["progress"] == (1.0 if told == "completed" else 0.5)
    assert steps(detail) == [("Infer", told), (LAST_STEP[told], told)]
    assert all(step["completed_at"] and step["duration"] is not None for step in detail["steps"])
    assert detail["current_step"] == LAST_STEP[told]
    assert patch(api, status=status) == detail
    assert patch(api, status=status, error="other", progress=0.1, current_step="later") == detail
    for other in ("initializing", "running", *TERMINAL):
        if other != told:
            assert told in problem(api.patch(f"{B}/run/r", json={"status": other}), 409)["detail"]
    problem(api.patch(f"{B}/run/r", json={"progress": 0.9}), 409)
    problem(api.patch(f"{B}/run/r", json={"current_step": "x"}), 409)
    assert run(api) == detail


ENDS = {"completed": "complete", "error": "error", "cancelled": "cancel"}


@pytest.mark.parametrize("before", TERMINAL)
def test_a_run_ends_once(api: TestClient, before: str) -> None:
    stored = add(api, status=before, duration=1)
    for status, action in ENDS.items():
        response = api.post(f"{B}/run/r/{action}", json={})
        if status == before:
            assert ok(response) == stored
        else:
            assert before in problem(response, 409)["detail"]
    assert run(api) == stored


@pytest.mark.parametrize(("status", "action"), [("error", "error"), ("cancelled", "cancel")])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "before"),
        ({"json": {"error": None}}, "before"),
        ({"json": {"error": ""}}, ""),
        ({"json": {"error": "Out of memory\n  at ä"}}, "Out of memory\n  at ä"),
    ],
)
def test_a_run_that_fails_or_is_cancelled(
    api: TestClient, status: str, action: str, body: dict[str, Any], error: str
) -> None:
    add(api, status="running", error="before", progress=0.5)
    ok(
        api.post(
            f"{B}/run/r/steps", json=[{"name": "a", "status": "passed"}, {"name": "b", "status": "running"}]
        )
    )
    detail = ok(api.post(f"{B}/run/r/{action}", **body))
    assert (detail["status"], detail["error"], detail["progress"]) == (status, error, 0.5)
    assert steps(detail) == [("a", "passed"), ("b", status), (LAST_STEP[status], status)]
    assert detail["steps"][-1]["error"] == error
    assert detail["completed_at"]
    assert detail["duration"] >= 0
    assert (detail["results"], detail["metrics"]) == (None, {})
    assert ok(api.post(f"{B}/run/r/{action}", **body)) == detail
    assert ok(api.post(f"{B}/run/r/{action}", json={"error": "another"})) == detail
    assert run(api) == detail


COMPLETION = {
    "results": {
        "test_details": [
            {"method": "load", "status": "passed", "duration_ms": 12.5},
            {"method": "infer", "status": "failed", "error": "shape"},
            {"method": "cuda", "status": "skipped"},
            {"method": "cpu", "status": "passed"},
        ],
        "note": {"any": ["thing"]},
    },
    "performance_metrics": {
        "cuda": {
            "latency": 4.5, "peak_memory": 512, "throughput": 99.5, "p99_latency": 1, "load_time": 2,
            "gpu_utilization": 90, "accuracy": 0.5, "size_bytes": 7, "latency_us": 8, "startup_s": 9,
            "memory_gb": 1.5, "power": 200, "energy": 3, "tokens_per_second": 12, "nan": "NaN",
        },
        "cpu": {"latency": "Infinity", "low": "-Infinity"},
    },
    "result_file": "results/r.json",
}  # fmt: skip
UNITS = {
    "cuda.latency": "ms", "cuda.peak_memory": "mb", "cuda.throughput": "items/s", "cuda.p99_latency": "ms",
    "cuda.load_time": "s", "cuda.gpu_utilization": "%", "cuda.accuracy": "", "cuda.size_bytes": "bytes",
    "cuda.latency_us": "us", "cuda.startup_s": "s", "cuda.memory_gb": "gb", "cuda.power": "w",
    "cuda.energy": "j", "cuda.tokens_per_second": "tokens/s", "cuda.nan": "", "cpu.latency": "ms",
    "cpu.low": "", "duration": "s",
}  # fmt: skip


def test_a_run_that_completes(api: TestClient) -> None:
    add(api, status="running", started_at=(datetime.now(UTC) - timedelta(seconds=5)).isoformat())
    patch(api, current_step="Infer", progress=0.5)
    detail = ok(api.post(f"{B}/run/r/complete", json=COMPLETION))
    assert (detail["status"], detail["progress"], detail["current_step"]) == ("completed", 1.0, "Completed")
    counts = {"tests_passed": 2, "tests_failed": 1, "tests_skipped": 1}
    assert detail["results"] == COMPLETION["results"] | counts
    assert {name: metric["unit"] for name, metric in detail["metrics"].items()} == UNITS
    values = {
        f"{platform}.{name}": value
        for platform, given in COMPLETION["performance_metrics"].items()
        for name, value in given.items()
    }
    told = {name: metric["value"] for name, metric in detail["metrics"].items()}
    assert told == values | {"duration": detail["duration"]}
    assert 5 <= detail["duration"] < 15
    assert steps(detail) == [("Infer", "completed"), ("Completed", "completed")]
    assert detail["result_file"] == "results/r.json"
    assert [artifact["artifact_path"] for artifact in detail["artifacts"]] == ["results/r.json"]
    assert run(api) == detail
    before = rows(api)
    assert ok(api.post(f"{B}/run/r/complete", json=COMPLETION)) == detail
    assert ok(api.post(f"{B}/run/r/complete", json={"results": {"tests_passed": 7}})) == detail
    assert ok(api.post(f"{B}/run/r/complete")) == detail
    assert patch(api, status="completed") == detail
    assert rows(api) == before
    problem(api.post(f"{B}/run/r/error"), 409)
    problem(api.post(f"{B}/run/r/cancel"), 409)


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ({"results": {"tests_passed": 3, "tests_failed": 1}}, (3, 1, 0)),
        ({"tests_passed": 3, "tests_skipped": 2}, (3, 0, 2)),
        ({"test_details": [{"method": "m", "status": "passed"}]}, (1, 0, 0)),
        ({"results": {"tests_passed": 9, "test_details": [{"method": "m", "status": "error"}]}}, (0, 1, 0)),
        ({"results": {}}, (0, 0, 0)),
        ({"results": {"anything": "else"}}, (0, 0, 0)),
    ],
)
def test_where_counts_may_stand(api: TestClient, body: dict[str, Any], counts: tuple[int, ...]) -> None:
    add(api)
    results = ok(api.post(f"{B}/run/r/complete", json=body))["results"]
    assert tuple(results[f"tests_{kind}"] for kind in ("passed", "failed", "skipped")) == counts


@pytest.mark.parametrize("body", [{}, {"json": {}}])
def test_a_run_may_complete_without_a_word(api: TestClient, body: dict[str, Any]) -> None:
    add(api)
    detail = ok(api.post(f"{B}/run/r/complete", **body))
    assert (detail["status"], detail["results"], detail["artifacts"]) == ("completed", None, [])
    assert list(detail["metrics"]) == ["duration"]
    assert detail["metrics"]["duration"]["value"] == detail["duration"]


def test_completion_replaces_results_and_keeps_what_was_recorded(api: TestClient) -> None:
    add(
        api,
        results={"old": 1},
        tags={"a": "b"},
        metrics=[{"metric_name": "cpu.latency", "value": 1, "unit": "ms"}],
        artifacts=[{"artifact_path": "results/r.json", "artifact_type": "mine"}, {"artifact_path": "log"}],
    )
    body = {
        "results": {"tests_passed": 1},
        "performance_metrics": {"cpu": {"latency": 3}},
        "result_file": "results/r.json",
    }
    detail = ok(api.post(f"{B}/run/r/complete", json=body))
    assert "old" not in detail["results"]
    assert (detail["metrics"]["cpu.latency"]["value"], detail["metrics"]["cpu.latency"]["count"]) == (3, 2)
    paths = [artifact["artifact_path"] for artifact in detail["artifacts"]]
    assert sorted(paths) == ["log", "results/r.json"]
    assert detail["tags"] == {"a": "b"}


WRONG_COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({"results": {"test_details": [{"method": "m"}]}}, "results"),
    ({"results": {"test_details": [{"status": "maybe"}]}}, "results"),
    ({"results": {"test_details": {"method": "passed"}}}, "results"),
    ({"results": {"tests_passed": -1}}, "results"),
    ({"results": {"tests_passed": "3"}}, "results"),
    ({"results": {"tests_failed": 2**31}}, "results"),
    ({"results": []}, "results"),
    ({"tests_passed": True}, "tests_passed"),
    ({"tests_passed": 1.5}, "tests_passed"),
    ({"test_details": [1]}, "test_details[0]"),
    ({"performance_metrics": {"cpu": {"latency": "fast"}}}, "performance_metrics.cpu.latency"),
    ({"performance_metrics": {"cpu": {"latency": True}}}, "performance_metrics.cpu.latency"),
    ({"performance_metrics": {"cpu": {"latency": 10**400}}}, "performance_metrics.cpu.latency"),
    ({"performance_metrics": {"cpu": 3}}, "performance_metrics.cpu"),
    ({"performance_metrics": {"cpu": {"": 3}}}, "performance_metrics.cpu."),
    ({"performance_metrics": {"c" * 600: {"n" * 600: 3}}}, "performance_metrics"),
    ({"result_file": ""}, "result_file"),
    ({"result_file": 1}, "result_file"),
    ({"result": {}}, "result"),
]


def test_a_wrong_completion_changes_nothing(api: TestClient) -> None:
    before = add(api, status="running")
    for body, field in WRONG_COMPLETIONS:
        problem(api.post(f"{B}/run/r/complete", json=body), 422, field)
    assert run(api) == before


@pytest.mark.parametrize("count", [3, 50])
def test_steps_are_appended_in_order_or_updated_by_name(api: TestClient, count: int) -> None:
    add(api)
    first = [f"{n * 7919 % 1000:03} first" for n in range(count)]
    second = [f"{n * 7919 % 1000:03} again" for n in range(count)]
    for names in (first, second):
        body = [{"step_name": name, "status": "running", "progress": 0.5} for name in names]
        assert ok(api.post(f"{B}/run/r/steps", json=body)) == {"run_id": "r", "stored": count}
    assert [name for name, _ in steps(run(api))] == first + second
    before = {step["step_name"]: step for step in run(api)["steps"]}
    updates = [{"name": name, "status": "failed", "error": f"in {name}"} for name in reversed(first)]
    ok(api.post(f"{B}/run/r/steps", json=[*updates, {"step_name": "new"}]))
    detail = run(api)
    assert [name for name, _ in steps(detail)] == [*first, *second, "new"]
    for step in detail["steps"][:count]:
        old = before[step["step_name"]]
        assert (step["status"], step["error"], step["progress"]) == ("failed", f"in {step['step_name']}", 1.0)
        assert step["started_at"] == old["started_at"]
        assert step["completed_at"] > step["started_at"]
        assert step["duration"] > 0
    assert detail["steps"][count : 2 * count] == list(before.values())[count:]
    assert steps(detail)[-1] == ("new", "pending")


def test_a_step_without_a_start_follows_the_one_before_it(api: TestClient) -> None:
    add(api)
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = [{"name": "z", "started_at": ahead}, {"name": "y"}, {"name": "x"}]
    ok(api.post(f"{B}/run/r/steps", json=body))
    assert [name for name, _ in steps(run(api))] == ["z", "y", "x"]


def test_the_same_step_twice_in_one_report(api: TestClient) -> None:
    add(api)
    body = [
        {"name": "t", "status": "running"},
        {"name": "u"},
        {"name": "t", "status": "passed", "duration": 2},
    ]
    ok(api.post(f"{B}/run/r/steps", json=body))
    detail = run(api)
    assert steps(detail) == [("t", "passed"), ("u", "pending")]
    assert detail["steps"][0]["duration"] == 2.0


def test_what_a_step_says_of_itself_is_kept(api: TestClient) -> None:
    add(api)
    full = {
        "step_name": "tests/test_x.py::test_y[a-é]",
        "status": "skipped",
        "progress": 0.5,
        "started_at": "2026-01-31T12:00:00Z",
        "completed_at": "2026-01-31T12:00:03Z",
        "duration": 2.5,
        "error": "because",
    }
    ok(api.post(f"{B}/run/r/steps", json=[full]))
    assert run(api)["steps"] == [full]
    ok(api.post(f"{B}/run/r/steps", json=[{"step_name": full["step_name"]}]))
    assert run(api)["steps"][0]["error"] == "because"


def test_steps_metrics_and_artifacts_may_still_arrive_after_the_end(api: TestClient) -> None:
    add(api, status="completed", duration=1)
    ok(api.post(f"{B}/run/r/steps", json=[{"name": "late", "status": "passed"}]))
    ok(api.post(f"{B}/run/r/metrics", json=[{"name": "late", "value": 1}]))
    ok(api.post(f"{B}/run/r/artifacts", json=[{"path": "late"}]))
    detail = run(api)
    assert (detail["status"], detail["duration"]) == ("completed", 1.0)
    assert (len(detail["steps"]), len(detail["metrics"]), len(detail["artifacts"])) == (1, 1, 1)


@pytest.mark.parametrize("count", [1, 50])
def test_metrics_are_appended(api: TestClient, count: int) -> None:
    add(api)
    for start in (0, count):
        body = [
            {
                "metric_name": "m",
                "value": n,
                "unit": "ms",
                "timestamp": f"2026-01-01T00:{n // 60:02}:{n % 60:02}",
            }
            for n in range(start, start + count)
        ]
        assert ok(api.post(f"{B}/run/r/metrics", json=body)) == {"run_id": "r", "stored": count}
    points = ok(api.get(f"{B}/run/r/metrics"))
    assert [point["value"] for point in points] == list(range(2 * count))
    assert points[0] == {"metric_name": "m", "value": 0.0, "unit": "ms", "timestamp": "2026-01-01T00:00:00Z"}
    assert run(api)["metrics"]["m"]["count"] == 2 * count


def test_the_other_names_of_a_point(api: TestClient) -> None:
    add(api)
    ok(api.post(f"{B}/run/r/metrics", json=[{"name": "m", "metric_value": 1.5, "metric_unit": "s"}]))
    (point,) = ok(api.get(f"{B}/run/r/metrics"))
    assert (point["metric_name"], point["value"], point["unit"]) == ("m", 1.5, "s")
    assert abs(at(point["timestamp"]) - datetime.now(UTC)) < timedelta(seconds=10)


def test_the_latest_value_is_the_one_with_the_latest_time(api: TestClient) -> None:
    add(api)
    points = [(3, "2026-01-03T00:00:00Z"), (1, "2026-01-01T00:00:00Z"), (4, "2026-01-03T00:00:00Z")]
    body = [{"name": "m", "value": value, "timestamp": time} for value, time in points]
    ok(api.post(f"{B}/run/r/metrics", json=body))
    assert run(api)["metrics"]["m"]["value"] == 4
    ok(api.post(f"{B}/run/r/metrics", json=[{"name": "m", "value": 9, "timestamp": "2026-01-02T00:00:00Z"}]))
    assert run(api)["metrics"]["m"]["value"] == 4


def test_a_hundred_thousand_metrics_at_once(api: TestClient) -> None:
    add(api)
    body = ",".join(f'{{"metric_name": "m{n % 10}", "value": {n}}}' for n in range(100_000))
    response = api.post(f"{B}/run/r/metrics", content=f"[{body}]", headers=JSON)
    assert ok(response) == {"run_id": "r", "stored": 100_000}
    metrics = run(api)["metrics"]
    assert {name: metric["count"] for name, metric in metrics.items()} == {f"m{n}": 10_000 for n in range(10)}
    assert (metrics["m3"]["min"], metrics["m3"]["max"], metrics["m3"]["avg"]) == (3, 99_993, 49_998)
    assert ok(api.get(f"{B}/runs"))[0]["metric_count"] == 100_000
    points = ok(api.get(f"{B}/run/r/metrics?limit=20000"))
    assert [point["value"] for point in points] == list(range(20_000))


@ON_DUCKDB  # the engine is not asked
@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("steps", '{"name":"a"}'),
        ("metrics", '{"name":"a","value":1}'),
        ("artifacts", '{"path":"a"}'),
    ],
)
def test_a_list_holds_one_to_a_hundred_thousand_items(api: TestClient, kind: str, item: str) -> None:
    add(api)
    url = f"{B}/run/r/{kind}"
    problem(api.post(url, content="[]", headers=JSON), 422, "body")
    problem(api.post(url, content=f"[{','.join([item] * 100_001)}]", headers=JSON), 422, "body")
    assert not any(run(api)[kind])
    assert ok(api.post(url, content=f"[{item}]", headers=JSON))["stored"] == 1


@pytest.mark.parametrize(
    ("kind", "good", "bad", "field"),
    [
        ("steps", {"step_name": "s"}, {"step_name": "t", "status": "done"}, "status"),
        ("steps", {"step_name": "s"}, {"status": "passed"}, "step_name"),
        ("steps", {"step_name": "s"}, {"step_name": "t", "progress": 2}, "progress"),
        ("steps", {"step_name": "s"}, {"step_name": "t", "duration": -1}, "duration"),
        ("metrics", {"name": "m", "value": 1}, {"name": "m"}, "value"),
        ("metrics", {"name": "m", "value": 1}, {"value": 1}, "metric_name"),
        ("metrics", {"name": "m", "value": 1}, {"name": "m", "value": None}, "value"),
        ("metrics", {"name": "m", "value": 1}, {"name": "m", "value": 1, "units": "ms"}, "units"),
        ("artifacts", {"path": "p"}, {"path": ""}, "path"),
        ("artifacts", {"path": "p"}, {"artifact_type": "log"}, "artifact_path"),
    ],
)
def test_a_list_is_stored_whole_or_not_at_all(
    api: TestClient, kind: str, good: dict[str, Any], bad: dict[str, Any], field: str
) -> None:
    before = add(api)
    problem(api.post(f"{B}/run/r/{kind}", json=[good, good, bad]), 422, f"[2].{field}")
    assert run(api) == before


@pytest.mark.parametrize("count", [2, 50])
def test_artifacts_are_appended_or_updated_by_path(api: TestClient, count: int) -> None:
    add(api)
    body = [{"artifact_path": f"p{n:02}", "artifact_type": "log", "description": "old"} for n in range(count)]
    assert ok(api.post(f"{B}/run/r/artifacts", json=body))["stored"] == count
    before = run(api)["artifacts"]
    assert [artifact["artifact_path"] for artifact in before] == [item["artifact_path"] for item in body]
    update = {"path": "p01", "type": "image", "description": "new"}
    ok(api.post(f"{B}/run/r/artifacts", json=[update, {"path": "z"}]))
    after = run(api)["artifacts"]
    assert after[0] == before[0]
    assert after[1] == before[1] | {"artifact_type": "image", "description": "new"}
    assert after[-1] | {"created_at": ""} == {
        "artifact_path": "z", "artifact_type": "file", "description": None, "created_at": ""
    }  # fmt: skip
    assert len(after) == count + 1


@pytest.mark.parametrize("count", [1, 50])
def test_tags_are_merged_and_null_removes_one(api: TestClient, count: int) -> None:
    add(api, tags={"keep": "1", "change": "1", "remove": "1", "none": None})
    many = {f"n{n:02}": str(n) for n in range(count)}
    detail = ok(api.put(f"{B}/run/r/tags", json={"change": "2", "remove": None, "unknown": None, **many}))
    assert detail["tags"] == {"keep": "1", "change": "2", **many}
    assert run(api) == detail
    assert ok(api.put(f"{B}/run/r/tags", json={})) == detail
    assert ok(api.put(f"{B}/run/r/tags", json=dict.fromkeys(detail["tags"])))["tags"] == {}


def test_tag_values_that_are_no_text(api: TestClient) -> None:
    add(api)
    given = {"int": 3, "float": 1.5, "yes": True, "no": False, "big": 10**20}
    tags = ok(api.put(f"{B}/run/r/tags", json=given))["tags"]
    assert tags == {"int": "3", "float": "1.5", "yes": "true", "no": "false", "big": "1" + "0" * 20}


def test_awkward_tags(api: TestClient) -> None:
    add(api)
    tags = {f"{n}{text}": text for n, text in enumerate(TEXTS)} | {"a=b": "c=d", "=": "="}
    assert ok(api.put(f"{B}/run/r/tags", json=tags))["tags"] == tags
    for name, value in tags.items():
        for tag in (name, f"{name}={value}"):
            found = ok(api.get(f"{B}/runs", params={"tag": tag}))
            assert len(found) == 1, tag
    longest = {"n" * 1000: "v" * 1000}
    assert ok(api.put(f"{B}/run/r/tags", json=longest))["tags"].items() > longest.items()
    assert len(ok(api.get(f"{B}/runs", params={"tag": f"{'n' * 1000}={'v' * 1000}"}))) == 1


def test_results_are_replaced(api: TestClient) -> None:
    add(api, results={"tests_passed": 5, "old": True})
    given = {"test_details": [{"method": "m", "status": "failed"}], "new": [1.5, None]}
    detail = ok(api.put(f"{B}/run/r/results", json=given))
    assert detail["results"] == given | {"tests_passed": 0, "tests_failed": 1, "tests_skipped": 0}
    assert ok(api.put(f"{B}/run/r/results", json=given)) == detail == run(api)
    assert rows(api)["test_run_results"] == 1


WRONG_UPDATES: list[tuple[dict[str, Any], str]] = [
    ({}, "body"),
    ({"status": "done"}, "status"),
    ({"status": "passed"}, "status"),
    ({"status": 1}, "status"),
    ({"progress": -0.01}, "progress"),
    ({"progress": 1.01}, "progress"),
    ({"progress": "NaN"}, "progress"),
    ({"progress": "Infinity"}, "progress"),
    ({"progress": "0.5"}, "progress"),
    ({"progress": True}, "progress"),
    ({"current_step": ""}, "current_step"),
    ({"current_step": "x" * 2001}, "current_step"),
    ({"current_step": ["x"]}, "current_step"),
    ({"error": 5}, "error"),
    ({"progress": 0.5, "model_name": "other"}, "model_name"),
    ({"state": "running"}, "state"),
]


def test_a_wrong_update_changes_nothing(api: TestClient) -> None:
    before = add(api)
    for body, field in WRONG_UPDATES:
        problem(api.patch(f"{B}/run/r", json=body), 422, field)
    assert run(api) == before


def together(*works: Callable[[int], Response], times: int = 8) -> list[Response]:
    """The answers to each kind of request, sent by a client of its own, one kind beside the others."""
    answers: list[Response] = []
    barrier = threading.Barrier(len(works))

    def client(work: Callable[[int], Response]) -> None:
        barrier.wait()
        for n in range(times):
            answers.append(work(n))

    threads = [threading.Thread(target=client, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_many_clients_of_one_run_lose_nothing(api: TestClient) -> None:
    add(api, status="running")
    url = f"{B}/run/r"
    answers = together(
        lambda n: api.patch(url, json={"progress": n / 10, "current_step": f"phase {n}"}),
        lambda n: api.post(f"{url}/steps", json=[{"name": f"a{n}"}, {"name": f"shared{n}", "error": "x"}]),
        lambda n: api.post(f"{url}/steps", json=[{"name": f"shared{n}", "progress": 0.5}, {"name": f"b{n}"}]),
        lambda n: api.post(f"{url}/metrics", json=[{"name": "m", "value": n}] * 3),
        lambda n: api.put(f"{url}/tags", json={f"t{n}": "v"}),
        lambda n: api.post(f"{url}/artifacts", json=[{"path": f"p{n}"}]),
    )
    assert [response.status_code for response in answers] == [200] * 48
    detail = run(api)
    names = [step["step_name"] for step in detail["steps"]]
    assert sorted(names) == sorted(f"{kind}{n}" for kind in ("a", "b", "shared", "phase ") for n in range(8))
    for kind in ("a", "b", "phase "):
        assert [name for name in names if name.startswith(kind)] == [f"{kind}{n}" for n in range(8)]
    shared = [step for step in detail["steps"] if step["step_name"].startswith("shared")]
    assert all((step["progress"], step["error"]) == (0.5, "x") for step in shared)
    assert detail["metrics"]["m"]["count"] == 24
    assert detail["tags"] == {f"t{n}": "v" for n in range(8)}
    assert len(detail["artifacts"]) == 8
    assert (detail["current_step"], detail["progress"]) == ("phase 7", 0.7)


def test_a_run_is_ended_once_by_many_clients(api: TestClient) -> None:
    for n in range(4):
        add(api, f"r{n}", status="running")
    answers = together(
        lambda n: api.post(f"{B}/run/r{n}/complete", json=COMPLETION),
        lambda n: api.post(f"{B}/run/r{n}/complete", json=COMPLETION),
        lambda n: api.post(f"{B}/run/r{n}/cancel"),
        times=4,
    )
    assert {response.status_code for response in answers} <= {200, 409}
    for n in range(4):
        detail = run(api, f"r{n}")
        told = [response for response in answers if response.request.url.path.startswith(f"{B}/run/r{n}/")]
        winners = [response.json() for response in told if response.status_code == 200]
        assert winners == [detail] * (2 if detail["status"] == "completed" else 1)
        assert [name for name, _ in steps(detail)] == [LAST_STEP[detail["status"]]]
        if detail["status"] == "completed":
            assert detail["metrics"]["duration"]["count"] == 1
