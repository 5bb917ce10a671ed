"""Who waits for whom: writers for each other, and nobody for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import text
from starlette.testclient import TestClient

from app.config import Settings
from app.db import Database
from app.services import backup
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.routers.conftest import serving
from tests.routers.helpers import B, add, ok, problem
from tests.server import PATIENCE

THREADS = 40
"""Those of the server, as the framework has it."""


@contextmanager
def writing(client: TestClient) -> Iterator[None]:
    """While another unit of work has the database."""
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    with database.transaction():
        yield


@ON_DUCKDB
def test_readers_do_not_wait_for_writers_that_wait(api: TestClient) -> None:
    add(api)
    point = {"name": "m", "value": 1}
    with ThreadPoolExecutor(2 * THREADS + 1) as clients:
        with writing(api):
            sent = [clients.submit(api.patch, f"{B}/run/r", json={"progress": 0.5}) for _ in range(THREADS)]
            sent += [clients.submit(api.post, f"{B}/run/r/metrics", json=[point]) for _ in range(THREADS)]
            time.sleep(1)  # until they wait
            assert len(ok(clients.submit(api.get, f"{B}/runs").result(20))) == 1
            assert not any(answer.done() for answer in sent)
        assert [answer.result(60).status_code for answer in sent] == [200] * 2 * THREADS


@ON_DUCKDB
def test_so_many_writers_wait_and_so_long(settings: Settings, openapi: dict[str, Any]) -> None:
    few = settings.model_copy(update={"max_requests": 60, "write_timeout": 2.0})
    with serving(few, openapi) as client, ThreadPoolExecutor(60) as clients:
        add(client)
        with writing(client):
            sent = [clients.submit(client.patch, f"{B}/run/r", json={"progress": 0.5}) for _ in range(55)]
            refused = [problem(answer.result(30), 503)["detail"] for answer in sent]
        ok(client.patch(f"{B}/run/r", json={"progress": 0.5}))
    kinds = [detail.partition(" ")[0] for detail in refused]
    assert kinds.count("30") > 0, "half of the requests at once may wait"
    assert kinds.count("Other") + kinds.count("Another") >= 16 + 30


@ON_DUCKDB
def test_one_prune_and_one_backup_at_a_time(api: TestClient) -> None:
    add(api, status="completed", started_at="2020-01-01T00:00:00Z")
    old = {"older_than": "90d"}
    with ThreadPoolExecutor(1) as clients:
        with writing(api):
            first = clients.submit(api.post, f"{B}/prune", json=old)
            time.sleep(0.5)  # until it waits for the database
            assert "already" in problem(api.post(f"{B}/prune", json=old), 503)["detail"]
        assert ok(first.result(30))["deleted"]["test_runs"] == 1
    with backup._writing:
        assert "Another backup" in problem(api.post(f"{B}/backup"), 503)["detail"]
    assert api.post(f"{B}/backup").status_code == 200


WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
LOCK = "SELECT run_id FROM test_runs WHERE run_id = '{}' FOR UPDATE NOWAIT"


@ON_POSTGRESQL
@pytest.mark.parametrize(
    "send",
    [
        lambda client: client.post(f"{B}/ingest", json=[{"run_id": r, "model_name": "m"} for r in "ba"]),
        lambda client: client.delete(f"{B}/batch/all", params={"delete_runs": True}),
    ],
    ids=["ingest", "delete"],
)
def test_writers_of_the_same_runs_take_them_in_one_order(
    api: TestClient, send: Callable[[TestClient], Response]
) -> None:
    """Else two of them could wait for each other. Who waits for a run has none that comes after it."""
    for run_id in "ba":  # the order in which they lie in the table
        add(api, run_id, batch_id="all")
    database: Database = api.app.state.database  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as aside, database.engine.connect() as other:
        other.execute(text(LOCK.format("a")))
        answer = aside.submit(send, api)
        end = time.monotonic() + PATIENCE
        while not other.scalar(WAITING):
            assert time.monotonic() < end
        other.execute(text(LOCK.format("b")))
        other.execute(text("SELECT batch_id FROM batch_test_runs FOR UPDATE NOWAIT"))
        other.rollback()
        ok(answer.result(PATIENCE))
