"""Every way in which a run can end, and what is said of it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url
from starlette.testclient import TestClient

from app.config import Settings
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.routers.conftest import serving
from tests.routers.helpers import B, add, ok, run
from tests.runner.conftest import A, ended, processes, start, until, waiting_in


def steps(found: dict[str, Any]) -> dict[str, str]:
    return {step["step_name"]: step["status"] for step in found["steps"]}


def test_everything_of_a_good_run_is_recorded(tests: TestClient, tmp_path: Path) -> None:
    run_id = start(tests, "good", tags={"purpose": "test"}, batch_id="nightly")
    status = ended(tests, run_id)
    assert (status["status"], status["progress"], status["error"]) == ("completed", 1.0, None)
    assert status["estimated_remaining_time"] is None
    found = run(tests, run_id)
    assert steps(found) == {
        "test_good.py::test_metrics[cpu]": "passed",
        "test_good.py::test_attached": "passed",
        "Completed": "completed",
    }
    assert found["metrics"]["cpu.latency"]["count"] == 2
    assert (found["metrics"]["cpu.latency"]["value"], found["metrics"]["cpu.latency"]["unit"]) == (2.5, "ms")
    assert found["metrics"]["odd"]["value"] == "NaN"
    assert found["metrics"]["duration"]["value"] == pytest.approx(found["duration"])
    assert (found["tags"], found["batch_ids"]) == ({"purpose": "test"}, ["nightly"])
    artifacts = {item["artifact_type"]: item for item in found["artifacts"]}
    assert set(artifacts) == {"plot", "log", "result"}
    folder = tmp_path / "results" / run_id
    assert Path(artifacts["plot"]["artifact_path"]).read_text() == "a plot"
    assert "2 passed" in (folder / "output.log").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["artifacts", "output.log", "result.json"]
    results = ok(tests.get(f"{A}/results/{run_id}"))
    assert json.loads((folder / "result.json").read_text()) == results
    assert results["result_file"] == str(folder / "result.json") == artifacts["result"]["artifact_path"]
    assert (results["results"]["tests_passed"], results["results"]["tests_failed"]) == (2, 0)
    assert ok(tests.get(f"{B}/check")) == []


def test_outcomes_and_their_reasons(tests: TestClient) -> None:
    run_id = start(tests, "mixed", save_results=False)
    assert ended(tests, run_id)["status"] == "completed"
    results = ok(tests.get(f"{A}/results/{run_id}"))
    details = {item["method"]: item for item in results["results"]["test_details"]}
    assert {name: item["status"] for name, item in details.items()} == {
        "test_mixed.py::test_passes[a b]": "passed",
        "test_mixed.py::test_passes[x/y::z]": "passed",
        "test_mixed.py::test_passes[\\xfc]": "passed",
        "test_mixed.py::test_passes[]": "passed",
        "test_mixed.py::test_fails": "failed",
        "test_mixed.py::test_skipped": "skipped",
        "test_mixed.py::test_known": "skipped",
        "test_mixed.py::test_teardown": "error",
    }
    assert [results["results"][f"tests_{name}"] for name in ("passed", "failed", "skipped")] == [4, 2, 2]
    assert "assert [1, 2] == [1, 3]" in details["test_mixed.py::test_fails"]["error"]
    assert "said before" in details["test_mixed.py::test_fails"]["error"]
    assert details["test_mixed.py::test_skipped"]["error"] == "not today"
    assert details["test_mixed.py::test_known"]["error"] == "xfail: known"
    assert "teardown is broken" in details["test_mixed.py::test_teardown"]["error"]
    assert results["result_file"] is None
    assert [item["artifact_type"] for item in run(tests, run_id)["artifacts"]] == ["log"]


@pytest.mark.parametrize(
    ("test_type", "reason"),
    [
        ("crash", "was killed by SIGSEGV before it finished, while running test_ends.py::test_crash"),
        ("killed", "was killed by SIGKILL before it finished, while running test_ends.py::test_killed"),
        ("exit", "exited with code 7 before it finished, while running test_ends.py::test_exit"),
        ("broken", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
    ],
)
@ON_DUCKDB
def test_a_suite_that_breaks_is_an_error(tests: TestClient, test_type: str, reason: str) -> None:
    status = ended(tests, start(tests, test_type))
    assert status["status"] == "error"
    assert reason in status["error"]
    if test_type == "crash":
        assert "about to crash" in status["error"], "the end of the output"
    found = run(tests, status["run_id"])
    assert found["results"]["tests_failed"] == 1
    assert ended(tests, start(tests, "good"))["status"] == "completed", "the server goes on"


@ON_DUCKDB
def test_a_test_that_exits_is_only_a_failed_test(tests: TestClient) -> None:
    run_id = start(tests, "leave")
    assert ended(tests, run_id)["status"] == "completed"
    assert run(tests, run_id)["results"]["tests_failed"] == 1


@ON_DUCKDB
def test_children_are_gone_with_the_run(tests: TestClient, tmp_path: Path) -> None:
    assert ended(tests, start(tests, "fork"))["status"] == "completed"
    assert processes(f"marker-{tmp_path}") == [], "neither those of the group nor those that left it"


@ON_DUCKDB
def test_a_million_lines_do_not_fill_the_disk(tests: TestClient, tmp_path: Path) -> None:
    run_id = start(tests, "noisy")
    assert ended(tests, run_id)["status"] == "completed"
    output = (tmp_path / "results" / run_id / "output.log").read_text()
    assert len(output) < 5 << 20
    assert "line 0\nline 1\n" in output
    assert "bytes left out" in output
    assert "line 999999" in output


@ON_POSTGRESQL
@pytest.mark.parametrize(
    "given", ["of the user", {"password": "very secret"}, {"sslpassword": "very secret"}], ids=str
)
def test_the_environment_of_a_suite(
    given: str | dict[str, str],
    url: str,
    suite: Path,
    tmp_path: Path,
    openapi: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = make_url(url)
    if isinstance(given, dict):
        address = address.update_query_dict(given)
    else:
        address = address.set(password="very secret")
    known = address.render_as_string(hide_password=False)
    for name, value in {
        "TESTDB_DATABASE_URL": "postgresql://u:secret@h/d",
        "TESTDB_TOKEN": "testdb_secret",
        "PGPASSWORD": "secret",
        "PGSSLPASSWORD": "secret",
        "DATABASE_URL": known,
        "THE_PASSWORD": "very secret",
        "DSN": "host=h password=very secret",
        "QUOTED": "postgresql://u:very%20secret@h/d",
        "HARMLESS": "secret",
        "MARKER_OF_THE_TEST": f"marker-{tmp_path}",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings(database_url=known, suites=suite, results_dir=tmp_path / "results")
    with serving(settings, openapi) as client:
        run_id = start(client, "environment")
        assert ended(client, run_id)["status"] == "completed"
        assert run(client, run_id)["results"]["tests_passed"] == 1


def test_the_time_limit(tests: TestClient, tmp_path: Path) -> None:
    began = time.monotonic()
    run_id = start(tests, "slow", timeout=2, batch_id="b")
    status = ended(tests, run_id)
    assert time.monotonic() - began < 20
    assert status["status"] == "timeout"
    assert status["error"] == "The time limit of 2 seconds passed, while running test_slow.py::test_waits."
    found = run(tests, run_id)
    assert steps(found)["test_slow.py::test_first"] == "passed"
    assert steps(found)["test_slow.py::test_waits"] in ("timeout", "error", "failed")
    assert found["current_step"] == "Timeout"
    assert processes(f"marker-{tmp_path}") == []
    batch = ok(tests.get(f"{B}/batch/b"))
    assert (batch["status"], batch["failed_runs"]) == ("error", 1)


@pytest.mark.parametrize("test_type", ["slow", "stubborn"])
def test_cancelling_ends_the_process_group(tests: TestClient, tmp_path: Path, test_type: str) -> None:
    run_id = start(tests, test_type)
    until(tests, run_id, waiting_in({"slow": "test_waits", "stubborn": "test_stubborn"}[test_type]))
    assert processes(f"marker-{tmp_path}")
    assert ok(tests.post(f"{A}/cancel/{run_id}")) == {"run_id": run_id, "cancelled": True}
    assert processes(f"marker-{tmp_path}") == []
    status = ok(tests.get(f"{A}/status/{run_id}"))
    assert (status["status"], status["error"]) == ("cancelled", "cancelled on request")
    assert ok(tests.post(f"{A}/cancel/{run_id}")) == {"run_id": run_id, "cancelled": False}
    assert ok(tests.get(f"{A}/results/{run_id}"))["status"] == "cancelled"


def test_a_run_that_is_ended_over_the_tracking_api_is_stopped(tests: TestClient, tmp_path: Path) -> None:
    run_id = start(tests, "slow")
    until(tests, run_id, waiting_in("test_waits"))
    ok(tests.post(f"{B}/run/{run_id}/cancel", json={"error": "by hand"}))
    _gone(f"marker-{tmp_path}")
    status = ok(tests.get(f"{A}/status/{run_id}"))
    assert (status["status"], status["error"]) == ("cancelled", "by hand")


def test_a_run_that_is_deleted_is_stopped(tests: TestClient, tmp_path: Path) -> None:
    run_id = start(tests, "slow")
    until(tests, run_id, waiting_in("test_waits"))
    ok(tests.delete(f"{B}/run/{run_id}"))
    _gone(f"marker-{tmp_path}")
    assert tests.get(f"{A}/status/{run_id}").status_code == 404
    assert ok(tests.get(f"{B}/check")) == []


def _gone(marker: str) -> None:
    end = time.monotonic() + 20
    while processes(marker):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_no_more_runs_at_a_time_than_allowed(tests: TestClient) -> None:
    ids = [start(tests, "slow") for _ in range(2)]
    for run_id in ids:
        until(tests, run_id, waiting_in("test_waits"))
    third, fourth = start(tests, "good"), start(tests, "good")
    status = ok(tests.get(f"{A}/status/{third}"))
    assert (status["status"], status["current_step"]) == ("initializing", "Queued")
    assert tests.get(f"{A}/results/{third}").status_code == 409
    assert ok(tests.post(f"{A}/cancel/{fourth}")) == {"run_id": fourth, "cancelled": True}
    assert ok(tests.get(f"{A}/status/{fourth}"))["status"] == "cancelled"
    assert ok(tests.post(f"{A}/cancel/{ids[0]}"))["cancelled"]
    assert ended(tests, third)["status"] == "completed"
    assert ok(tests.get(f"{A}/status/{ids[1]}"))["status"] == "running"


def test_queued_runs_start_in_their_order(tests: TestClient) -> None:
    batch = tests.post(f"{A}/batch", json={"models": ["beta", "alpha"], "test_type": "good"}).json()
    later = start(tests, "good")
    for run_id in (*batch["run_ids"], later):
        ended(tests, run_id)
    starts = [run(tests, run_id)["started_at"] for run_id in (*batch["run_ids"], later)]
    assert starts == sorted(starts)
    assert [run(tests, run_id)["model_name"] for run_id in batch["run_ids"]] == ["beta", "alpha"]
    found = ok(tests.get(f"{B}/batch/{batch['batch_id']}"))
    assert (found["status"], found["run_count"], found["completed_runs"]) == ("completed", 2, 2)


def test_a_batch_of_which_a_run_is_cancelled_is_partial(tests: TestClient) -> None:
    body = {"models": ["alpha", "beta"], "test_type": "many", "description": "two"}
    batch = tests.post(f"{A}/batch", json=body).json()
    assert ok(tests.get(f"{B}/batch/{batch['batch_id']}"))["status"] == "running"
    first, second = batch["run_ids"]
    assert ok(tests.post(f"{A}/cancel/{second}"))["cancelled"]
    assert ended(tests, first)["status"] == "completed"
    found = ok(tests.get(f"{B}/batch/{batch['batch_id']}"))
    assert (found["status"], found["completed_runs"], found["cancelled_runs"]) == ("partial", 1, 1)
    assert found["completed_at"] is not None


def test_many_cancels_at_once_are_one(tests: TestClient) -> None:
    run_id = start(tests, "slow")
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(tests.post(f"{A}/cancel/{run_id}"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert ended(tests, run_id)["status"] == "cancelled"


def test_a_run_that_others_record_is_not_ours_to_cancel(tests: TestClient) -> None:
    add(tests, "external", status="running")
    assert ok(tests.post(f"{A}/cancel/external")) == {"run_id": "external", "cancelled": False}
    assert ok(tests.get(f"{A}/status/external"))["status"] == "running"


@ON_POSTGRESQL
def test_a_database_that_goes_away_and_comes_back(tests: TestClient, postgres_url: str) -> None:
    """All connections are cut again and again during the run: nothing is lost, nothing doubled."""
    name = tests.app.state.database.engine.url.database  # type: ignore[attr-defined]
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    run_id = start(tests, "measured")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for _ in range(15):
            connection.execute(cut, [name])
            time.sleep(0.1)
    assert ended(tests, run_id)["status"] == "completed"
    found = run(tests, run_id)
    assert found["results"]["tests_passed"] == 40
    assert (found["metrics"]["number"]["count"], found["metrics"]["number"]["max"]) == (40, 39)


def test_a_results_folder_that_cannot_be_written_is_an_error(tests: TestClient, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    status = ended(tests, start(tests, "good"))
    assert status["status"] == "error"
    assert "results directory cannot be written" in status["error"]
