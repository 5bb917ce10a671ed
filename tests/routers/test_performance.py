"""The performance report, part by part, compared with a plain computation over the same runs."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.routers import history
from tests.routers.helpers import SUMMARY, B, add, ok, problem
from tests.routers.history import close, counts, durations, mean, newest_first, percentile, started

PARTS = {
    "daily_stats", "model_stats", "hardware_stats", "latest_runs", "performance_metrics", "metric_summary",
    "generated_at",
}  # fmt: skip


@pytest.fixture
def runs(api: TestClient) -> list[history.Run]:
    made = history.generate(300, datetime.now(UTC), seed=11)
    history.store(api, made)
    return made


@pytest.fixture(params=["", "days=1", "days=365", "model_name=gpt2", "days=14&model_name=bert-base"])
def chosen(request: pytest.FixtureRequest, runs: list[history.Run]) -> tuple[str, list[history.Run]]:
    """The address of a report, and the runs that it is about."""
    filters = dict(item.split("=") for item in request.param.split("&") if item)
    start = datetime.now(UTC) - timedelta(days=int(filters.get("days", 30)))
    model = filters.get("model_name")
    of = [run for run in runs if started(run) >= start and model in (None, run["model_name"])]
    return f"{B}/performance?{request.param}", newest_first(of)


def daily(runs: list[history.Run]) -> list[dict[str, Any]]:
    days = defaultdict(list)
    for run in runs:
        days[started(run).astimezone(UTC).date()].append(run)
    return [
        {"day": day.isoformat(), **counts(of), "avg_duration": mean(durations(of))}
        for day, of in sorted(days.items(), reverse=True)
    ]


def summaries(run: history.Run) -> dict[str, Any]:
    """The metrics of a run by name, but for the time of the latest point."""
    series = defaultdict(list)
    for metric in run["metrics"]:
        series[metric["metric_name"]].append(metric)
    found = {}
    for name, points in series.items():
        values = history.finite(point["value"] for point in points)
        found[name] = {
            "value": points[-1]["value"],
            "unit": points[-1]["unit"],
            "count": len(values),
            "min": min(values, default=None),
            "max": max(values, default=None),
            "avg": mean(values),
        }
    return found


def groups(runs: list[history.Run]) -> list[dict[str, Any]]:
    values = defaultdict(list)
    for run in runs:
        for metric in run["metrics"]:
            key = (run["model_name"], tuple(run["hardware"]), metric["metric_name"], metric["unit"])
            values[key] += history.finite([metric["value"]])
    return [
        {
            "model_name": model,
            "hardware": list(hardware),
            "metric_name": name,
            "metric_unit": unit,
            "count": len(found),
            "avg": mean(found),
            "min": min(found),
            "max": max(found),
            **{f"p{part}": percentile(found, part / 100) for part in (50, 95, 99)},
        }
        for (model, hardware, name, unit), found in values.items()
        if found
    ]


def test_every_part(api: TestClient, chosen: tuple[str, list[history.Run]]) -> None:
    url, runs = chosen
    before = datetime.now(UTC)
    report = ok(api.get(url))
    assert set(report) == PARTS
    assert before <= datetime.fromisoformat(report["generated_at"]) <= datetime.now(UTC)
    assert report["generated_at"].endswith("Z")
    assert report["daily_stats"] == close(daily(runs))
    assert report["model_stats"] == close(history.by_model(runs))
    assert report["hardware_stats"] == close(history.by_platform(runs))

    latest = report["latest_runs"]
    assert [run["run_id"] for run in latest] == [run["run_id"] for run in runs[:20]]
    assert all(set(run) == SUMMARY for run in latest)
    listed = {run["run_id"]: run for run in ok(api.get(f"{B}/runs?limit=1000"))}
    assert latest == [listed[run["run_id"]] for run in latest]

    measured = [run for run in runs if run["status"] == "completed" and run["metrics"]][:100]
    rows = report["performance_metrics"]
    assert [row["run_id"] for row in rows] == [run["run_id"] for run in measured]
    for row, run in zip(rows, measured, strict=True):
        detail = ok(api.get(f"{B}/run/{run['run_id']}")) if row is rows[0] else None
        if detail:
            assert row == {name: detail[name] for name in row}
        times = [summary.pop("timestamp") for summary in row["metrics"].values()]
        assert all(time.endswith("Z") for time in times)
        assert row["metrics"] == close(summaries(run))
        assert set(row) == {
            "run_id", "model_name", "hardware", "test_type", "duration", "completed_at", "metrics"
        }  # fmt: skip

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["model_name"], row["hardware"], row["metric_name"], row["metric_unit"]

    expected = sorted(groups(runs), key=key)
    assert sorted(report["metric_summary"], key=key) == close(expected)


def test_the_history_is_large_enough(runs: list[history.Run]) -> None:
    completed = [run for run in runs if run["status"] == "completed"]
    assert len([run for run in completed if run["metrics"]]) > 100
    assert {run["status"] for run in runs} == set(history.STATUSES)
    assert any(run.get("duration") == "NaN" for run in completed)


def test_a_report_on_nothing(api: TestClient) -> None:
    report = ok(api.get(f"{B}/performance"))
    assert report.pop("generated_at")
    assert report == {part: [] for part in PARTS - {"generated_at"}}
    add(api, started_at=(datetime.now(UTC) - timedelta(days=31)).isoformat(), metrics={"x": 1})
    assert ok(api.get(f"{B}/performance"))["model_stats"] == []
    assert len(ok(api.get(f"{B}/performance?days=32"))["model_stats"]) == 1
    assert ok(api.get(f"{B}/performance?days=32&model_name=M"))["latest_runs"] == []


def test_a_day_is_a_day_of_utc(api: TestClient) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    midnights = [today - timedelta(days=2), today - timedelta(days=1)]
    for n, moment in enumerate([midnights[0], midnights[1] - timedelta(microseconds=1), midnights[1]]):
        abroad = moment.isoformat().replace("+00:00", "") + "Z"
        add(api, f"r{n}", started_at=abroad, status="error")
    # Yesterday in UTC, today in the east.
    east = (midnights[1] + timedelta(hours=23, minutes=59)).isoformat().replace("+00:00", "")
    shifted = (datetime.fromisoformat(east) + timedelta(hours=14)).isoformat() + "+14:00"
    add(api, "east", started_at=shifted, status="timeout")
    days = ok(api.get(f"{B}/performance?days=4"))["daily_stats"]
    assert [(day["day"], day["total_runs"], day["failed_runs"]) for day in days] == [
        (midnights[1].date().isoformat(), 2, 2),
        (midnights[0].date().isoformat(), 2, 2),
    ]


@pytest.mark.parametrize("bad", ["days=0", "days=366", "days=x", "days=", "model_name=", "hardware=cpu"])
def test_bad_parameters(api: TestClient, bad: str) -> None:
    problem(api.get(f"{B}/performance?{bad}"), 422, bad.partition("=")[0])
