"""The benchmark works, and its data is what the product would have stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from app import cli
from app.db import Database
from tests.benchmarks.__main__ import main
from tests.benchmarks.data import fill
from tests.factories import contents

RUNS = 200


def test_the_history_is_sound(url: str) -> None:
    fill(url, RUNS, until=datetime(2026, 3, 1))
    checked = CliRunner().invoke(cli.main, ["check", "--database-url", url])
    assert (checked.exit_code, checked.output) == (0, "No broken rows.\n")
    database = Database(url)
    rows = database.read(lambda session: contents(session.connection()))
    database.close()
    runs = rows["test_runs"]
    assert len(runs) == RUNS
    assert [round(len(rows[f"test_run_{part}"]) / RUNS) for part in ("steps", "metrics", "tags")] == [
        5,
        20,
        2,
    ]
    assert all(run["started_at"] < run["completed_at"] < datetime(2026, 3, 2, tzinfo=UTC) for run in runs)
    assert {tuple(run["hardware"]) for run in runs} > {("cpu",), ("cpu", "cuda")}
    with pytest.raises(ValueError, match="has runs already"):
        fill(url, RUNS)


def test_a_case_is_compared(
    engine_name: str, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTDB_TEST_POSTGRES_URL", postgres_url)
    file = tmp_path / "figures.json"
    options = ["--quick", "--no-mlflow", "--engine", engine_name, "--runs", str(RUNS), "--json", str(file)]
    done = CliRunner().invoke(main, [*options, "--only", "list"], catch_exceptions=False)
    assert done.exit_code == 0
    (result,) = json.loads(file.read_text())["results"]
    assert (result["engine"], result["case"]) == (engine_name, "list")
    assert all(figures["ms"][0] > 0 for figures in result["contestants"].values())
    assert result["ratios"]["server / limit"][0] > 0
