"""`testdb serve`: what it makes, what it refuses, and which settings it obeys."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import Engine, make_url, text

from app.db import make_engine
from app.db.engine import embedded_file, shown_url
from app.db.migrate import upgrade
from tests.cli.helpers import invoke, options_of, refused
from tests.factories import contents, fill
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.server import Server, environment, free_port, run, serving

RUNS = "/api/test/db/runs"
SCRIPT = Path(__file__).parents[2] / "test_api_server.py"


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def files(folder: Path) -> list[str]:
    """Without the states of exports, which are kept in a hidden folder."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if ".exports" not in path.parts)


def add(server: Server, run_id: str) -> None:
    response = httpx2.post(server.url + RUNS, json={"run_id": run_id, "model_name": "m"})
    assert response.status_code == 201, response.text


def listed(server: Server, **params: str) -> list[str]:
    return [item["run_id"] for item in httpx2.get(server.url + RUNS, params=params).raise_for_status().json()]


def fails(*args: str, folder: Path, env: dict[str, str] | None = None, code: int = 1) -> str:
    """A server that does not start: its one sentence."""
    ended = run("serve", *args, folder=folder, env=env)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    return line


# --- files


def test_a_new_file_is_made_with_its_folder_and_kept(tmp_path: Path) -> None:
    name = "new ünï/what?100%20.duckdb"
    with serving(tmp_path, "--db-path", name) as server:
        assert name in files(tmp_path)
        assert listed(server) == []
        add(server, "first")
        assert server.stop() == 0
        assert f"serving {name}\n" in server.logged()
        assert "Traceback" not in server.logged()
    assert files(tmp_path) == [name]


def test_an_older_file_is_migrated_and_a_copy_kept(tmp_path: Path) -> None:
    file = tmp_path / "old.duckdb"
    with engine_of(f"duckdb:///{file}") as engine:
        upgrade(engine, "0001")
        with engine.begin() as connection:
            fill(connection)
            expected = contents(connection)
    before = file.read_bytes()
    with serving(tmp_path, "--db-path", "old.duckdb") as server:
        assert len(listed(server)) == len(expected["test_runs"])
    (copy,) = tmp_path.glob("*.bak")
    assert copy.name.startswith("old.duckdb.0001-")
    assert copy.read_bytes() == before
    assert files(tmp_path) == ["old.duckdb", copy.name]
    with engine_of(f"duckdb:///{file}") as engine, engine.connect() as connection:
        assert contents(connection) == expected


@ON_DUCKDB
def test_a_file_of_a_newer_version_is_refused_untouched(url: str) -> None:
    with engine_of(url) as engine, engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    file = embedded_file(url)
    assert file is not None
    before = file.read_bytes()
    said = refused("serve", "--db-path", str(file))
    assert "0999" in said
    assert "newer version" in said
    assert file.read_bytes() == before
    assert files(file.parent) == [file.name]


def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, "--db-path", "runs.duckdb") as server:
        said = refused("serve", "--db-path", str(tmp_path / "runs.duckdb"), "--port", "0")
        assert "held by another process" in said
        add(server, "still-here")
        assert listed(server) == ["still-here"]
    assert files(tmp_path) == ["runs.duckdb"]


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("run,status\n")
    assert "runs.csv cannot be opened" in refused("serve", "--db-path", str(tmp_path / "runs.csv"))
    (tmp_path / "data").write_text("a file")
    assert "data" in refused("serve", "--db-path", str(tmp_path / "data" / "runs.duckdb"))
    assert files(tmp_path) == ["data", "runs.csv"]


# --- PostgreSQL


@ON_POSTGRESQL
def test_a_database_with_pending_revisions_is_refused_until_migrated(empty_url: str, tmp_path: Path) -> None:
    said = refused("serve", *options_of(empty_url))
    assert "`testdb migrate`" in said
    with engine_of(empty_url) as engine:
        upgrade(engine, "0001")
        with engine.begin() as connection:
            fill(connection, 3)
    said = refused("serve", *options_of(empty_url))
    assert "revision 0001" in said
    assert "`testdb migrate`" in said
    assert invoke("migrate", *options_of(empty_url)).exit_code == 0
    with serving(tmp_path, *options_of(empty_url)) as server:
        assert len(listed(server)) == 3
    assert files(tmp_path) == []


@ON_POSTGRESQL
def test_the_password_of_the_database_is_nowhere(url: str, tmp_path: Path) -> None:
    # One at each place where it may stand; the server that the tests use may ask for the first.
    named = make_url(url).set(password=make_url(url).password or "SecretOne")
    given = named.update_query_dict({"sslpassword": "SecretTwo"}).render_as_string(hide_password=False)
    options = ("--log-level", "debug", "--log-format", "json")
    with serving(tmp_path, *options, env={"TESTDB_DATABASE_URL": given}) as server:
        add(server, "r")
        paths = ("/readyz", "/openapi.json", f"{RUNS}?limit=0", "/nothing")
        answers = [httpx2.get(server.url + path).text for path in paths]
        assert server.stop() == 0
        assert "serving postgresql" in server.logged()
        for told in (*answers, server.logged()):
            assert "Secret" not in told
            assert f":{named.password}@" not in told


def test_a_url_is_shown_without_its_passwords() -> None:
    assert shown_url("postgresql://me:secret@host/name") == "postgresql://me:***@host/name"
    assert shown_url("postgresql://me@/name?password=secret&host=a") == "postgresql://me@/name?host=a"
    assert shown_url("duckdb:////data/a%20b.duckdb") == "/data/a b.duckdb"


def test_a_database_server_that_is_not_there_is_refused(tmp_path: Path) -> None:
    url = "postgresql://someone:secret@127.0.0.1:1/nothing"
    said = fails("--database-url", url, "--port", "0", folder=tmp_path)
    assert "does not answer" in said
    assert "secret" not in said


# --- settings


def test_settings_come_from_the_environment_and_options_win(tmp_path: Path) -> None:
    port = free_port()
    env = {
        "TESTDB_DB_PATH": "from-environment.duckdb",
        "TESTDB_PORT": str(port),
        "TESTDB_EXPORT_DIR": "from-environment",
        "TESTDB_LOG_FORMAT": "json",
        "TESTDB_LOG_LEVEL": "error",
        "TESTDB_MAX_BODY_MB": "1",
        "TESTDB_URL": "http://127.0.0.1:1",
    }
    options = ("--db-path", "from-option.duckdb", "--log-level", "info", "--export-dir", "from-option")
    with serving(tmp_path, *options, env=env) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=server.url) as client:
            assert client.post(RUNS, content=bytes(1 << 21)).status_code == 413
            started = client.post("/api/test/db/export", json={"filename": "all.json"}).json()
            while client.get(f"/api/test/db/exports/{started['export_id']}").json()["status"] == "started":
                time.sleep(0.02)
        assert all(line.startswith("{") for line in server.logged().splitlines())
        assert server.stop() == 0
    assert files(tmp_path) == ["from-option.duckdb", "from-option/all.json"]


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = run("serve", "--port", str(port), folder=tmp_path)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "address already in use" in ended.stderr
    assert str(port) in ended.stderr
    assert files(tmp_path) == ["data/test_runs.duckdb"], "and the file is closed well"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what a process has mapped")
def test_free_memory_serves_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    with serving(tmp_path) as server:
        with ThreadPoolExecutor(16) as clients:
            list(clients.map(lambda number: add(server, f"run-{number}"), range(200)))
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    # Each arena of the C library but the first is a piece in use and a reserve, of 64 MiB together.
    pieces = re.findall(r"^(\w+)-(\w+) rw-p .*\n\2-(\w+) ---p ", mapped, re.MULTILINE)
    assert sum(int(end, 16) - int(start, 16) == 64 << 20 for start, _, end in pieces) <= 1, mapped


def test_the_script_serves_the_same(tmp_path: Path, duckdb_template: Path) -> None:
    shutil.copy(duckdb_template, tmp_path / "runs.duckdb")
    port = free_port()
    with serving(
        tmp_path, "--db-path", "runs.duckdb", "--port", str(port), command=(sys.executable, str(SCRIPT))
    ) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        add(server, "by-the-script")
        assert httpx2.get(f"{server.url}/openapi.json").json()["info"]["title"] == "Test Suite Database"
        assert server.stop() == 0
    assert files(tmp_path) == ["runs.duckdb"]
    shown = subprocess.run(
        [sys.executable, SCRIPT, "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert "--db-path" in shown.stdout
