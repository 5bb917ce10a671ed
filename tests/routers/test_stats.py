"""Statistics of models and platforms, compared with a plain computation over the same runs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.routers import history
from tests.routers.helpers import B, add, ok, problem
from tests.routers.history import by_model, by_platform, close, mean, percentile, platforms, started

LARGEST = sys.float_info.max
SMALLEST = 5e-324


@pytest.fixture
def runs(api: TestClient) -> list[history.Run]:
    made = history.generate(300, datetime.now(UTC))
    history.store(api, made)
    return made


def since(runs: list[history.Run], days: int | None) -> list[history.Run]:
    start = datetime.now(UTC) - timedelta(days=days or 36_500)
    return [run for run in runs if started(run) >= start]


def query(**filters: Any) -> str:
    return "&".join(f"{name}={value}" for name, value in filters.items() if value is not None)


def test_models(api: TestClient, runs: list[history.Run]) -> None:
    hardware = [None, "cpu", "cuda", "openvino", "qnn", "cp", "CPU"]
    for days, platform, test_type in product([None, 1, 30], hardware, [None, "basic", "none"]):
        chosen = [
            run
            for run in since(runs, days)
            if (platform is None or platform in platforms(run)) and test_type in (None, run["test_type"])
        ]
        url = f"{B}/models/stats?{query(days=days, hardware=platform, test_type=test_type)}"
        assert ok(api.get(url)) == close(by_model(chosen)), url


def test_hardware(api: TestClient, runs: list[history.Run]) -> None:
    for days, model, test_type in product(
        [None, 1, 30], [None, "bert-base", "live", "odd", "none"], [None, "comprehensive", "none"]
    ):
        chosen = [
            run
            for run in since(runs, days)
            if model in (None, run["model_name"]) and test_type in (None, run["test_type"])
        ]
        url = f"{B}/hardware/stats?{query(days=days, model_name=model, test_type=test_type)}"
        assert ok(api.get(url)) == close(by_platform(chosen)), url


def test_figures_that_do_not_exist_are_null(api: TestClient, runs: list[history.Run]) -> None:
    rows = {row["model_name"]: row for row in ok(api.get(f"{B}/models/stats"))}
    assert (rows["live"]["total_runs"], rows["live"]["success_rate"]) == (2, None)
    assert rows["odd"]["success_rate"] == 1.0
    for name in ("avg", "min", "max", "p50", "p95"):
        assert rows["live"][f"{name}_duration"] is rows["odd"][f"{name}_duration"] is None


def test_nothing(api: TestClient) -> None:
    for url in ("models/stats", "hardware/stats", "models/stats?days=7&hardware=cpu&test_type=basic"):
        assert ok(api.get(f"{B}/{url}")) == []


def test_a_run_on_no_platform_is_of_its_model_alone(api: TestClient) -> None:
    add(api, hardware=[], status="cancelled")
    assert ok(api.get(f"{B}/hardware/stats")) == []
    (row,) = ok(api.get(f"{B}/models/stats"))
    assert (row["total_runs"], row["cancelled_runs"], row["success_rate"]) == (1, 1, 0.0)


def test_names_are_taken_as_they_are(api: TestClient) -> None:
    names = ["a%b", "A%b", "a b", "名\U0001f600", "x'); DROP TABLE test_runs; --", "{a,b}", 'q"\\']
    for n, name in enumerate(names):
        add(api, f"r{n}", model_name=name, hardware=[name, "cpu"], test_type=name)
    for name in names:
        (row,) = ok(api.get(f"{B}/models/stats", params={"hardware": name, "test_type": name}))
        assert (row["model_name"], row["total_runs"]) == (name, 1)
        found = ok(api.get(f"{B}/hardware/stats", params={"model_name": name, "test_type": name}))
        assert {row["hardware"] for row in found} == {name, "cpu"}
    assert len(ok(api.get(f"{B}/models/stats"))) == len(names)


def test_sums_outgrow_a_column(api: TestClient) -> None:
    results = {f"tests_{name}": 2**31 - 1 for name in ("passed", "failed", "skipped")}
    runs = [{"model_name": "m", "hardware": "cpu", "batch_id": "b", "results": results} for _ in range(3)]
    ok(api.post(f"{B}/ingest", json=runs))
    (model,) = ok(api.get(f"{B}/models/stats"))
    (platform,) = ok(api.get(f"{B}/hardware/stats"))
    total = ok(api.get(f"{B}/batch/b"))
    for name in results:
        assert model[name] == platform[name] == total[f"total_{name}"] == 3 * (2**31 - 1)


@pytest.mark.parametrize(
    ("endpoint", "bad"),
    [
        (endpoint, bad)
        for endpoint in ("models/stats", "hardware/stats")
        for bad in ("days=0", "days=-1", "days=x", "days=1.5", "days=36501", "days=", "limit=1", "test_type=")
    ]
    + [("models/stats", "model_name=m"), ("hardware/stats", "hardware=cpu"), ("models/stats", "hardware=")],
)
def test_bad_parameters(api: TestClient, endpoint: str, bad: str) -> None:
    problem(api.get(f"{B}/{endpoint}?{bad}"), 422, bad.partition("=")[0])


finite = st.floats(allow_nan=False, allow_infinity=False)
edges = st.sampled_from([LARGEST, -LARGEST, 1e308, SMALLEST, -SMALLEST, 2.3e-308, 0.0, -0.0, 0.1, 1.0])
values = st.lists(edges | finite, min_size=1, max_size=12)
numbers = count()


def right(found: float, exact: float | None, of: list[float]) -> bool:
    """Within 1e-9 of the exact figure; where signs cancel, of the values; and two of the smallest steps."""
    assert exact is not None
    scale = max(map(abs, of)) if min(of) < 0 < max(of) else abs(exact)
    return abs(found - exact) <= 1e-9 * scale + 2 * SMALLEST


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(measured=values, lengths=values)
@example(measured=[SMALLEST], lengths=[SMALLEST, 0.0])
@example(measured=[LARGEST] * 100, lengths=[LARGEST] * 100)
@example(measured=[LARGEST, -LARGEST], lengths=[1e308, SMALLEST])
@example(measured=[0.1] * 3, lengths=[1e-300] * 7)
@example(measured=[-1.7e308, 1.7e308, 1.7e308], lengths=[2.2250738585072014e-308, SMALLEST * 3])
def test_figures_of_any_finite_number(api: TestClient, measured: list[float], lengths: list[float]) -> None:
    name, lengths = f"m{next(numbers)}", [abs(length) for length in lengths]
    # Ascending, so that the latest point of the series is known.
    metrics = [{"metric_name": "x", "value": value, "unit": "u"} for value in measured]
    run = {"model_name": name, "hardware": [name], "test_type": name, "status": "completed"}
    runs = [{**run, "duration": length, "run_id": f"{name}-{n}"} for n, length in enumerate(lengths)]
    ok(api.post(f"{B}/ingest", json=[{**runs[0], "metrics": metrics}, *runs[1:]]))

    (model,) = ok(api.get(f"{B}/models/stats?hardware={name}"))
    (platform,) = ok(api.get(f"{B}/hardware/stats?test_type={name}"))
    report = ok(api.get(f"{B}/performance?model_name={name}"))
    detail = ok(api.get(f"{B}/run/{name}-0"))

    for row in (model, platform, *report["model_stats"], *report["hardware_stats"]):
        assert (row["min_duration"], row["max_duration"]) == (min(lengths), max(lengths))
        assert min(lengths) <= row["avg_duration"] <= max(lengths)
        assert right(row["avg_duration"], mean(lengths), lengths)
        assert right(row["p50_duration"], percentile(lengths, 0.5), lengths)
        assert right(row["p95_duration"], percentile(lengths, 0.95), lengths)
    (day,) = report["daily_stats"]
    assert right(day["avg_duration"], mean(lengths), lengths)
    (summed,) = report["performance_metrics"]
    (group,) = report["metric_summary"]
    assert summed["metrics"] == detail["metrics"]
    assert detail["metrics"]["x"]["value"] == measured[-1]
    for row in (group, detail["metrics"]["x"]):
        assert (row["min"], row["max"], row["count"]) == (min(measured), max(measured), len(measured))
        assert min(measured) <= row["avg"] <= max(measured)
        assert right(row["avg"], mean(measured), measured)
    for part in (50, 95, 99):
        assert right(group[f"p{part}"], percentile(measured, part / 100), measured)
