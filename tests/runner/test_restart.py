"""Servers that die or stop while they run tests."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.cli.helpers import options_of
from tests.routers.helpers import B, ok
from tests.runner.conftest import A, ended, processes, start, until, waiting_in
from tests.server import Server, serving


@contextmanager
def running(url: str, suite: Path, folder: Path, *options: str) -> Iterator[tuple[Server, httpx2.Client]]:
    folder.mkdir(exist_ok=True)
    env = {"MARKER_OF_THE_TEST": f"marker-{folder}"}
    with (
        serving(folder, *options_of(url), "--suites", str(suite), *options, env=env) as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        yield server, client


def external(client: httpx2.Client) -> None:
    """A run that somebody else records."""
    ok(client.post(f"{B}/runs", json={"run_id": "external", "model_name": "m", "status": "running"}), 201)


@pytest.mark.parametrize(
    ("engine_name", "number"),
    [("duckdb", signal.SIGKILL), ("postgresql", signal.SIGKILL), ("duckdb", signal.SIGTERM)],
    indirect=["engine_name"],
)
def test_a_server_that_ends_in_the_middle(
    url: str, suite: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with running(url, suite, tmp_path / "home", "--max-parallel", "1") as (server, client):
        live = start(client, "slow", batch_id="b")
        queued = [start(client, "good", batch_id="b") for _ in range(2)]
        external(client)
        until(client, live, waiting_in("test_waits"))
        server.stop(number)
        end = time.monotonic() + 15
        while processes(f"marker-{tmp_path / 'home'}"):
            assert time.monotonic() < end, "what the server had started outlives it"
            time.sleep(0.1)
    with running(url, suite, tmp_path / "home", "--max-parallel", "1") as (server, client):
        status = ended(client, live)
        assert (status["status"], status["error"]) == ("error", "server stopped")
        found = ok(client.get(f"{B}/run/{live}"))
        steps = {step["step_name"]: step["status"] for step in found["steps"]}
        assert steps["test_slow.py::test_first"] == "passed"
        assert steps["Error"] == "error"
        assert [ended(client, run_id)["status"] for run_id in queued] == ["completed"] * 2
        starts = [ok(client.get(f"{A}/status/{run_id}"))["started_at"] for run_id in queued]
        assert starts == sorted(starts)
        assert ok(client.get(f"{A}/status/external"))["status"] == "running"
        batch = ok(client.get(f"{B}/batch/b"))
        assert (batch["status"], batch["completed_runs"], batch["failed_runs"]) == ("partial", 2, 1)
        assert ok(client.get(f"{B}/check")) == []
    left = {path.name for path in (tmp_path / "home").glob("data/results/*/*")}
    assert "events.jsonl" not in left


def test_what_a_queued_run_asks_for_may_be_gone(url: str, suite: Path, tmp_path: Path) -> None:
    with running(url, suite, tmp_path / "home", "--max-parallel", "1") as (server, client):
        live, queued = start(client, "slow"), start(client, "good")
        until(client, live, waiting_in("test_waits"))
        server.stop(signal.SIGKILL)
    builtin = Path(__file__).parents[2] / "app" / "suites" / "builtin"
    with running(url, builtin, tmp_path / "home") as (server, client):
        assert ended(client, live)["error"] == "server stopped"
        if url.startswith("duckdb"):
            status = ended(client, queued)
            assert (status["status"], status["error"]) == ("error", "The suite has no model 'alpha'.")
        else:  # another server may be able to
            assert ok(client.get(f"{A}/status/{queued}"))["status"] == "initializing"
