"""What an operator sees: readiness, logs, limits, and a server that is stopped or killed."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import func, make_url, select, text
from starlette.testclient import TestClient

from app.config import Settings
from app.db import Database, make_engine
from app.db.migrate import require_current
from app.main import create_app
from app.models import TestRun, TestRunStep
from tests.cli.helpers import fill, options_of, refused
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.server import PATIENCE, Server, serving

API = "/api/test/db"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes small bodies and logs for programs."""
    folder = tmp_path_factory.mktemp("quiet")
    with serving(folder, "--log-format", "json", "--max-body-mb", "1") as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs for people."""
    with serving(tmp_path_factory.mktemp("plain")) as server:
        yield server


def run(number: int, **fields: Any) -> bytes:
    return json.dumps({"run_id": f"run-{number:04}", "model_name": "m", **fields}).encode() + b"\n"


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def problem(response: httpx2.Response, status: int) -> str:
    """The sentence of an error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    found = response.json()
    assert found["status"] == status
    return str(found["detail"])


# --- the end of a server


@pytest.mark.parametrize(
    ("number", "engine_name"),
    [(signal.SIGTERM, "duckdb"), (signal.SIGTERM, "postgresql"), (signal.SIGINT, "duckdb")],
    indirect=["engine_name"],
)
def test_a_request_in_flight_is_finished(url: str, tmp_path: Path, number: signal.Signals) -> None:
    """The second half of its body arrives after the signal, and is stored after that."""
    steps = [{"step_name": f"test_{step}", "status": "passed"} for step in range(20)]
    halves = [b"".join(run(n, steps=steps) for n in numbers) for numbers in (range(500), range(500, 1000))]
    with serving(tmp_path, *options_of(url)) as server:
        client = http.client.HTTPConnection("127.0.0.1", httpx2.URL(server.url).port, timeout=PATIENCE)
        client.putrequest("POST", f"{API}/ingest")
        headers = {**NDJSON, "Content-Length": str(sum(map(len, halves))), "Expect": "100-continue"}
        for name, value in headers.items():
            client.putheader(name, value)
        client.endheaders()
        assert client.sock.recv(100).startswith(b"HTTP/1.1 100 "), "the request is being worked on"
        client.send(halves[0])
        server.process.send_signal(number)
        wait_for(lambda: "Shutting down" in server.logged())
        client.send(halves[1])
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())["runs"]) == (200, 1000)
        client.close()
        assert server.process.wait(PATIENCE) == 0
        logged = server.logged()
    assert "POST /api/test/db/ingest 200" in logged
    assert "Traceback" not in logged
    file = make_url(url).database
    assert not Path(f"{file}.wal").exists()
    engine = make_engine(url)
    with engine.connect() as connection:
        counts = [
            connection.scalar(select(func.count()).select_from(model)) for model in (TestRun, TestRunStep)
        ]
    engine.dispose()
    assert counts == [1000, 20_000]


@ON_DUCKDB
def test_an_export_under_way_is_given_up_whole(url: str, tmp_path: Path) -> None:
    fill(url)
    with serving(tmp_path, *options_of(url), "--export-dir", "out") as server:
        assert httpx2.post(f"{server.url}{API}/export", json={"filename": "all.json"}).status_code == 202
        assert server.stop() == 0
        assert "Traceback" not in server.logged()
    left = [path.name for path in (tmp_path / "out").iterdir() if path.name != ".exports"]
    assert not list((tmp_path / "out").rglob("*.part"))
    assert left in ([], ["all.json"])
    if left:  # it was faster than the signal
        assert json.loads((tmp_path / "out" / "all.json").read_bytes())["format"] == "test-suite-db"


def test_a_killed_server_has_what_it_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with serving(tmp_path) as server:

        def record(client_number: int) -> None:
            with httpx2.Client(base_url=f"{server.url}{API}") as client:
                for number in range(10_000):
                    try:
                        answer = client.post(
                            "/ingest", content=run(number * 3 + client_number), headers=NDJSON
                        )
                    except httpx2.HTTPError:
                        return
                    assert answer.status_code == 200
                    acknowledged.append(f"run-{number * 3 + client_number:04}")

        clients = [threading.Thread(target=record, args=(number,)) for number in range(3)]
        for client in clients:
            client.start()
        wait_for(lambda: len(acknowledged) >= 60)
        server.process.kill()
        assert server.process.wait(PATIENCE) == -signal.SIGKILL
        for client in clients:
            client.join()
    with serving(tmp_path) as server, httpx2.Client(base_url=f"{server.url}{API}") as client:
        found = client.get("/runs", params={"limit": 1000}).raise_for_status().json()
        assert {item["run_id"] for item in found} >= set(acknowledged)
        assert len(found) <= len(acknowledged) + len(clients), "and nothing else"
        assert client.get("/check").json() == []
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["test_runs.duckdb"]


# --- readiness


@ON_POSTGRESQL
def test_a_server_is_not_ready_while_its_database_is_away(
    url: str, postgres_url: str, tmp_path: Path
) -> None:
    name = make_url(url).database
    with (
        serving(tmp_path, *options_of(url)) as server,
        httpx2.Client(base_url=server.url) as client,
        psycopg.connect(postgres_url, autocommit=True) as admin,
    ):
        assert client.get("/readyz").json()["status"] == "ready"
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        try:
            for path in ("/readyz", f"{API}/runs", f"{API}/check"):
                away = client.get(path)
                assert "The database does not answer: " in problem(away, 503)
                assert away.headers["retry-after"] == "1"
            assert "does not answer" in problem(client.post(f"{API}/runs", json={"model_name": "m"}), 503)
            assert client.get("/healthz").json() == {"status": "ok"}
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert client.get("/readyz").status_code == 200
        assert client.get(f"{API}/runs").json() == []
        assert "Traceback" not in server.logged()


def test_a_server_is_not_ready_while_its_database_is_not_migrated(settings: Settings) -> None:
    def stamp(revision: str) -> None:
        database.write(
            lambda session: session.execute(
                text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision}
            )
        )

    app = create_app(settings)
    with TestClient(app) as client:
        database: Database = app.state.database
        head = require_current(database.engine)
        ready = client.get("/readyz")
        assert ready.json() == {"status": "ready", "database": "ok", "revision": head}
        stamp("0001")
        assert "`testdb migrate`" in problem(client.get("/readyz"), 503)
        stamp("0999")
        assert "newer version" in problem(client.get("/readyz"), 503)
        assert client.get("/healthz").status_code == 200
        stamp(head)
        assert client.get("/readyz").json() == ready.json()


# --- request ids and logs


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", f"{API}/runs", f"{API}/run/none", "/none", "/openapi.json"]
)
def test_every_answer_has_the_id_of_its_request(plain: Server, path: str) -> None:
    given = httpx2.get(plain.url + path, headers={"X-Request-ID": "mine-1.a:B_2"})
    assert given.headers["x-request-id"] == "mine-1.a:B_2"
    made = [httpx2.get(plain.url + path).headers["x-request-id"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    assert made[0] != made[1]


@pytest.mark.parametrize("bad", ["no good", "x" * 101, "", 'a"b', "ü"])
def test_an_id_that_could_confuse_a_log_is_replaced(plain: Server, bad: str) -> None:
    answer = httpx2.get(f"{plain.url}/healthz", headers={"X-Request-ID": bad.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_fault_of_the_server_has_the_id_too(tmp_path: Path) -> None:
    app = create_app(Settings(db_path=tmp_path / "runs.duckdb"))

    @app.get("/fault")
    def fault() -> None:
        raise RuntimeError("a secret of the machine")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/fault", headers={"X-Request-ID": "mine"})
        assert "secret" not in problem(answer, 500)
        assert answer.headers["x-request-id"] == "mine"
    with TestClient(app) as client, pytest.raises(RuntimeError, match="secret"):
        client.get("/fault")  # so that the server can log it


def test_logs_for_programs(quiet: Server) -> None:
    requests = [
        ("GET", f"{API}/runs?limit=5", 200),
        ("POST", f"{API}/runs", 422),
        ("DELETE", f"{API}/run/none", 404),
        ("PUT", "/healthz", 405),
        ("GET", "/a%0Ab%1B%5B31m", 404),
    ]
    for number, (method, path, status) in enumerate(requests):
        answer = httpx2.request(method, quiet.url + path, headers={"X-Request-ID": f"logged-{number}"})
        assert answer.status_code == status
    wait_for(lambda: f"logged-{len(requests) - 1}" in quiet.logged())
    lines = quiet.logged().splitlines()
    entries = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in entries)
    found = {entry["request_id"]: entry for entry in entries if "request_id" in entry}
    for number, (method, path, status) in enumerate(requests):
        entry = found[f"logged-{number}"]
        assert (entry["method"], entry["path"], entry["status"]) == (method, path.partition("?")[0], status)
        assert 0 < entry["duration_ms"] < PATIENCE * 1000
        assert entry["client"] == "127.0.0.1"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry["time"])


def test_logs_for_people_are_one_line_a_request(plain: Server) -> None:
    before = len(plain.logged().splitlines())
    paths = [
        "/readyz",
        "/healthz",
        f"{API}/runs?tag=a%0Ab",
        "/one%0Atwo%0D%1B%5B2Jthree",
        f"{API}/run/%E6%BC%A2",
    ]
    for path in paths:
        httpx2.get(plain.url + path)
    wait_for(lambda: len(plain.logged().splitlines()) >= before + len(paths))
    lines = plain.logged().splitlines()[before:]
    assert len(lines) == len(paths)
    for path, line in zip(paths, lines, strict=True):
        wanted = re.escape(path.partition("?")[0])
        assert re.fullmatch(rf"[\d-]+ [\d:,]+ INFO +GET {wanted} \d+ in [\d.]+ ms", line)


def test_a_client_that_hangs_up_is_no_fault_of_the_server(plain: Server) -> None:
    host, port = plain.url.removeprefix("http://").split(":")
    head = f"POST {API}/ingest HTTP/1.1\r\nHost: {host}\r\nX-Request-ID: gone\r\nContent-Length: 99\r\n\r\n["
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode())
        time.sleep(0.1)
    wait_for(lambda: f"POST {API}/ingest" in plain.logged())
    assert httpx2.get(f"{plain.url}/readyz").status_code == 200
    assert f"POST {API}/ingest 499 in " in plain.logged()
    assert "Traceback" not in plain.logged()


# --- limits


LARGE = b" " * ((1 << 20) + 1)
PLAIN = ("declared", "declared, much too large", "chunked")
BODIES: dict[str, Callable[[], Any]] = {
    "declared": lambda: LARGE,
    "declared, much too large": lambda: LARGE * 20,
    "chunked": lambda: (LARGE[start : start + 65536] for start in range(0, len(LARGE), 65536)),
    "inflated": lambda: gzip.compress(LARGE),
    "inflated, much too large": lambda: gzip.compress(LARGE * 50),
}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (path, name)
        for path in ("/ingest", "/import", "/runs")
        for name in BODIES
        if path != "/runs" or name in PLAIN
    ],
)
def test_bodies_are_bounded(quiet: Server, path: str, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx2.post(f"{quiet.url}{API}{path}", content=BODIES[body](), headers=headers)
    assert "larger than 1 MiB" in problem(answer, 413)


def test_the_file_of_a_form_is_bounded(quiet: Server) -> None:
    for content in (LARGE, gzip.compress(LARGE)):
        answer = httpx2.post(f"{quiet.url}{API}/import", files={"file": ("a.xml", content)})
        assert "larger than 1 MiB" in problem(answer, 413)


def test_a_body_of_just_the_limit_is_taken(quiet: Server) -> None:
    body = b"[]" + b" " * ((1 << 20) - 2)
    assert httpx2.post(f"{quiet.url}{API}/ingest", content=body).json()["runs"] == 0
    assert httpx2.post(f"{quiet.url}{API}/ingest", content=gzip.compress(body)).json()["runs"] == 0


def test_an_import_by_command_says_that_the_file_is_too_large(quiet: Server, tmp_path: Path) -> None:
    file = tmp_path / "large.xml"
    file.write_bytes(b"<testsuite>" + LARGE * 20)
    assert "larger than 1 MiB" in refused("import", str(file), "--url", quiet.url)


# --- documentation


def test_the_documentation_needs_no_network(plain: Server) -> None:
    with httpx2.Client(base_url=plain.url, follow_redirects=True) as client:
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        scripts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert any("swagger-ui-bundle.js" in script for script in scripts)
        for script in scripts:
            address = httpx2.URL(plain.url).join(script)
            assert address.host == "127.0.0.1"
            assert client.get(address).status_code == 200
        assert "https://" not in page.text
        described = client.get("/openapi.json").json()
        assert described["info"]["title"] == "Test Suite Database"
        assert f"{API}/runs" in described["paths"]
