"""Exports, imports and moves take no more memory for many runs, or runs with many tests, than for a few."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.cli import main as command_line
from app.db import Database
from app.db.bulk import insert_many
from app.models import TestRun, TestRunMetric, TestRunResult, TestRunStep, new_metric_ids
from app.schemas.transfer import ImportOptions
from app.services.export import write_export
from app.services.importing import import_file

START = datetime(2026, 1, 1, tzinfo=UTC)
MANY_RUNS = (2000, 10, 3)
MANY_TESTS = (16, 0, 2500)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be measured on Linux")
@pytest.mark.parametrize(("runs", "metrics", "steps"), [MANY_RUNS, MANY_TESTS])
def test_memory_stays_flat(
    new_url: Callable[..., str], tmp_path: Path, runs: int, metrics: int, steps: int
) -> None:
    numbers = [str(number) for number in (runs, metrics, steps)]
    urls = [new_url(), new_url(), new_url(migrated=False)]
    command = [sys.executable, "-m", __name__, *urls, str(tmp_path / "export.json"), *numbers]
    root = Path(__file__).parents[2]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root, timeout=120)
    grown = json.loads(finished.stdout.splitlines()[-1])
    assert grown["stored"] == runs
    assert grown["file"] > 5
    assert grown["export"] < 90, grown
    assert grown["import"] < 80, grown
    assert grown["move"] < 70, grown


def main(source: str, target: str, moved: str, file: str, *numbers: str) -> None:
    """Prints by how many megabytes an export, import and move of that many runs made this process grow."""
    path, grown = Path(file), {}
    fill(source, 2, 1, 1)  # what is loaded with the first of each is not counted
    transfer(source, target, path)
    fill(source, *map(int, numbers))
    grown["export"], grown["import"], grown["stored"] = transfer(source, target, path)
    grown["move"] = growth(lambda: command_line(["move", source, moved, "--json"], standalone_mode=False))
    print(json.dumps({**grown, "file": path.stat().st_size / 1e6}))  # noqa: T201


def transfer(source: str, target: str, path: Path) -> tuple[float, float, int]:
    database = Database(source)
    with path.open("wb") as output:
        exported = growth(lambda: database.read(write_export, output))
    database.close()
    database, stored = Database(target), []
    with path.open("rb") as stream:
        imported = growth(lambda: stored.append(database.write(import_file, stream, ImportOptions())))
    database.close()
    return exported, imported, stored[0].runs


def growth(work: Callable[[], Any]) -> float:
    """How many megabytes more than at its start the process had at its largest during the work."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = measured("VmRSS")
    work()
    return measured("VmHWM") - before


def measured(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1000


def fill(url: str, runs: int, metrics: int, steps: int) -> None:
    database = Database(url)
    for start in range(0, runs, max(1, 40_000 // (metrics + steps))):
        ids = [f"run-{n:06}" for n in range(start, min(runs, start + max(1, 40_000 // (metrics + steps))))]
        database.write(insert, ids, metrics, steps)
    database.close()


def insert(session: Session, ids: list[str], metrics: int, steps: int) -> None:
    for table in (TestRunResult, TestRunStep, TestRunMetric, TestRun):
        session.query(table).where(table.run_id.in_(ids)).delete()
    details = [{"method": f"test_{n}", "status": "passed", "duration_ms": 1.25} for n in range(steps)]
    begun = {"model_name": "m", "hardware": ["cpu"], "status": "completed", "duration": 1.5}
    insert_many(
        session,
        TestRun,
        [{"run_id": id_, **begun, "started_at": START + timedelta(seconds=int(id_[4:]))} for id_ in ids],
    )
    insert_many(
        session,
        TestRunResult,
        [{"run_id": id_, "tests_passed": steps, "result_data": {"test_details": details}} for id_ in ids],
    )
    insert_many(
        session,
        TestRunStep,
        [
            {"run_id": id_, "step_name": f"tests/test_model.py::test_{n}[cpu]", "status": "passed"}
            for id_ in ids
            for n in range(steps)
        ],
    )
    points = [(id_, n) for id_ in ids for n in range(metrics)]
    insert_many(
        session,
        TestRunMetric,
        [
            {"run_id": id_, "id": key, "metric_name": f"m{n}", "metric_value": n * 1.5, "metric_unit": "ms"}
            for (id_, n), key in zip(points, new_metric_ids(len(points)), strict=True)
        ],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
