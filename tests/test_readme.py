"""What the README tells to paste works as it stands."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.helpers import answer
from tests.server import run

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_of_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = README.split("<!-- suite example -->")[1].split("```sh\n")[1].split("```")[0]
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)
    options = ("--db-path", "runs.duckdb", "--suites", "my-suite", "--json")
    done = run("run", "square", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["results"]["tests_passed"], found["results"]["tests_failed"]) == (5, 0)
    assert found["metrics"]["cpu.latency"]["unit"] == "ms"
    assert [item["artifact_type"] for item in found["artifacts"]] == ["report", "log", "result"]
    assert answer("run", "square", "--type", "quick", *options[:-1])["results"]["tests_passed"] == 3
