"""Many clients of one server write the same rows, also while its database comes back."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psycopg
import pytest

from app.db import Database
from app.errors import Unavailable
from tests.cli.helpers import options_of
from tests.conftest import migrate_once
from tests.crash.kills import API
from tests.marks import ON_DUCKDB
from tests.postgres import postgres_server
from tests.server import PATIENCE, serving

CLIENTS, ROUNDS = 6, 5


def together(work: Callable[[int], None], clients: int = CLIENTS) -> None:
    """Runs the work in so many threads; the first error is raised."""
    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(work, range(clients)))


def test_no_update_is_lost(url: str, tmp_path: Path) -> None:
    created: Counter[int] = Counter()
    with serving(tmp_path, *options_of(url)) as server, httpx2.Client(timeout=PATIENCE) as client:
        api = server.url + API
        client.put(f"{api}/run/shared", json={"model_name": "m", "status": "running"}).raise_for_status()
        client.post(f"{api}/batches", json={"batch_id": "b"}).raise_for_status()

        def write(number: int) -> None:
            with httpx2.Client(base_url=api, timeout=PATIENCE) as own:
                for turn in range(ROUNDS):
                    name = f"{number}-{turn}"
                    created[
                        own.post("/runs", json={"run_id": f"new-{turn}", "model_name": "m"}).status_code
                    ] += 1
                    for answer in [
                        own.put("/run/shared/tags", json={name: "yes", "latest": name}),
                        own.post("/run/shared/steps", json=[{"step_name": name, "status": "passed"}]),
                        own.post("/run/shared/metrics", json=[{"metric_name": "m", "value": turn}]),
                        own.patch("/run/shared", json={"progress": turn / ROUNDS}),
                        own.post("/batch/b/runs", json={"run_ids": ["shared", f"new-{turn}"]}),
                    ]:
                        assert answer.is_success, answer.text

        together(write)
        assert created == {201: ROUNDS, 409: ROUNDS * (CLIENTS - 1)}
        names = {f"{number}-{turn}" for number in range(CLIENTS) for turn in range(ROUNDS)}
        run = client.get(f"{api}/run/shared").json()
        assert set(run["tags"]) == names | {"latest"}
        assert {step["step_name"] for step in run["steps"]} == names
        assert run["metrics"]["m"]["count"] == len(names)
        batch = client.get(f"{api}/batch/b").json()
        assert batch["run_count"] == ROUNDS + 1
        assert client.get(f"{api}/check").json() == []


@pytest.mark.skipif("TESTDB_TEST_POSTGRES_URL" in os.environ, reason="breaks the server it works on")
def test_a_database_server_that_restarts_under_load(tmp_path: Path) -> None:
    """It ends all its connections and recovers, as it does when one of its processes is killed."""
    statuses: Counter[int] = Counter()
    stored: list[str] = []
    stopping = threading.Event()
    with postgres_server() as url:
        migrate_once(url)
        with serving(tmp_path, "--database-url", url) as server:

            def write(number: int) -> None:
                with httpx2.Client(base_url=server.url + API, timeout=PATIENCE) as own:
                    while not stopping.is_set():
                        run_id = f"{number}-{sum(statuses.values())}"
                        status = own.put(f"/run/{run_id}", json={"model_name": "m"}).status_code
                        statuses[status] += 1
                        if status == 201:
                            stored.append(run_id)

            def restart(_number: int) -> None:
                try:
                    wait_for_more(20)
                    with psycopg.connect(url) as connection:
                        os.kill(connection.info.backend_pid, signal.SIGKILL)
                    wait_for_more(60)
                finally:
                    stopping.set()

            def wait_for_more(count: int) -> None:
                wanted = len(stored) + count
                for _ in range(PATIENCE * 20):
                    if len(stored) >= wanted:
                        return
                    stopping.wait(0.05)
                raise AssertionError(f"The server does not store any more: {statuses}")

            together(lambda number: write(number) if number else restart(number), 4)
            assert set(statuses) == {201, 503}
            runs = httpx2.get(f"{server.url}{API}/runs", params={"limit": 1000}).json()
            assert {run["run_id"] for run in runs} >= set(stored)
            assert httpx2.get(f"{server.url}/readyz").status_code == 200


@ON_DUCKDB
def test_a_forked_process_is_refused(database: Database) -> None:
    database.ping()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            database.ping()
        except Unavailable as error:
            os.write(write, error.detail.encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert b"forked" in os.read(read, 1000)
    os.close(read)
    database.ping()
