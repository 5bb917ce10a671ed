"""A server that is killed has all that it acknowledged, and nothing half; it starts again by itself."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from app.db import make_engine
from app.db.migrate import upgrade
from tests.crash.kills import API, kill_often
from tests.factories import fill
from tests.server import PATIENCE, TESTDB, Server, environment, serving

MANY = 10_000


@pytest.mark.slow
def test_what_was_acknowledged_outlives_kills(tmp_path: Path) -> None:
    for ledger in kill_often(tmp_path, 2):
        assert ledger.wrong == []
    assert ledger.stored > 10
    assert sorted(path.name for path in (tmp_path / "data").glob("test_runs*")) == ["test_runs.duckdb"]


def many(server: Server) -> int:
    """How many runs there are; nothing is broken."""
    assert httpx2.get(f"{server.url}{API}/check", timeout=PATIENCE).json() == []
    answer = httpx2.get(f"{server.url}{API}/runs", params={"limit": 1, "count": True}, timeout=PATIENCE)
    return int(answer.headers["x-total-count"])


def killed_during(server: Server, method: str, path: str, **request: object) -> None:
    """Kills the server after a part of the time that the request may take."""

    def send() -> None:
        with suppress(httpx2.TransportError):
            httpx2.request(method, f"{server.url}{API}{path}", timeout=PATIENCE, **request)  # type: ignore[arg-type]

    request_under_way = threading.Thread(target=send)
    request_under_way.start()
    time.sleep(random.uniform(0, 2))
    server.stop(signal.SIGKILL)
    request_under_way.join()


@pytest.mark.slow
def test_a_kill_during_a_large_import_export_and_deletion(tmp_path: Path) -> None:
    runs = b"".join(
        json.dumps(
            {
                "run_id": f"r{number}",
                "model_name": "m",
                "batch_id": "b",
                "steps": [{"step_name": "s", "status": "passed"}],
            }
        ).encode()
        + b"\n"
        for number in range(MANY)
    )
    headers = {"Content-Type": "application/x-ndjson"}
    with serving(tmp_path) as server:
        killed_during(server, "POST", "/ingest", content=runs, headers=headers)
    with serving(tmp_path) as server:
        assert many(server) in (0, MANY)
        address = f"{server.url}{API}/ingest"
        httpx2.post(address, content=runs, headers=headers, timeout=PATIENCE).raise_for_status()
        killed_during(server, "POST", "/export", json={"filename": "all.json"})
    with serving(tmp_path) as server:
        assert many(server) == MANY
        exported = tmp_path / "data" / "exports" / "all.json"
        assert not exported.exists() or len(json.loads(exported.read_bytes())["runs"]) == MANY
        killed_during(server, "DELETE", "/batch/b", params={"delete_runs": True})
    with serving(tmp_path) as server:
        assert many(server) in (0, MANY)


@pytest.mark.slow
def test_a_kill_during_a_migration(tmp_path: Path) -> None:
    """The rows of the older file are partly in its log, as after a crash of the version that wrote it."""
    file = tmp_path / "data" / "test_runs.duckdb"
    file.parent.mkdir()
    engine = make_engine(f"duckdb:///{tmp_path / 'old'}")
    upgrade(engine, "0001")
    with engine.begin() as connection:
        fill(connection)
    for suffix in ("", ".wal"):
        shutil.copy(f"{tmp_path / 'old'}{suffix}", f"{file}{suffix}")
    engine.dispose()
    for _ in range(3):
        process = subprocess.Popen(
            [*TESTDB, "migrate", "--db-path", str(file)], env=environment(), stdout=subprocess.DEVNULL
        )
        time.sleep(random.uniform(0.3, 1.5))
        process.kill()
        process.wait()
    with serving(tmp_path) as server:
        answer = httpx2.get(f"{server.url}{API}/runs", params={"limit": 1, "count": True})
        assert int(answer.headers["x-total-count"]) == 12
