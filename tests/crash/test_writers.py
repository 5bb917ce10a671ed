"""Many clients of one server write the same rows, also while its database comes back."""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2

from app.db import Database
from app.errors import Unavailable
from tests.cli.helpers import options_of
from tests.conftest import migrate_once
from tests.crash.ledger import API
from tests.marks import ON_DUCKDB
from tests.postgres import postgres_cluster
from tests.server import PATIENCE, serving

CLIENTS, ROUNDS = 6, 5
TURNS = 3
POINTS = 3
RUN = {"model_name": "m"}
METRIC = {"metric_name": "m", "value": 1}


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


def test_what_is_sent_at_once_by_all_is_stored_once(url: str, tmp_path: Path) -> None:
    """Ids, names and files that nobody sent before: one client makes them, and the others find them."""
    one, all_ = Counter({201: 1, 409: CLIENTS - 1}), Counter({200: CLIENTS})
    put = Counter({201: 1, 200: CLIENTS - 1})
    with serving(tmp_path, *options_of(url)) as server, httpx2.Client(timeout=PATIENCE) as client:
        api = server.url + API
        client.put(f"{api}/run/shared", json={"model_name": "m"}).raise_for_status()
        gate = threading.Barrier(CLIENTS, timeout=PATIENCE)
        answers: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)

        def sent(turn: int, backwards: bool) -> dict[str, tuple[Counter[int], str, str, dict[str, Any]]]:
            name = f"n{turn}"
            runs = [{"run_id": f"{name}.{n}", "model_name": "m", "batch_id": f"{name}-new"} for n in range(9)]
            suites = f'<testsuite name="{name}"><testcase name="t"/></testsuite>'
            export = {"format": "test-suite-db", "version": 1, "runs": [{"run_id": f"{name}-e", **RUN}]}
            export["batches"] = [{"batch_id": f"{name}-e", "run_count": 0, "status": "running"}]
            ids = [run["run_id"] for run in runs]
            return {
                "run": (one, "POST", "/runs", {"json": {"run_id": name, **RUN}}),
                "document": (put, "PUT", f"/run/{name}-put", {"json": RUN}),
                "batch": (one, "POST", "/batches", {"json": {"batch_id": name}}),
                "steps": (all_, "POST", "/run/shared/steps", {"json": [{"step_name": name}]}),
                "artifacts": (all_, "POST", "/run/shared/artifacts", {"json": [{"artifact_path": name}]}),
                "tags": (all_, "PUT", "/run/shared/tags", {"json": {name: name}}),
                "ingest": (all_, "POST", "/ingest", {"json": runs[::-1] if backwards else runs}),
                "members": (
                    all_,
                    "POST",
                    f"/batch/{name}/runs",
                    {"json": {"run_ids": ids[::-1] if backwards else ids}},
                ),
                "completion": (all_, "POST", f"/run/{name}/complete", {"json": {}}),
                "JUnit": (all_, "POST", "/import", {"content": suites}),
                "export": (all_, "POST", "/import", {"json": export}),
            }

        def write(number: int) -> None:
            with httpx2.Client(base_url=api, timeout=PATIENCE) as own:
                for turn in range(TURNS):
                    for what, (_wanted, method, path, body) in sent(turn, number % 2 == 1).items():
                        gate.wait()
                        answers[what, turn][own.request(method, path, **body).status_code] += 1

        together(write)
        wanted = {
            (what, turn): statuses
            for turn in range(TURNS)
            for what, (statuses, *_request) in sent(turn, False).items()
        }
        assert answers == wanted, server.logged()[-2000:]
        shared = client.get(f"{api}/run/shared").json()
        names = {f"n{turn}" for turn in range(TURNS)}
        assert sorted(step["step_name"] for step in shared["steps"]) == sorted(names)
        assert sorted(artifact["artifact_path"] for artifact in shared["artifacts"]) == sorted(names)
        assert set(shared["tags"]) == names
        for name in names:
            for batch_id in (name, f"{name}-new"):
                batch = client.get(f"{api}/batch/{batch_id}").json()
                assert (batch["run_count"], batch["actual_run_count"]) == (9, 9)
            assert client.get(f"{api}/run/{name}").json()["metrics"]["duration"]["count"] == 1
        listed = client.get(f"{api}/runs", params={"limit": 1, "count": True})
        assert int(listed.headers["x-total-count"]) == 1 + TURNS * (1 + 1 + 9 + 1 + 1)
        assert client.get(f"{api}/check").json() == []


def test_a_database_server_that_restarts_under_load(tmp_path: Path) -> None:
    """What was acknowledged is there, once; in between, the server says what is wrong, and goes on."""
    statuses: Counter[int] = Counter()
    stored: list[str] = []
    stopping = threading.Event()
    with postgres_cluster() as started, ExitStack() as running:
        url = running.enter_context(started())
        migrate_once(url)
        with serving(tmp_path, "--database-url", url) as server:

            def write(number: int) -> None:
                with httpx2.Client(base_url=server.url + API, timeout=PATIENCE) as own:
                    for turn in range(1_000_000):
                        run_id = f"{number}-{turn}"
                        sent = [
                            own.put(f"/run/{run_id}", json={"model_name": "m"}).status_code,
                            own.post(f"/run/{run_id}/metrics", json=[METRIC] * POINTS).status_code,
                        ]
                        statuses.update(sent)
                        if sent == [201, 200]:
                            stored.append(run_id)
                        if stopping.is_set():
                            return

            def restart(_number: int) -> None:
                try:
                    for _ in range(2):
                        wait_for_more(20)
                        running.close()
                        away = httpx2.get(f"{server.url}/readyz", timeout=PATIENCE)
                        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
                        assert "The database does not answer: " in away.json()["detail"]
                        running.enter_context(started())
                    wait_for_more(20)
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
            assert {201, 200, 503} <= set(statuses) <= {201, 200, 503, 404}, (
                "404: of a run that was not stored"
            )
            with httpx2.Client(base_url=server.url + API, timeout=PATIENCE) as client:
                for run_id in stored:
                    points = client.get(f"/run/{run_id}").raise_for_status().json()["metrics"]["m"]["count"]
                    assert points == POINTS, run_id
                assert client.get("/check").json() == []
            assert httpx2.get(f"{server.url}/readyz").status_code == 200
            assert "Traceback" not in server.logged()


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
