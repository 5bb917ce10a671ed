"""A PostgreSQL that dies in the middle of a large request, or hangs: the server says so, nothing is half
there, and it goes on when the database does."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
import pytest
from sqlalchemy import make_url

from app.models import Base
from app.routers.writers import WRITERS
from tests.conftest import migrate_once
from tests.crash.kills import API
from tests.postgres import postgres_cluster
from tests.server import PATIENCE, Server, serving

MANY = 45
"""More than the server has threads, and connections."""
NDJSON = {"Content-Type": "application/x-ndjson"}
ROWS = ", ".join(f"(SELECT count(*) FROM {table})" for table in Base.metadata.tables)
WAITING = "SELECT count(*) >= %s FROM pg_locks WHERE NOT granted AND relation = %s::regclass"


def documents(prefix: str) -> bytes:
    return b"".join(
        json.dumps(
            {
                "run_id": f"{prefix}{number}",
                "model_name": "m",
                "batch_id": "b",
                "tags": {"a": "b"},
                "results": {"tests_passed": 1},
                "steps": [{"step_name": "s", "status": "passed"}],
                "metrics": [{"metric_name": "x", "value": 1}] * 3,
                "artifacts": [{"artifact_path": "p"}],
            }
        ).encode()
        + b"\n"
        for number in range(300)
    )


JUNIT = "<testsuite name='s'>" + "<testcase name='t' classname='c' time='1'/>" * 300 + "</testsuite>"


@dataclass
class Cluster:
    """A PostgreSQL of its own, and a server on it."""

    url: str
    server: Server
    client: httpx2.Client
    start: Callable[[], None]
    kill: Callable[[], None]

    def rows(self) -> list[int]:
        """How many there are, by table; none of them is broken."""
        assert self.client.get("/check").json() == []
        found = self.client.post("/query", json={"sql": f"SELECT {ROWS}"})
        return list(found.raise_for_status().json()["rows"][0])

    @contextmanager
    def held_up_at(self, table: str) -> Iterator[None]:
        """The database is killed at the end of the block, when somebody waits for the table."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.url) as admin:
            admin.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            yield
            self.wait_for(1, table)
            self.kill()

    def wait_for(self, waiting: int, table: str) -> None:
        """Waits until so many, or more, wait for the table."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for _ in range(PATIENCE * 100):
                if connection.execute(WAITING, [waiting, table]).fetchone() == (True,):
                    return
                time.sleep(0.01)
        raise AssertionError("they do not get that far")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of the database stands still in the block."""
        folder = Path(str(make_url(self.url).query["host"]), "data")
        first = int((folder / "postmaster.pid").read_text().split()[0])
        os.kill(first, signal.SIGSTOP)  # which from then on starts no others
        others = [int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in [*others, first]:
                os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("away")
    with postgres_cluster() as started, ExitStack() as running:
        url = running.enter_context(started())
        migrate_once(url)
        with (
            serving(folder, "--database-url", f"{url}&connect_timeout=2") as server,
            httpx2.Client(base_url=server.url + API, timeout=PATIENCE) as client,
        ):
            client.post("/ingest", content=documents("kept"), headers=NDJSON).raise_for_status()
            yield Cluster(url, server, client, lambda: running.enter_context(started()), running.close)
            assert "Traceback" not in server.logged()


@pytest.mark.parametrize(
    ("table", "method", "path", "request_of_it"),
    [
        ("test_run_artifacts", "POST", "/ingest", {"content": documents("new"), "headers": NDJSON}),
        ("test_run_steps", "POST", "/import?model_name=m", {"content": JUNIT}),
        ("test_runs", "DELETE", "/batch/b?delete_runs=true", {}),
    ],
    ids=["ingest", "import", "delete"],
)
def test_a_database_server_that_dies_in_the_middle(
    cluster: Cluster, table: str, method: str, path: str, request_of_it: dict[str, object]
) -> None:
    def send() -> httpx2.Response:
        return cluster.client.request(method, path, **request_of_it)  # type: ignore[arg-type]

    before = cluster.rows()
    with ThreadPoolExecutor(1) as aside:
        with cluster.held_up_at(table):
            answer = aside.submit(send)
        assert answer.result().status_code == 503, answer.result().text
    cluster.start()
    assert cluster.rows() == before
    send().raise_for_status()
    assert cluster.rows() != before


def test_an_export_whose_database_server_dies(cluster: Cluster, tmp_path: Path) -> None:
    def ended(export_id: str) -> dict[str, object]:
        for _ in range(PATIENCE * 20):
            found = cluster.client.get(f"/exports/{export_id}")
            if found.status_code == 200 and found.json()["status"] != "started":
                return dict(found.json())
            time.sleep(0.05)
        raise AssertionError("the export does not end")

    def begin() -> str:
        return str(cluster.client.post("/export", json={"filename": "all.json"}).json()["export_id"])

    with cluster.held_up_at("test_run_metrics"):
        export_id = begin()
    cluster.start()
    state = ended(export_id)
    assert state["status"] == "error"
    assert "database" in str(state["error"])
    assert cluster.client.get(f"/exports/{export_id}/file").status_code == 409
    assert ended(begin())["status"] == "completed", "the name is free"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes as Linux tells them")
def test_a_database_server_that_hangs_for_a_while(cluster: Cluster) -> None:
    site = cluster.server.url

    def write(_number: int) -> int:
        return cluster.client.put("/run/r", json={"model_name": "m"}).status_code

    with ThreadPoolExecutor(MANY) as threads:
        with psycopg.connect(cluster.url) as admin:
            admin.execute("LOCK TABLE test_runs IN ACCESS EXCLUSIVE MODE")
            under_way = threads.map(write, range(MANY))
            cluster.wait_for(WRITERS, "test_runs")  # the others wait for their turns
            assert cluster.client.get(f"{site}/nothing").status_code == 404, "an error needs no thread"
            with cluster.frozen():
                pass
        assert set(under_way) <= {200, 201}, "what was under way goes on"
        with cluster.frozen():
            answers = threads.map(write, range(MANY))
            began = time.monotonic()
            ready = cluster.client.get(f"{site}/readyz")
            assert time.monotonic() - began < PATIENCE / 2
            assert ready.status_code == 503
            assert "The database does not answer: " in ready.json()["detail"]
            assert cluster.client.get(f"{site}/healthz").status_code == 200
            assert set(answers) == {503}
        assert set(threads.map(write, range(MANY))) == {200}
    assert cluster.client.get(f"{site}/readyz").status_code == 200
