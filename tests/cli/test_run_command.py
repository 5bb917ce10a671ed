"""testdb run: on a server, or straight on a database."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.helpers import Way, answer, invoke, options_of
from tests.runner.conftest import processes, suite
from tests.server import TESTDB, environment, run, serving

__all__ = ["suite"]


@pytest.fixture(params=["direct", "server"])
def way(
    request: pytest.FixtureRequest,
    suite: Path,
    tmp_path: Path,
    duckdb_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[str, ...]]:
    """The options of a way on which tests run, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    file = shutil.copy(duckdb_template, tmp_path / "runs.duckdb")
    database: Way = options_of(f"duckdb:///{file}")
    if request.param == "direct":
        yield *database, "--suites", str(suite)
        return
    env = {"MARKER_OF_THE_TEST": f"marker-{tmp_path}"}
    with serving(tmp_path, *database, "--suites", str(suite), env=env) as server:
        yield "--url", server.url


def test_it_succeeds_when_every_test_passed(way: tuple[str, ...], tmp_path: Path) -> None:
    done = run(
        "run", "alpha", "--type", "good", "--tag", "a=b=c", "--batch", "nightly", *way, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "2 passed, 0 failed, 0 skipped" in done.stdout
    assert "test_good.py::test_metrics[cpu]" in done.stdout
    assert "100%" in done.stderr
    found = answer("run", "alpha", "--type", "good", *way)
    assert (found["status"], found["results"]["tests_passed"]) == ("completed", 2)
    assert Path(found["result_file"]).is_file()
    data = [option for option in way if option != "--suites" and not option.endswith("suite")]
    listed = answer("runs", *data)
    assert [item["tags"] for item in listed] == [{}, {"a": "b=c"}]
    assert listed[1]["batch_id"] == "nightly"
    assert invoke("delete", "--yes", found["run_id"], *data).exit_code == 0
    assert not Path(found["result_file"]).parent.exists()


def test_it_fails_when_a_test_did(way: tuple[str, ...]) -> None:
    for test_type, told in (("mixed", "4 passed, 2 failed, 2 skipped"), ("exit", "exited with code 7")):
        done = invoke("run", "alpha", "--type", test_type, *way)
        assert done.exit_code == 1
        assert told in done.stdout


def test_the_time_limit(way: tuple[str, ...]) -> None:
    done = invoke("run", "alpha", "--type", "slow", "--timeout", "2", *way)
    assert done.exit_code == 1
    assert "The time limit of 2 seconds passed" in done.stdout


def test_an_interruption_cancels_the_run(way: tuple[str, ...], tmp_path: Path) -> None:
    number = signal.SIGTERM if way[0] == "--url" else signal.SIGINT
    output = tmp_path / "output"
    with output.open("w") as stream:
        running = subprocess.Popen(
            [*TESTDB, "run", "alpha", "--type", "slow", *way],
            cwd=tmp_path,
            env=environment({"MARKER_OF_THE_TEST": f"marker-{tmp_path}"}),
            stdout=stream,
            stderr=stream,
        )
    end = time.monotonic() + 30
    while "test_waits" not in output.read_text():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.1)
    running.send_signal(number)
    assert running.wait(30) == 130
    assert "was cancelled" in output.read_text()
    assert "Traceback" not in output.read_text()
    if way[0] == "--url":
        (listed,) = httpx2.get(f"{way[1]}/api/test/runs").json()
        assert listed["status"] == "cancelled"
    else:
        assert processes(f"marker-{tmp_path}") == []
        (listed,) = answer("runs", *way[:2])
        assert listed["status"] == "cancelled"


WRONG: list[tuple[list[str], int, str]] = [
    (["gamma"], 1, "there is no model 'gamma'; there are: alpha, beta"),
    (["alpha", "--type", "nothing"], 1, "there is no test type 'nothing'"),
    (["alpha", "--type", "good", "--hardware", "abacus"], 1, "there is no platform 'abacus'"),
    (["alpha", "--timeout", "-1"], 2, "--timeout"),
    (["alpha", "--tag", "=x"], 2, "--tag"),
    (["alpha", "--batch", "a b"], 2, "--batch-id"),
    ([], 2, "MODEL"),
]


def test_what_cannot_be_run(way: tuple[str, ...]) -> None:
    for options, code, told in WRONG:
        done = invoke("run", *options, *way)
        assert (done.exit_code, done.stdout) == (code, ""), options
        assert told in done.stderr


def test_the_suite_that_comes_with_it(tmp_path: Path) -> None:
    done = run("run", "tiny-mlp", "--json", "--db-path", "runs.duckdb", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["results"]["tests_failed"] == 0
    assert found["metrics"]["cpu.latency"]["value"] > 0


def test_a_suite_that_is_none(tmp_path: Path) -> None:
    for command in (["run", "alpha"], ["serve", "--port", "0"]):
        done = run(*command, "--db-path", "runs.duckdb", "--suites", "missing", folder=tmp_path)
        assert done.returncode == 1
        assert "is not a suite" in done.stderr
        assert "Traceback" not in done.stderr
