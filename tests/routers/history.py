"""A generated history of runs, and what statistics over it must say, computed the slow and obvious way."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from tests.routers.helpers import B, ok

Run = dict[str, Any]

MODELS = ["bert-base", "gpt2", "resnet50", "t5-small", "whisper"]
PLATFORMS = [["cpu"], ["cuda"], ["openvino"], ["cpu", "cuda"], ["cuda", "cpu"], ["cpu", "openvino"], []]
STATUSES = ["completed"] * 6 + ["error", "timeout", "cancelled", "running", "initializing"]
FAILED = ("error", "timeout")
TERMINAL = ("completed", *FAILED, "cancelled")
METRICS = [("latency", "ms"), ("latency", "s"), ("memory", "mb"), ("accuracy", "")]
NOT_FINITE = ["NaN", "Infinity", "-Infinity"]


def generate(count: int, now: datetime, seed: int = 7) -> list[Run]:
    """RunDocuments over the last sixty days; no start is close to a whole number of days before now."""
    chance = random.Random(seed)
    runs = []
    for n in range(count):
        day = min(chance.randrange(61), chance.randrange(61))
        started = now - timedelta(days=day, hours=chance.uniform(2, 22))
        run: Run = {
            "run_id": f"run-{n:04}",
            "model_name": chance.choice(MODELS),
            "hardware": chance.choice(PLATFORMS),
            "test_type": chance.choice(["basic", "comprehensive", "fault_tolerance"]),
            "status": chance.choice(STATUSES),
            "started_at": started.isoformat(),
        }
        length = chance.random()
        if length < 0.75:
            run["duration"] = chance.choice([chance.uniform(0, 500), chance.expovariate(0.01), 0.0, 60])
        elif length < 0.85:
            run["duration"] = chance.choice(["NaN", "Infinity"])
        if chance.random() < 0.7:
            run["results"] = {
                f"tests_{name}": chance.randrange(200) for name in ("passed", "failed", "skipped")
            }
        run["metrics"] = [
            {"metric_name": name, "value": _value(chance), "unit": unit}
            for name, unit in METRICS
            if chance.random() < 0.6
            for _ in range(chance.randrange(1, 5))
        ]
        if chance.random() < 0.3:
            run["batch_id"] = chance.choice(["nightly", "weekly"])
        runs.append(run)
    # What statistics must not trip over: a model whose runs never ended, one without finite durations.
    for n, (status, duration) in enumerate([("running", 5), ("initializing", None), ("completed", "NaN")]):
        runs.append(
            {
                "run_id": f"odd-{n}",
                "model_name": "odd" if n == 2 else "live",
                "hardware": "qnn",
                "status": status,
                "duration": duration,
                "test_type": "basic",
                "started_at": (now - timedelta(hours=3 + n)).isoformat(),
                "metrics": [],
            }
        )
    return runs


def _value(chance: random.Random) -> float | str:
    if chance.random() < 0.1:
        return chance.choice(NOT_FINITE)
    return chance.choice([chance.gauss(0, 100), chance.random() * 1e12, 1e-9 * chance.random(), 7.0])


def store(client: Any, runs: list[Run]) -> None:
    """Stores the runs; those of the batch `nightly` are in `weekly`, too."""
    ok(client.post(f"{B}/ingest", json=runs))
    nightly = [run["run_id"] for run in runs if run.get("batch_id") == "nightly"]
    ok(client.post(f"{B}/batch/weekly/runs", json={"run_ids": nightly}))


def started(run: Run) -> datetime:
    return datetime.fromisoformat(run["started_at"])


def newest_first(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (-started(run).timestamp(), run["run_id"]))


def finite(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(float(value))]


def durations(runs: Iterable[Run]) -> list[float]:
    """The finite durations of those that completed."""
    return finite(run.get("duration") for run in runs if run["status"] == "completed")


def mean(values: list[float]) -> float | None:
    return float(sum(map(Fraction, values)) / len(values)) if values else None


def percentile(values: list[float], fraction: float) -> float | None:
    """Linear interpolation between the two nearest ranks."""
    if not values:
        return None
    ordered = sorted(values)
    position = Fraction(str(fraction)) * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    between = Fraction(ordered[high]) - Fraction(ordered[low])
    return float(Fraction(ordered[low]) + (position - low) * between)


def counts(runs: list[Run]) -> dict[str, int]:
    statuses = [run["status"] for run in runs]
    return {
        "total_runs": len(runs),
        "completed_runs": statuses.count("completed"),
        "failed_runs": sum(status in FAILED for status in statuses),
        "cancelled_runs": statuses.count("cancelled"),
    }


def statistics(runs: list[Run]) -> dict[str, Any]:
    """Every field of ModelStats and HardwareStats but the key."""
    lengths = durations(runs)
    ended = sum(run["status"] in TERMINAL for run in runs)
    latest = max(map(started, runs)).astimezone(UTC)
    return {
        **counts(runs),
        "success_rate": counts(runs)["completed_runs"] / ended if ended else None,
        "avg_duration": mean(lengths),
        "min_duration": min(lengths, default=None),
        "max_duration": max(lengths, default=None),
        "p50_duration": percentile(lengths, 0.5),
        "p95_duration": percentile(lengths, 0.95),
        **{
            name: sum(run.get("results", {}).get(name, 0) for run in runs)
            for name in ("tests_passed", "tests_failed", "tests_skipped")
        },
        "latest_run": latest.isoformat().replace("+00:00", "Z"),
    }


def by(key: str, runs: Iterable[Run], keys: Callable[[Run], Iterable[str]]) -> list[dict[str, Any]]:
    """A row of statistics for each key, most runs first; a run may have several keys."""
    groups = defaultdict(list)
    for run in runs:
        for name in keys(run):
            groups[name].append(run)
    rows = [{key: name, **statistics(members)} for name, members in groups.items()]
    return sorted(rows, key=lambda row: (-row["total_runs"], row[key]))


def by_model(runs: Iterable[Run]) -> list[dict[str, Any]]:
    return by("model_name", runs, lambda run: [run["model_name"]])


def platforms(run: Run) -> list[str]:
    hardware = run["hardware"]
    return [hardware] if isinstance(hardware, str) else hardware


def by_platform(runs: Iterable[Run]) -> list[dict[str, Any]]:
    return by("hardware", runs, platforms)


def close(value: Any) -> Any:
    """The value with every float in it replaced by one that equals its neighbours."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-9, abs=1e-300)
    if isinstance(value, dict):
        return {name: close(item) for name, item in value.items()}
    if isinstance(value, list):
        return [close(item) for item in value]
    return value
