"""A server that is killed has all that it acknowledged, and nothing half; it starts again by itself."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.cli import main
from app.db import make_engine
from app.db.migrate import upgrade
from app.db.opening import open_database
from tests.crash.damage import CONTEXT
from tests.crash.kills import kill_often
from tests.crash.ledger import API
from tests.factories import contents, fill
from tests.server import PATIENCE, Server, serving

MANY = 10_000
TRIES = 20
"""Kills until one is in time, on however busy a machine; mostly the first is."""


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "kills"), [("duckdb", 2), ("postgresql", 4)])
def test_what_was_acknowledged_outlives_kills(tmp_path: Path, engine: str, kills: int) -> None:
    for ledger in kill_often(tmp_path, kills, engine=engine):
        assert ledger.wrong == []
    assert ledger.answered > 20
    assert ledger.unanswered > 0, "the kills were during the writing"
    left = {"test_runs.duckdb"} if engine == "duckdb" else set()
    assert {path.name for path in (tmp_path / "data").glob("test_runs*")} == left


def many(server: Server) -> int:
    """How many runs there are: all or none; and nothing is broken."""
    assert httpx2.get(f"{server.url}{API}/check", timeout=PATIENCE).json() == []
    answer = httpx2.get(f"{server.url}{API}/runs", params={"limit": 1, "count": True}, timeout=PATIENCE)
    count = int(answer.headers["x-total-count"])
    assert count in (0, MANY)
    return count


def killed_during(
    server: Server, under_way: Callable[[], bool], method: str, path: str, **request: Any
) -> list[httpx2.Response]:
    """Kills the server when the work is seen to be under way; returns the answer, if it was there before."""
    answers: list[httpx2.Response] = []

    def send() -> None:
        with suppress(httpx2.TransportError):
            answers.append(httpx2.request(method, f"{server.url}{API}{path}", timeout=PATIENCE, **request))

    sending = threading.Thread(target=send)
    sending.start()
    end = time.monotonic() + PATIENCE
    while not under_way():
        assert time.monotonic() < end, "The work was never seen."
        time.sleep(0.0005)
    server.stop(signal.SIGKILL)
    sending.join()
    return answers


@pytest.mark.slow
def test_a_kill_during_a_large_import_export_and_deletion(tmp_path: Path) -> None:
    document = {"model_name": "m", "batch_id": "b", "steps": [{"step_name": "s", "status": "passed"}]}
    runs = "\n".join(json.dumps({"run_id": f"r{number}", **document}) for number in range(MANY))
    store: dict[str, Any] = {
        "method": "POST",
        "path": "/ingest",
        "content": runs,
        "headers": {"Content-Type": "application/x-ndjson"},
    }
    delete: dict[str, Any] = {"method": "DELETE", "path": "/batch/b", "params": {"delete_runs": True}}
    export: dict[str, Any] = {"method": "POST", "path": "/export", "json": {"filename": "all.json"}}
    log, exports = tmp_path / "data" / "test_runs.duckdb.wal", tmp_path / "data" / "exports"

    def size() -> int:
        return log.stat().st_size if log.exists() else 0

    def written() -> bool:
        return any(part.stat().st_size for part in exports.glob(".exports/*.part"))

    for request, before in [(store, 0), (export, MANY), (delete, MANY)]:
        for _ in range(TRIES):
            with serving(tmp_path) as server:
                if many(server) != before:
                    other = dict(store if before else delete)
                    url = f"{server.url}{API}{other.pop('path')}"
                    httpx2.request(url=url, timeout=PATIENCE, **other).raise_for_status()
                    assert many(server) == before
                logged = size()
                under_way = written if request is export else lambda logged=logged: size() > logged
                answers = killed_during(server, under_way, **request)
                if not ((exports / "all.json").exists() if request is export else answers):
                    break
                (exports / "all.json").unlink(missing_ok=True)
        else:
            raise AssertionError(f"{request['path']} was answered before each kill.")
    with serving(tmp_path) as server:
        many(server)
        states = [
            httpx2.get(f"{server.url}{API}/exports/{path.stem}").json()["status"]
            for path in exports.glob(".exports/*.json")
        ]
        assert "error" in states
    assert {path.suffix for path in exports.rglob("*") if path.is_file()} == {".json"}, "nothing half is left"


def migrate(file: Path) -> None:
    main(["migrate", "--db-path", str(file)])


@pytest.mark.slow
def test_a_kill_during_a_migration(tmp_path: Path) -> None:
    """The rows of the older file are partly in its log, as after a crash of the version that wrote it."""
    old = tmp_path / "old"
    engine = make_engine(f"duckdb:///{old}")
    upgrade(engine, "0001")
    with engine.begin() as connection:
        fill(connection)
        expected = contents(connection)
    folder = tmp_path / "data"
    folder.mkdir()
    file, log = folder / "runs.duckdb", folder / "runs.duckdb.wal"
    for suffix in ("", ".wal"):
        shutil.copy(f"{old}{suffix}", f"{folder / 'kept'}{suffix}")
    engine.dispose()

    def copying() -> bool:
        return any(folder.glob("*.bak*"))

    def committing() -> bool:
        return any(folder.glob("*.bak")) and log.exists()

    def folding() -> bool:
        return any(file.stat().st_size > copy.stat().st_size for copy in folder.glob("*.bak"))

    for moment in (copying, committing, folding):
        for _ in range(TRIES):
            for path in [file, log, *folder.glob("*.bak*")]:
                path.unlink(missing_ok=True)
            for suffix in ("", ".wal"):
                shutil.copy(f"{folder / 'kept'}{suffix}", f"{file}{suffix}")
            process = CONTEXT.Process(target=migrate, args=[file])
            process.start()
            while not moment() and process.is_alive():
                time.sleep(0.0005)
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                break
        else:
            raise AssertionError(f"The migration ended before each kill while {moment.__name__}.")
        database = open_database(f"duckdb:///{file}")
        assert database.read(lambda session: contents(session.connection())) == expected
        database.close()
