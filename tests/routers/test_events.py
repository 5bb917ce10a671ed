"""The stream of a test session: sent in parts, or imported whole."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.routers.helpers import B, add, ok, problem, rows, run

NOW = 1_790_000_000.0


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def begin(run_id: str = "r", **fields: Any) -> dict[str, Any]:
    head = {"event": "session", "format": "testdb-spool", "version": 1, "time": NOW}
    return {**head, "run_id": run_id, "model_name": "m", "hardware": ["cpu"], **fields}


def started(test: str, at: float = 1) -> dict[str, Any]:
    return {"event": "started", "time": NOW + at, "test": test}


def ended(test: str, status: str = "passed", at: float = 2, **fields: Any) -> dict[str, Any]:
    told = {"event": "test", "time": NOW + at, "test": test, "status": status, "started": NOW + at - 0.5}
    return {**told, "duration": 0.5, **fields}


def metric(name: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"event": "metric", "time": NOW + 1, "name": name, "value": value, **fields}


def finished(status: str = "completed", at: float = 10, **fields: Any) -> dict[str, Any]:
    return {"event": "finished", "time": NOW + at, "status": status, **fields}


WHOLE = [
    begin(tags={"branch": "main"}, batch_id="b", creator="me", test_type="nightly"),
    {"event": "collected", "time": NOW, "count": 3},
    started("t.py::a"),
    metric("cpu.latency", 1.5, unit="ms"),
    metric("cpu.latency", "NaN", unit="ms"),
    ended("t.py::a", progress=0.5),
    ended("t.py::b (attempt 1)", "failed", error="first"),
    ended("t.py::b", "failed", at=3, error="second"),
    ended("t.py::c", "skipped", at=4, error="why", progress=1.0),
    {"event": "artifact", "time": NOW + 4, "path": "/x/plot.png", "type": "plot", "description": "p"},
    finished(),
]


def send(api: TestClient, *events: dict[str, Any], run_id: str = "r") -> Any:
    return api.post(f"{B}/run/{run_id}/events", content=lines(*events))


@pytest.mark.parametrize("size", [1, 3, len(WHOLE)])
def test_in_parts_or_whole_it_is_the_same_run(api: TestClient, size: int) -> None:
    for start in range(0, len(WHOLE), size):
        part = WHOLE[start : start + size]
        assert ok(send(api, *part)) == {"run_id": "r", "stored": len(part)}
    sent = run(api)
    assert (sent["status"], sent["progress"], sent["started_at"]) == (
        "completed",
        1.0,
        "2026-09-21T14:13:20Z",
    )
    assert (sent["completed_at"], sent["duration"]) == ("2026-09-21T14:13:30Z", 10.0)
    assert (sent["creator"], sent["test_type"], sent["tags"], sent["batch_ids"]) == (
        "me", "nightly", {"branch": "main"}, ["b"],
    )  # fmt: skip
    assert {step["step_name"]: step["status"] for step in sent["steps"]} == {
        "t.py::a": "passed",
        "t.py::b (attempt 1)": "failed",
        "t.py::b": "failed",
        "t.py::c": "skipped",
        "Completed": "completed",
    }
    assert [sent["results"][f"tests_{name}"] for name in ("passed", "failed", "skipped")] == [1, 1, 1]
    attempts = {item["method"]: item.get("attempts") for item in sent["results"]["test_details"]}
    assert attempts == {"t.py::a": None, "t.py::b": 2, "t.py::c": None}
    assert sent["results"]["metrics"]["cpu.latency"] == {"value": "NaN", "unit": "ms"}
    assert sent["metrics"]["cpu.latency"]["count"] == 1
    assert sent["metrics"]["duration"]["value"] == 10.0
    assert [item["artifact_path"] for item in sent["artifacts"]] == ["/x/plot.png"]
    for _ in range(2):
        answer = ok(api.post(f"{B}/import", content=lines(*WHOLE)))
        assert answer == {"format": "spool", "runs": 1, "warnings": []}
        assert run(api) == sent
    assert ok(api.get(f"{B}/check")) == []


def test_a_running_session_is_seen(api: TestClient) -> None:
    ok(send(api, begin(), started("t.py::a"), ended("t.py::a", progress=0.5), started("t.py::b", at=2)))
    found = run(api)
    assert (found["status"], found["progress"], found["current_step"]) == ("running", 0.5, "t.py::b")
    assert {step["step_name"]: step["status"] for step in found["steps"]} == {
        "t.py::a": "passed",
        "t.py::b": "running",
    }
    assert found["results"] is None


@pytest.mark.parametrize("status", ["error", "cancelled"])
def test_a_session_that_does_not_complete(api: TestClient, status: str) -> None:
    ok(send(api, begin(), started("t.py::a"), ended("t.py::a"), started("t.py::b", at=2)))
    ok(send(api, finished(status, error="why")))
    found = run(api)
    assert (found["status"], found["error"], found["current_step"]) == (status, "why", status.title())
    steps = {step["step_name"]: step["status"] for step in found["steps"]}
    assert steps["t.py::b"] == status
    assert "duration" not in found["metrics"]


def test_a_session_that_stops_early(api: TestClient) -> None:
    ok(send(api, begin(), started("t.py::a"), ended("t.py::a", progress=0.25), started("t.py::b", at=3)))
    ok(send(api, finished(error="stopping after 1 failures")))
    found = run(api)
    assert (found["status"], found["progress"]) == ("completed", 0.25)
    assert {step["step_name"]: step["status"] for step in found["steps"]}["t.py::b"] == "cancelled"


def test_the_end_may_be_sent_twice_but_nothing_comes_after_it(api: TestClient) -> None:
    ok(send(api, *WHOLE))
    before = run(api)
    ok(send(api, WHOLE[-1]))
    assert run(api) == before
    problem(send(api, ended("t.py::late")), 409)
    problem(send(api, finished("error")), 409)
    problem(send(api, begin()), 409)
    assert run(api) == before


def test_parts_of_a_run_that_is_not_there(api: TestClient) -> None:
    problem(send(api, started("t.py::a")), 404)
    problem(send(api, finished()), 404)
    problem(send(api, begin("other")), 422, "[0].run_id")
    assert rows(api)["test_runs"] == 0


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"event": "launch", "time": NOW}, ""),
        ({"time": NOW}, ""),
        ({"event": "test", "time": NOW}, "test.test"),
        (ended("t", "completed"), "test.status"),
        (ended("t", duration=-1), "test.duration"),
        (ended("t", started="now"), "test.started"),
        (ended("t", progress=1.5), "test.progress"),
        (ended("t", error="\x00"), "test.error"),
        (ended("t", colour="red"), "test.colour"),
        (ended("x" * 2001), "test.test"),
        (metric("", 1), "metric.name"),
        (metric("m", "much"), "metric.value"),
        (metric("m", True), "metric.value"),
        (started("t") | {"time": 1e300}, "started.time"),
        (started("t") | {"time": True}, "started.time"),
        (finished("running"), "finished.status"),
        (begin(version=2), "session.version"),
        (begin(format="junit"), "session.format"),
        (begin("a b"), "session.run_id"),
    ],
)
def test_a_bad_event_stores_nothing_of_its_part(api: TestClient, event: dict[str, Any], field: str) -> None:
    place = f"[2].{field}".rstrip(".")
    named = problem(send(api, begin(), ended("t.py::a"), event), 422)["errors"][0]["field"]
    assert named.startswith(place)
    assert rows(api)["test_runs"] == 0
    found = problem(api.post(f"{B}/import", content=lines(begin(), ended("t.py::a"), event)), 422)
    assert found["errors"][0]["field"].startswith(place)
    assert rows(api)["test_runs"] == 0


@pytest.mark.parametrize("body", [b"", b"\n\n", b"[]", b"{", b"null\n", b"\xff\xfe\n", b'{"event": NaN}\n'])
def test_what_is_no_stream(api: TestClient, body: bytes) -> None:
    problem(api.post(f"{B}/run/r/events", content=body), 422)


def test_compressed(api: TestClient) -> None:
    ok(api.post(f"{B}/run/r/events", content=gzip.compress(lines(*WHOLE))))
    assert run(api)["status"] == "completed"
    ok(api.post(f"{B}/import", content=gzip.compress(lines(begin("s"), *WHOLE[1:]))))
    assert run(api, "s")["results"] == run(api)["results"]


def test_a_spool_that_breaks_off(api: TestClient) -> None:
    body = lines(*WHOLE[:3], started("t.py::b")) + b'{"event":"te'
    answer = ok(api.post(f"{B}/import", content=body))
    assert answer["warnings"] == ["the last line is cut off, and was left out"]
    found = run(api)
    assert found["status"] == "error"
    assert found["error"] == "The test session broke off without an end, while running t.py::a, t.py::b."
    assert found["results"]["tests_failed"] == 2


def test_what_an_import_of_a_spool_is_told(api: TestClient) -> None:
    query = "tag=by=hand&batch_id=late&model_name=x&hardware=cuda&test_type=y&per=suite"
    answer = ok(api.post(f"{B}/import?{query}", content=lines(*WHOLE)))
    assert [warning.split()[0] for warning in answer["warnings"]] == [
        "model_name",
        "hardware",
        "test_type",
        "per",
    ]
    found = run(api)
    assert (found["tags"], found["batch_ids"]) == ({"branch": "main", "by": "hand"}, ["late"])
    assert (found["model_name"], found["hardware"]) == ("m", ["cpu"])


def test_an_import_replaces_the_run_and_keeps_its_batches(api: TestClient) -> None:
    add(api, "r", batch_id="old", steps=[{"step_name": "s", "status": "passed"}], tags={"gone": "1"})
    ok(api.post(f"{B}/import", content=lines(*WHOLE)))
    found = run(api)
    assert set(found["batch_ids"]) == {"old", "b"}
    assert found["tags"] == {"branch": "main"}
    assert "s" not in {step["step_name"] for step in found["steps"]}


def test_many_tests(api: TestClient) -> None:
    tests = [ended(f"t.py::test[{number}]", at=number / 100) for number in range(5000)]
    ok(api.post(f"{B}/import", content=lines(begin(), *tests, finished(at=100))))
    found = run(api)
    assert found["results"]["tests_passed"] == 5000
    assert [step["step_name"] for step in found["steps"][:-1]] == [event["test"] for event in tests]
