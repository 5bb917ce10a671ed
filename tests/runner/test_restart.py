"""Servers that die or stop while they run tests, and several servers on one database."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.helpers import options_of
from tests.marks import ON_POSTGRESQL
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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
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


@ON_POSTGRESQL
def test_two_servers_share_a_queue(url: str, suite: Path, tmp_path: Path) -> None:
    """Each run is taken by one; either can cancel what the other runs; one takes over from one that died."""
    with (
        running(url, suite, tmp_path / "one", "--max-parallel", "1") as (one, first),
        running(url, suite, tmp_path / "two", "--max-parallel", "1") as (_two, second),
    ):
        slow = start(first, "slow")
        until(first, slow, waiting_in("test_waits"))
        others = [start(first, "good") for _ in range(4)]
        assert [ended(second, run_id)["status"] for run_id in others] == ["completed"] * 4
        for run_id in others:
            steps: list[Any] = ok(first.get(f"{B}/run/{run_id}"))["steps"]
            assert len(steps) == 3
            folders = [tmp_path / home / "data" / "results" / run_id for home in ("one", "two")]
            assert [folder.exists() for folder in folders] == [False, True]
        assert ok(second.post(f"{A}/cancel/{slow}")) == {"run_id": slow, "cancelled": True}
        assert processes(f"marker-{tmp_path / 'one'}") == [one.process.pid]
        dying = start(first, "slow")
        for client in (first, second):
            until(client, dying, waiting_in("test_waits"))
        runs_here = (tmp_path / "one" / "data" / "results" / dying).exists()
        server = one if runs_here else _two
        survivor = second if runs_here else first
        server.stop(signal.SIGKILL)
        assert ended(survivor, dying)["error"] == "server stopped"
