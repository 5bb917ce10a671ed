"""What an operator sees: readiness, logs, limits, and a server that is stopped or killed."""

from __future__ import annotations

import gzip
import json
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text

from app.db import make_engine
from tests.server import serving

API = "/api/test/db"


def many_runs(count: int) -> bytes:
    steps = [{"step_name": f"test_{number}", "status": "passed"} for number in range(20)]
    return b"\n".join(
        json.dumps({"run_id": f"run-{number}", "model_name": "m", "steps": steps}).encode()
        for number in range(count)
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_finished(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as server:
        answers: list[httpx2.Response] = []
        started = threading.Event()

        def body() -> object:
            started.set()
            whole = many_runs(1500)
            for start in range(0, len(whole), 1 << 16):
                yield whole[start : start + (1 << 16)]

        def ingest() -> None:
            headers = {"content-type": "application/x-ndjson"}
            answers.append(
                httpx2.post(f"{server.url}{API}/ingest", content=body(), headers=headers, timeout=60)
            )

        client = threading.Thread(target=ingest)
        client.start()
        started.wait(10)
        time.sleep(0.3)  # it is being stored now
        assert server.stop(number) == 0
        client.join(60)
        assert answers[0].json()["runs"] == 1500
    folder = tmp_path / "data"
    assert [path.name for path in folder.iterdir() if path.suffix == ".wal"] == []
    with serving(tmp_path) as server:
        answer = httpx2.get(f"{server.url}{API}/runs", params={"limit": 1, "count": True})
        assert answer.headers["X-Total-Count"] == "1500"


def test_a_killed_server_has_what_it_acknowledged(tmp_path: Path) -> None:
    acknowledged = []
    with serving(tmp_path) as server:
        with httpx2.Client(base_url=server.url) as client:
            for number in range(30):
                answer = client.post(f"{API}/runs", json={"run_id": f"run-{number}", "model_name": "m"})
                assert answer.status_code == 201
                acknowledged.append(answer.json()["run_id"])
        server.process.kill()
        server.process.wait(10)
    with serving(tmp_path) as server:
        found = httpx2.get(f"{server.url}{API}/runs", params={"limit": 1000}).json()
        assert {run["run_id"] for run in found} >= set(acknowledged)
        assert httpx2.get(f"{server.url}{API}/check").json() == []


def test_logs_for_programs(tmp_path: Path) -> None:
    with serving(tmp_path, "--log-format", "json") as server:
        answer = httpx2.get(f"{server.url}{API}/runs", headers={"X-Request-ID": "mine-1"})
        assert answer.headers["X-Request-ID"] == "mine-1"
        assert (
            httpx2.get(f"{server.url}/healthz", headers={"X-Request-ID": "no\tgood"}).headers["X-Request-ID"]
            != ""
        )
        server.stop()
        entries = [json.loads(line) for line in server.logged().splitlines()]
    (entry,) = [entry for entry in entries if entry.get("request_id") == "mine-1"]
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", f"{API}/runs", 200)
    assert entry["duration_ms"] > 0
    assert entry["time"].endswith("Z")


def test_bodies_are_bounded(tmp_path: Path) -> None:
    with serving(tmp_path, "--max-body-mb", "1") as server, httpx2.Client(base_url=server.url) as client:
        large = b" " * ((1 << 20) + 1)
        bodies = {
            "declared": large,
            "chunked": (large[start : start + 65536] for start in range(0, len(large), 65536)),
            "inflated": gzip.compress(large),
        }
        for kind, body in bodies.items():
            answer = client.post(f"{API}/ingest", content=body)
            assert answer.status_code == 413, kind
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["title"] == "Too large"
        assert client.get(f"{API}/runs").json() == []


def test_ready_says_whether_the_database_is_migrated(tmp_path: Path, url: str) -> None:
    with serving(tmp_path, "--database-url", url) as server:
        assert httpx2.get(f"{server.url}/readyz").json() == {
            "status": "ready",
            "database": "ok",
            "revision": "0002",
        }
        if url.startswith("duckdb"):
            return  # nobody else can change a file that the server holds
        engine = make_engine(url)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        answer = httpx2.get(f"{server.url}/readyz")
        assert answer.status_code == 503
        assert "testdb migrate" in answer.json()["detail"]
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
        engine.dispose()
        assert httpx2.get(f"{server.url}/readyz").status_code == 200


def test_the_documentation_needs_no_network(tmp_path: Path) -> None:
    with serving(tmp_path) as server, httpx2.Client(base_url=server.url, follow_redirects=True) as client:
        page = client.get("/").text
        assert "swagger-ui-bundle.js" in page
        assert {part.split("/")[0] for part in page.split("http://")[1:]} == {
            server.url.removeprefix("http://")
        }
        assert "https://" not in page
        assert client.get("/swagger/swagger-ui-bundle.js").status_code == 200
        assert client.get("/openapi.json").json()["info"]["title"] == "Test Suite Database"
