"""Recording whole runs, replacing them, and reading them back."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.services import parts
from app.vocabulary import OUTCOMES, RunStatus, StepStatus
from tests.factories import DOCUMENTS, TEXTS
from tests.routers.helpers import DETAIL, SUMMARY, B, add, every, ids, ok, problem, rows, run

FULL: dict[str, Any] = {
    "run_id": "full:run_1.A-z",
    "model_name": "bert",
    "hardware": ["cuda", "cpu"],
    "test_type": "comprehensive",
    "timeout": 300,
    "save_results": False,
    "status": "completed",
    "progress": 0.75,
    "current_step": "Inference",
    "started_at": "2026-01-31T12:00:00Z",
    "completed_at": "2026-01-31T12:00:10.500000Z",
    "duration": 9.25,
    "error": "a warning",
    "result_file": "results/run.json",
    "creator": "ci",
    "tags": {"branch": "main", "empty": "", "n": "1"},
    "batch_id": "nightly",
    "results": {"tests_passed": 3, "tests_failed": 2, "tests_skipped": 1, "extra": {"list": [1, None, "ä"]}},
    "steps": [
        {
            "step_name": "z first",
            "status": "passed",
            "progress": 1.0,
            "started_at": "2026-01-31T12:00:01Z",
            "completed_at": "2026-01-31T12:00:02Z",
            "duration": 0.5,
            "error": None,
        },
        {
            "step_name": "a second",
            "status": "running",
            "progress": 0.5,
            "started_at": "2026-01-31T12:00:02Z",
            "completed_at": None,
            "duration": None,
            "error": "text",
        },
    ],
    "metrics": [
        {"metric_name": "lat", "value": 4.0, "unit": "ms", "timestamp": "2026-01-31T12:00:03Z"},
        {"metric_name": "lat", "value": 2.0, "unit": "ms", "timestamp": "2026-01-31T12:00:04Z"},
        {"metric_name": "acc", "value": 0.5, "unit": "", "timestamp": "2026-01-31T12:00:05Z"},
    ],
    "artifacts": [
        {
            "artifact_path": "logs/run.txt",
            "artifact_type": "log",
            "description": "the log",
            "created_at": "2026-01-31T12:00:06Z",
        }
    ],
}


def now() -> datetime:
    return datetime.now(UTC)


def at(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def test_a_run_needs_no_more_than_a_model_and_every_part_is_present(api: TestClient) -> None:
    before = now()
    response = api.post(f"{B}/runs", json={"model_name": "m"})
    detail = ok(response, 201)
    started_at, created_at = detail.pop("started_at"), detail.pop("created_at")
    assert before <= at(started_at) <= now()
    assert created_at == started_at
    run_id = detail.pop("run_id")
    assert str(uuid.UUID(run_id)) == run_id
    assert response.headers["location"] == f"{B}/run/{run_id}"
    assert detail == {
        "model_name": "m",
        "hardware": [],
        "test_type": "basic",
        "timeout": None,
        "save_results": True,
        "status": "initializing",
        "progress": 0.0,
        "current_step": None,
        "completed_at": None,
        "duration": None,
        "error": None,
        "result_file": None,
        "creator": None,
        "results": None,
        "steps": [],
        "metrics": {},
        "tags": {},
        "artifacts": [],
        "batch_id": None,
        "batch_ids": [],
    }
    assert ok(api.get(response.headers["location"])) == response.json()


def test_all_of_a_run_comes_back(api: TestClient) -> None:
    detail = ok(api.post(f"{B}/runs", json=FULL), 201)
    assert set(detail) == DETAIL
    created_at = detail.pop("created_at")
    assert abs(at(created_at) - now()) < timedelta(seconds=30)
    series = {"count": 2, "min": 2.0, "max": 4.0, "avg": 3.0}
    single = {"count": 1, "min": 0.5, "max": 0.5, "avg": 0.5}
    assert detail == FULL | {
        "completed_at": "2026-01-31T12:00:10.500000Z",
        "batch_ids": ["nightly"],
        "metrics": {
            "lat": {"value": 2.0, "unit": "ms", "timestamp": "2026-01-31T12:00:04Z", **series},
            "acc": {"value": 0.5, "unit": "", "timestamp": "2026-01-31T12:00:05Z", **single},
        },
    }
    (summary,) = ok(api.get(f"{B}/runs"))
    assert set(summary) == SUMMARY
    shared = SUMMARY & DETAIL
    assert {name: summary[name] for name in shared} == {name: detail[name] for name in shared}
    assert {name: summary[name] for name in SUMMARY - shared} == {
        "tests_passed": 3,
        "tests_failed": 2,
        "tests_skipped": 1,
        "step_count": 2,
        "metric_count": 3,
        "artifact_count": 1,
    }


TIMES = [
    ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
    ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
    ("2026-01-31 12:00:00", "2026-01-31T12:00:00Z"),
    ("2026-01-31T12:00:00z", "2026-01-31T12:00:00Z"),
    ("2026-01-31T14:30:00+02:30", "2026-01-31T12:00:00Z"),
    ("2025-12-31T20:00:00-08:00", "2026-01-01T04:00:00Z"),
    ("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.123456Z"),
    ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500000Z"),
    ("2026-01-31T12:00:00.000001+00:00", "2026-01-31T12:00:00.000001Z"),
    ("2026-03-29T02:30:00", "2026-03-29T02:30:00Z"),  # an hour that summer time leaves out
    ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
    ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
]


def test_times_are_told_in_utc(api: TestClient) -> None:
    documents = [
        {
            "run_id": f"r{n:02}",
            "model_name": "m",
            "started_at": given,
            "completed_at": given,
            "steps": [{"step_name": "s", "started_at": given, "completed_at": given}],
            "metrics": [{"metric_name": "m", "value": 1, "timestamp": given}],
            "artifacts": [{"artifact_path": "p", "created_at": given}],
        }
        for n, (given, _) in enumerate(TIMES)
    ]
    ok(api.post(f"{B}/ingest", json=documents))
    listed = {item["run_id"]: item for item in ok(api.get(f"{B}/runs"))}
    for n, (given, told) in enumerate(TIMES):
        detail = run(api, f"r{n:02}")
        times = [
            detail["started_at"],
            detail["completed_at"],
            detail["steps"][0]["started_at"],
            detail["steps"][0]["completed_at"],
            detail["metrics"]["m"]["timestamp"],
            detail["artifacts"][0]["created_at"],
            listed[detail["run_id"]]["started_at"],
            ok(api.get(f"{B}/run/r{n:02}/metrics"))[0]["timestamp"],
        ]
        assert set(times) == {told}, given
        assert detail["duration"] == 0.0


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "2026-01-31T14:00:00+02:00"]
)
def test_a_span_of_time_begins_with_its_start_and_ends_before_its_end(api: TestClient, time: str) -> None:
    assert (
        ok(api.put(f"{B}/run/r", json={"model_name": "m", "started_at": time}), 201)["status"]
        == "initializing"
    )
    assert ids(api.get(f"{B}/runs", params={"since": time})) == ["r"]
    assert ids(api.get(f"{B}/runs", params={"until": time})) == []


@pytest.mark.parametrize("given", ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])
def test_a_time_outside_the_calendar_in_utc_is_refused(api: TestClient, given: str) -> None:
    problem(api.post(f"{B}/runs", json={"model_name": "m", "started_at": given}), 422, "started_at")


def test_an_end_outside_the_calendar_is_not_made_up(api: TestClient) -> None:
    detail = add(
        api,
        status="completed",
        started_at="9999-12-31T23:59:59Z",
        duration=1e9,
        steps=[{"step_name": "a", "duration": 1e300, "status": "passed"}, {"step_name": "b"}],
    )
    assert (detail["completed_at"], detail["duration"]) == (None, 1e9)
    assert detail["steps"][0]["duration"] == 1e300
    detail = add(api, "early", completed_at="0001-01-01T00:00:01Z", duration=1e9)
    assert detail["completed_at"] == "0001-01-01T00:00:01Z"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("cpu", ["cpu"]),
        (["cpu"], ["cpu"]),
        (["cuda", "cpu"], ["cuda", "cpu"]),
        (["cpu", "cuda", "cpu"], ["cpu", "cuda"]),
        ([], []),
        ("NVIDIA, A100 {x} \"q\" 'y' \\ NULL ä 🚀", ["NVIDIA, A100 {x} \"q\" 'y' \\ NULL ä 🚀"]),
        ("cpu,cuda", ["cpu,cuda"]),
    ],
)
def test_hardware_is_always_told_as_a_list(api: TestClient, given: Any, told: list[str]) -> None:
    assert add(api, hardware=given)["hardware"] == told
    assert run(api)["hardware"] == told
    assert ok(api.get(f"{B}/runs", params={"hardware": told[-1:]}))[0]["hardware"] == told


def test_texts_come_back_as_they_were(api: TestClient) -> None:
    for n, text in enumerate(TEXTS):
        fields = {"error": text, "creator": text, "result_file": text, "current_step": text}
        detail = add(
            api,
            f"r{n}",
            **fields,
            model_name=f"m{text}",
            test_type=f"t{text}",
            hardware=[f"h{text}"],
            tags={f"n{text}": text},
            steps=[{"step_name": f"s{text}", "error": text}],
            metrics=[{"metric_name": f"m{text}", "value": 1, "unit": text}],
            artifacts=[{"artifact_path": f"p{text}", "artifact_type": f"t{text}", "description": text}],
            results={"text": text, text: 1},
        )
        assert detail == run(api, f"r{n}")
        assert {name: detail[name] for name in fields} == fields
        assert (detail["model_name"], detail["test_type"]) == (f"m{text}", f"t{text}")
        assert (detail["hardware"], detail["tags"]) == ([f"h{text}"], {f"n{text}": text})
        assert (detail["steps"][0]["step_name"], detail["steps"][0]["error"]) == (f"s{text}", text)
        assert detail["metrics"][f"m{text}"]["unit"] == text
        artifact = detail["artifacts"][0]
        assert (artifact["artifact_path"], artifact["artifact_type"]) == (f"p{text}", f"t{text}")
        assert artifact["description"] == text
        counts = {"tests_passed": 0, "tests_failed": 0, "tests_skipped": 0}
        assert detail["results"] == {"text": text, text: 1, **counts}
    for n, text in enumerate(TEXTS):
        wanted = {"model_name": f"m{text}", "test_type": f"t{text}", "hardware": f"h{text}"}
        assert ids(api.get(f"{B}/runs", params={**wanted, "tag": f"n{text}={text}"})) == [f"r{n}"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", 5e-324, 1.7976931348623157e308, 0.1])
def test_durations_may_be_any_number_that_is_not_negative(api: TestClient, value: Any) -> None:
    document = {
        "model_name": "m",
        "status": "completed",
        "timeout": value,
        "duration": value,
        "steps": [{"step_name": "s", "status": "passed", "duration": value}],
    }
    assert ok(api.put(f"{B}/run/r", json=document), 201) == run(api)
    detail = ok(api.put(f"{B}/run/r", json=document))
    assert (detail["timeout"], detail["duration"]) == (value, value)
    assert detail["steps"][0]["duration"] == value
    assert ok(api.get(f"{B}/runs"))[0]["duration"] == value


EXTREMES = [
    "NaN",
    "Infinity",
    "-Infinity",
    1.7976931348623157e308,
    -1.7976931348623157e308,
    5e-324,
    1e-310,
    0,
]


def test_metrics_may_be_any_number_and_figures_leave_out_what_is_not_finite(api: TestClient) -> None:
    detail = add(api, metrics=[{"metric_name": f"m{n}", "value": value} for n, value in enumerate(EXTREMES)])
    stored = ok(api.post(f"{B}/run/r/metrics", json=[{"metric_name": "all", "value": v} for v in EXTREMES]))
    assert stored == {"run_id": "r", "stored": len(EXTREMES)}
    for n, value in enumerate(EXTREMES):
        metric = detail["metrics"][f"m{n}"]
        figures = [None, None, None, 0] if isinstance(value, str) else [value, value, value, 1]
        assert metric["value"] == value
        assert [metric["min"], metric["max"], metric["avg"], metric["count"]] == figures
    points = ok(api.get(f"{B}/run/r/metrics", params={"name": "all"}))
    assert [point["value"] for point in points] == EXTREMES
    total = run(api)["metrics"]["all"]
    assert (total["value"], total["count"]) == (0, 5)
    assert (total["min"], total["max"]) == (-1.7976931348623157e308, 1.7976931348623157e308)


def test_the_average_of_huge_and_of_tiny_numbers(api: TestClient) -> None:
    huge = [{"metric_name": "huge", "value": 1.7976931348623157e308}] * 30
    tiny = [{"metric_name": "tiny", "value": value} for value in (5e-324, 0, 0)]
    metrics = add(api, metrics=huge + tiny + [{"metric_name": "tenth", "value": 0.1}] * 3)["metrics"]
    assert metrics["huge"]["avg"] == 1.7976931348623157e308
    assert 0 <= metrics["tiny"]["avg"] <= 5e-324
    assert metrics["tenth"]["avg"] == 0.1


def test_metrics_may_be_given_by_name(api: TestClient) -> None:
    point = {"value": 2, "unit": "ms", "timestamp": "2026-01-01T00:00:00Z"}
    metrics = add(api, metrics={"a": 1.5, "b": point, "c": "NaN"})["metrics"]
    assert (metrics["a"]["value"], metrics["a"]["unit"], metrics["c"]["value"]) == (1.5, "", "NaN")
    assert {name: metrics["b"][name] for name in point} == point


def test_every_status_of_a_run(api: TestClient) -> None:
    for status in [*RunStatus, "failed"]:
        told = "error" if status == "failed" else status
        assert add(api, f"r-{status}", status=status)["status"] == told
        assert run(api, f"r-{status}")["status"] == told
    for status in RunStatus:
        expected = ["r-error", "r-failed"] if status == "error" else [f"r-{status}"]
        assert sorted(ids(api.get(f"{B}/runs", params={"status": status}))) == expected
    found = api.post(f"{B}/search", json={"query": "m", "status": "failed"})
    assert sorted(ids(found)) == ["r-error", "r-failed"]
    put = api.put(f"{B}/run/new", json={"model_name": "m", "status": "failed"})
    assert ok(put, 201)["status"] == "error"


def test_every_status_of_a_step(api: TestClient) -> None:
    steps = [{"step_name": status, "status": status} for status in StepStatus]
    for detail in (add(api, steps=steps), add(api, "two", status="error", steps=steps)):
        assert [step["status"] for step in detail["steps"]] == list(StepStatus)
        live = [step["progress"] < 1 for step in detail["steps"]]
        assert live == [status in ("pending", "running") for status in StepStatus]


def test_what_is_not_given_of_a_run_that_has_ended_follows_from_the_rest(api: TestClient) -> None:
    start, end = "2026-01-31T12:00:00Z", "2026-01-31T12:00:02.500000Z"
    for n, given in enumerate(
        [
            {"started_at": start, "duration": 2.5},
            {"started_at": start, "completed_at": end},
            {"completed_at": end, "duration": 2.5},
        ]
    ):
        detail = add(api, f"r{n}", status="completed", **given)
        assert [detail[name] for name in ("started_at", "completed_at", "duration")] == [start, end, 2.5]
        assert detail["progress"] == 1.0
    detail = add(api, "clock", status="error", started_at=end, completed_at=start)
    assert (detail["duration"], detail["progress"]) == (0.0, 0.0)


@pytest.mark.parametrize("count", [5, 60])
def test_steps_keep_the_order_in_which_they_were_given(api: TestClient, count: int) -> None:
    names = [f"{n * 7919 % 1000:03} step" for n in range(count)]
    for run_id, extra in (
        ("plain", {}),
        ("timed", {"duration": 0.25, "status": "passed"}),
        ("instant", {"duration": 0, "status": "passed"}),
        ("unknown", {"duration": "NaN", "status": "failed"}),
    ):
        steps = [{"step_name": name, **extra} for name in names]
        detail = add(api, run_id, started_at="2026-01-01T00:00:00Z", steps=steps)
        assert [step["step_name"] for step in detail["steps"]] == names
        starts = [step["started_at"] for step in detail["steps"]]
        assert starts[0] == "2026-01-01T00:00:00Z"
        assert len(set(starts)) == count
    assert detail["steps"][0]["duration"] == "NaN"


@pytest.mark.parametrize("results", DOCUMENTS)
def test_the_result_object_is_kept_whole(api: TestClient, results: dict[str, Any]) -> None:
    counts = {"tests_passed": 0, "tests_failed": 0, "tests_skipped": 0}
    assert add(api, results=results)["results"] == results | counts
    assert run(api)["results"] == results | counts
    assert ok(api.put(f"{B}/run/r/results", json=results))["results"] == results | counts


def test_numbers_and_characters_that_only_json_knows_are_kept_in_the_result_object(api: TestClient) -> None:
    results = {"big": 10**400, "text": "a\x00b", "\x00": [1e-320, -0.0, 2**63], "NaN": "NaN"}
    detail = add(api, results=results)
    assert detail["results"].items() >= results.items()
    assert run(api) == detail


def test_counts_follow_from_the_test_details(api: TestClient) -> None:
    details = [{"method": f"m{n}", "status": word} for n, word in enumerate(OUTCOMES)]
    results = {"tests_passed": 99, "test_details": details}
    detail = add(api, results=results)
    kinds = list(OUTCOMES.values())
    counts = {f"tests_{kind}": kinds.count(kind) for kind in ("passed", "failed", "skipped")}
    assert detail["results"] == results | counts
    summary = ok(api.get(f"{B}/runs"))[0]
    assert {name: summary[name] for name in counts} == counts
    shouted = [{"status": "PASSED"}, {"status": "Failed"}]
    assert add(api, "two", results={"test_details": shouted})["results"]["tests_failed"] == 1
    without = add(api, "three", results={"tests_failed": 2, "test_details": []})["results"]
    assert (without["tests_passed"], without["tests_failed"]) == (0, 2)


def test_a_new_id_is_recorded_once(api: TestClient) -> None:
    add(api, "twice", tags={"a": "1"})
    detail = problem(api.post(f"{B}/runs", json={"run_id": "twice", "model_name": "other"}), 409)["detail"]
    assert "'twice'" in detail
    assert run(api, "twice")["model_name"] == "m"


@pytest.mark.parametrize("run_id", ["A.b_c:d-9", "-", "...", "x" * 200, "null"])
def test_ids_that_a_caller_may_choose(api: TestClient, run_id: str) -> None:
    response = api.post(f"{B}/runs", json={"run_id": run_id, "model_name": "m"})
    assert ok(response, 201)["run_id"] == run_id
    assert ok(api.get(response.headers["location"]))["run_id"] == run_id
    assert ok(api.put(f"{B}/run/{run_id}", json={"model_name": "n"}))["model_name"] == "n"
    assert ids(api.get(f"{B}/runs")) == [run_id]


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        " ",
        "a b",
        "a/b",
        "a\n",
        "\na",
        "ä",
        ".",
        "..",
        "x" * 201,
        "a\x00",
        "a\\b",
        "a%20b",
        "<a>",
        "a,b",
        "١",
    ],
)
def test_ids_that_a_caller_may_not_choose(api: TestClient, run_id: str) -> None:
    problem(api.post(f"{B}/runs", json={"run_id": run_id, "model_name": "m"}), 422, "run_id")
    problem(api.post(f"{B}/runs", json={"batch_id": run_id, "model_name": "m"}), 422, "batch_id")
    problem(api.post(f"{B}/ingest", json=[{"run_id": run_id, "model_name": "m"}]), 422, "[0].run_id")
    assert not any(rows(api).values())


def test_put_is_safe_to_send_twice(api: TestClient) -> None:
    run_id = FULL["run_id"]
    first = api.put(f"{B}/run/{run_id}", json=FULL)
    assert ok(first, 201) == run(api, run_id)
    assert first.headers["location"] == f"{B}/run/{run_id}"
    stored = rows(api)
    second = api.put(f"{B}/run/{run_id}", json=FULL)
    assert ok(second) == first.json()
    assert "location" not in second.headers
    assert rows(api) == stored


@pytest.mark.parametrize("status", [None, "completed", "failed"])
@pytest.mark.parametrize("count", [2, 50])
def test_put_without_times_is_safe_to_send_twice(api: TestClient, count: int, status: str | None) -> None:
    document: dict[str, Any] = {
        "model_name": "m",
        "steps": [{"step_name": f"{-n} s", "duration": n / 8} for n in range(count)],
        "metrics": [{"metric_name": f"m{n % 3}", "value": n} for n in range(count)],
        "tags": {f"t{n}": str(n) for n in range(count)},
        "artifacts": [{"artifact_path": f"p{n:02}"} for n in range(count)],
        "results": {"n": count},
        "batch_id": "b",
    }
    if status:
        document |= {"status": status, "duration": 1.5}
    first = ok(api.put(f"{B}/run/r", json=document), 201)
    assert ok(api.put(f"{B}/run/r", json=document)) == first
    assert run(api) == first
    assert rows(api)["test_run_metrics"] == count


def test_put_leaves_nothing_of_what_was_before(api: TestClient) -> None:
    created_at = ok(api.put(f"{B}/run/r", json={**FULL, "run_id": "r", "status": "running"}), 201)[
        "created_at"
    ]
    detail = ok(api.put(f"{B}/run/r", json={"model_name": "new", "tags": {"x": "y"}}))
    assert detail["created_at"] == created_at
    assert detail["tags"] == {"x": "y"}
    assert (detail["model_name"], detail["results"], detail["steps"]) == ("new", None, [])
    assert (detail["metrics"], detail["artifacts"], detail["hardware"]) == ({}, [], [])
    assert [detail[name] for name in ("error", "creator", "completed_at", "duration", "timeout")] == [
        None
    ] * 5
    assert run(api) == detail
    children = rows(api)
    assert children["test_run_steps"] == children["test_run_metrics"] == children["test_run_results"] == 0


@pytest.mark.parametrize("before", ["completed", "error", "timeout", "cancelled"])
def test_put_does_not_change_how_a_run_ended(api: TestClient, before: str) -> None:
    stored = add(api, status=before, error="as it was")
    for after in [status for status in RunStatus if status != before]:
        answer = problem(api.put(f"{B}/run/r", json={"model_name": "m", "status": after}), 409)
        assert before in answer["detail"]
    problem(api.put(f"{B}/run/r", json={"model_name": "m"}), 409)
    assert run(api) == stored
    changed = ok(api.put(f"{B}/run/r", json={"model_name": "other", "status": before}))
    assert (changed["model_name"], changed["status"]) == ("other", before)


def test_the_address_and_the_document_must_name_the_same_run(api: TestClient) -> None:
    assert ok(api.put(f"{B}/run/a", json={"run_id": "a", "model_name": "m"}), 201)["run_id"] == "a"
    problem(api.put(f"{B}/run/a", json={"run_id": "b", "model_name": "m"}), 422, "run_id")
    problem(api.put(f"{B}/run/c", json={"run_id": "b", "model_name": "m"}), 422, "run_id")
    assert ids(api.get(f"{B}/runs")) == ["a"]


def test_unknown_runs_are_not_found(api: TestClient) -> None:
    add(api)
    before = rows(api)
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/metrics", None),
        ("PATCH", "", {"progress": 0.5}),
        ("POST", "/complete", {}),
        ("POST", "/error", {"error": "x"}),
        ("POST", "/cancel", None),
        ("POST", "/steps", [{"step_name": "s"}]),
        ("POST", "/metrics", [{"metric_name": "m", "value": 1}]),
        ("POST", "/artifacts", [{"artifact_path": "p"}]),
        ("PUT", "/tags", {"a": "b"}),
        ("PUT", "/results", {}),
        ("DELETE", "", None),
    ):
        for run_id in ("R", "x" * 201, "ä b"):
            body_is = {} if body is None else {"json": body}
            detail = problem(api.request(method, f"{B}/run/{run_id}{path}", **body_is), 404)["detail"]
            assert f"There is no run {run_id!r}" in detail
    assert rows(api) == before


def test_a_run_stands_once_however_many_batches_it_is_in(api: TestClient) -> None:
    add(api, "r", batch_id="old", started_at="2026-01-01T00:00:00Z")
    add(api, "other", batch_id="new", started_at="2026-02-01T00:00:00Z")
    ok(api.post(f"{B}/batch/new/runs", json={"run_ids": ["r"]}))
    ok(api.post(f"{B}/batches", json={"batch_id": "a", "run_ids": ["r"]}), 201)
    assert ids(api.get(f"{B}/runs")) == ["other", "r"]
    for told in (ok(api.get(f"{B}/runs"))[1], run(api)):
        assert told["batch_ids"] == ["a", "new", "old"]
        assert told["batch_id"] == "a"
    assert ids(api.get(f"{B}/runs", params={"batch_id": "new"})) == ["other", "r"]
    assert ids(api.get(f"{B}/runs", params={"batch_id": "old"})) == ["r"]
    assert ids(api.get(f"{B}/runs", params={"batch_id": "nope"})) == []


@pytest.fixture
def several(api: TestClient) -> TestClient:
    """Runs that differ in everything one can filter by."""
    for n, (model, kind, hardware, status, tags) in enumerate(
        [
            ("bert", "basic", ["cpu"], "completed", {"branch": "main", "slow": ""}),
            ("bert", "comprehensive", ["cpu", "cuda"], "error", {"branch": "dev"}),
            ("Bert", "basic", ["cuda"], "completed", {"a=b": "c", "branch": "a=b"}),
            ("t5", "basic", [], "running", {"a": "b=c"}),
            ("t5", "fault_tolerance", ["rocm", "cpu"], "cancelled", {}),
        ]
    ):
        add(
            api,
            f"r{n}",
            model_name=model,
            test_type=kind,
            hardware=hardware,
            status=status,
            tags=tags,
            batch_id=f"b{n % 2}",
            started_at=f"2026-01-0{n + 1}T12:00:00Z",
        )
    return api


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "43210"),
    ({"status": "completed"}, "20"),
    ({"status": "error"}, "1"),
    ({"status": "failed"}, "1"),
    ({"status": "timeout"}, ""),
    ({"model_name": "bert"}, "10"),
    ({"model_name": "Bert"}, "2"),
    ({"model_name": "ber%"}, ""),
    ({"test_type": "basic"}, "320"),
    ({"hardware": "cpu"}, "410"),
    ({"hardware": "cuda"}, "21"),
    ({"hardware": "cp"}, ""),
    ({"batch_id": "b1"}, "31"),
    ({"tag": "branch"}, "210"),
    ({"tag": "branch=main"}, "0"),
    ({"tag": "branch="}, ""),
    ({"tag": "slow="}, "0"),
    ({"tag": "slow"}, "0"),
    ({"tag": "main"}, ""),
    ({"tag": "a"}, "3"),
    ({"tag": "a=b"}, "2"),
    ({"tag": "a=b=c"}, "32"),
    ({"tag": "branch=a=b"}, "2"),
    ({"tag": ["branch", "slow"]}, "0"),
    ({"tag": ["branch=main", "branch=dev"]}, ""),
    ({"tag": ["branch", "branch", "a=b"]}, "2"),
    ({"since": "2026-01-03T12:00:00Z"}, "432"),
    ({"since": "2026-01-03T12:00:00.000001Z"}, "43"),
    ({"since": "2026-01-03T14:00:00+02:00"}, "432"),
    ({"since": "2026-01-03 12:00"}, "432"),
    ({"since": "2026-01-04"}, "43"),
    ({"until": "2026-01-03T12:00:00Z"}, "10"),
    ({"until": "2026-01-03T12:00:00.000001"}, "210"),
    ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-04T00:00:00Z"}, "21"),
    ({"since": "2026-01-04T00:00:00Z", "until": "2026-01-02T00:00:00Z"}, ""),
    ({"model_name": "bert", "hardware": "cuda"}, "1"),
    ({"status": "completed", "test_type": "basic", "batch_id": "b0", "hardware": "cuda"}, "2"),
    ({"status": "completed", "tag": "branch=main", "since": "2026-01-01"}, "0"),
    ({"status": "running", "tag": "branch=main"}, ""),
]


def test_filters_alone_and_together(several: TestClient) -> None:
    for filters, found in FILTERS:
        expected = [f"r{n}" for n in found]
        response = several.get(f"{B}/runs", params={**filters, "count": "true"})
        assert ids(response) == expected, filters
        assert response.headers["x-total-count"] == str(len(expected))


def test_a_plus_that_was_not_encoded_in_a_time(several: TestClient) -> None:
    assert ids(several.get(f"{B}/runs?since=2026-01-03T14:00:00+02:00")) == ["r4", "r3", "r2"]


def test_the_total_is_told_only_when_it_is_asked_for(several: TestClient) -> None:
    assert "x-total-count" not in several.get(f"{B}/runs").headers
    assert "x-total-count" not in several.get(f"{B}/runs?count=false").headers
    assert several.get(f"{B}/runs?count=true&limit=2").headers["x-total-count"] == "5"


WRONG_PARAMETERS = [
    ("limit=0", "limit"),
    ("limit=1001", "limit"),
    ("limit=-1", "limit"),
    ("limit=ten", "limit"),
    ("limit=", "limit"),
    ("limit=1.5", "limit"),
    ("limit=99999999999999999999999", "limit"),
    ("count=maybe", "count"),
    ("status=done", "status"),
    ("status=", "status"),
    ("status=COMPLETED", "status"),
    ("model_name=", "model_name"),
    ("model_name=%00", "model_name"),
    ("test_type=", "test_type"),
    ("hardware=", "hardware"),
    ("hardware=a%00b", "hardware"),
    ("batch_id=a%20b", "batch_id"),
    ("tag=", "tag[0]"),
    ("tag=a&tag=%00", "tag[1]"),
    ("since=yesterday", "since"),
    ("since=1700000000", "since"),
    ("since=", "since"),
    ("until=2026-13-01", "until"),
    ("until=0001-01-01T00:00:00%2B01:00", "until"),
    ("stauts=completed", "stauts"),
    ("Status=completed", "Status"),
    ("model=bert", "model"),
    ("%00=1", "\x00"),
    ("offset", "offset"),
]


def test_a_parameter_that_is_wrong_or_unknown_never_widens_the_list(several: TestClient) -> None:
    for query, field in WRONG_PARAMETERS:
        problem(several.get(f"{B}/runs?{query}"), 422, field)


def test_every_wrong_parameter_is_named(api: TestClient) -> None:
    body = problem(api.get(f"{B}/runs?limit=0&status=x&since=y"), 422, "limit", "status", "since")
    assert "2 more" in body["detail"]
    problem(api.get(f"{B}/runs?a=1&b=2&limit=3"), 422, "a", "b")


@pytest.fixture
def series(api: TestClient) -> TestClient:
    add(api, metrics=[{"metric_name": f"m{n % 3}", "value": n, "unit": "ms"} for n in range(25)])
    ok(
        api.post(
            f"{B}/run/r/metrics",
            json=[
                {"name": "m0", "value": 25, "timestamp": "2001-01-01T00:00:00Z"},
                {"name": "m1", "value": 26},
            ],
        )
    )
    return api


def test_the_series_of_a_run_in_the_order_it_was_recorded(series: TestClient) -> None:
    points = ok(series.get(f"{B}/run/r/metrics"))
    assert [point["value"] for point in points] == list(range(27))
    assert all(set(point) == {"metric_name", "value", "unit", "timestamp"} for point in points)
    assert points[25] == {"metric_name": "m0", "value": 25, "unit": "", "timestamp": "2001-01-01T00:00:00Z"}
    of_one = ok(series.get(f"{B}/run/r/metrics?name=m0"))
    assert [point["value"] for point in of_one] == [*range(0, 25, 3), 25]
    assert ok(series.get(f"{B}/run/r/metrics?name=M0")) == []
    summary = run(series)["metrics"]["m0"]
    assert (summary["value"], summary["count"], summary["min"], summary["max"]) == (24, 10, 0, 25)


@pytest.mark.parametrize("limit", [1, 7, 26, 27, 28])
def test_the_series_by_pages(series: TestClient, limit: int) -> None:
    pages = every(series, f"{B}/run/r/metrics?limit={limit}")
    assert [point["value"] for page in pages for point in page] == list(range(27))
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == -(-27 // limit)
    pages = every(series, f"{B}/run/r/metrics?limit={limit}&name=m1")
    assert [point["value"] for page in pages for point in page] == [*range(1, 25, 3), 26]


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("name=", "name"), ("name=%00", "name"), ("cursor=x", "cursor"), ("foo=1", "foo")],
)
def test_wrong_parameters_of_a_series(series: TestClient, query: str, field: str) -> None:
    problem(series.get(f"{B}/run/r/metrics?{query}"), 422, field)


def test_the_same_new_id_from_two_clients_at_once(api: TestClient) -> None:
    for n in range(6):
        answers = at_once(
            lambda who, n=n: api.post(f"{B}/runs", json={"run_id": f"r{n}", "model_name": who}), "a", "b"
        )
        codes = sorted(response.status_code for response in answers.values())
        assert codes == [201, 409], [response.text for response in answers.values()]
        winner = next(who for who, response in answers.items() if response.status_code == 201)
        assert run(api, f"r{n}")["model_name"] == winner
        problem(answers["b" if winner == "a" else "a"], 409)


def test_put_of_one_new_id_from_two_clients_at_once(api: TestClient) -> None:
    document = {"model_name": "m", "batch_id": "b", "steps": [{"step_name": "s"}], "tags": {"a": "b"}}
    for n in range(6):
        answers = at_once(lambda _who, n=n: api.put(f"{B}/run/r{n}", json=document), "a", "b")
        codes = sorted(response.status_code for response in answers.values())
        assert codes == [200, 201], [response.text for response in answers.values()]
        assert answers["a"].json() == answers["b"].json() == run(api, f"r{n}")
    assert len(ok(api.get(f"{B}/batch/b"))["runs"]) == 6


def at_once(send: Any, *clients: str) -> dict[str, Any]:
    """The answer to each client; all send at the same moment."""
    barrier, answers = threading.Barrier(len(clients)), {}

    def work(client: str) -> None:
        barrier.wait()
        answers[client] = send(client)

    threads = [threading.Thread(target=work, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_few_points_and_many_are_summed_up_alike(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    early, late = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00.000001Z"
    add(
        api,
        metrics=[
            {"name": "a", "value": 1.5, "unit": "ms", "timestamp": late},
            {"name": "a", "value": "NaN", "unit": "s", "timestamp": late},
            {"name": "a", "value": -3, "unit": "x", "timestamp": early},
            {"name": "b", "value": "Infinity", "timestamp": early},
            {"name": "größe", "value": 0.1},
            {"name": "größe", "value": 0.2},
        ],
    )
    add(api, "other", metrics=[{"name": "a", "value": 7}])
    few = run(api)["metrics"]
    assert (few["a"]["value"], few["a"]["unit"], few["a"]["count"], few["a"]["min"]) == ("NaN", "s", 2, -3)
    assert (few["b"]["value"], few["b"]["count"], few["b"]["avg"]) == ("Infinity", 0, None)
    monkeypatch.setattr(parts, "FEW_POINTS", 5)
    assert run(api)["metrics"] == few
