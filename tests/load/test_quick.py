"""The mixed load works, and finds no error in a short while."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.load.__main__ import main


@pytest.mark.slow
def test_a_short_load(
    engine_name: str, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTDB_TEST_POSTGRES_URL", postgres_url)
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(
        main, ["--minutes", "0.06", "--engine", engine_name, "--json", str(file)], catch_exceptions=False
    )
    assert (done.exit_code, "All is well." in done.output) == (0, True), done.output
    figures = json.loads(file.read_text())
    assert figures["latencies"].keys() > {
        "list",
        "detail",
        "query",
        "update",
        "metrics arrow",
        "ingest",
        "run",
    }
    assert all(sample["memory"] > 0 and sample["database"] > 0 for sample in figures["samples"])
