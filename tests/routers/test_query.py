"""SQL over HTTP: what works, the same on every engine, and what is refused."""

from __future__ import annotations

import csv
import io
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import nanoarrow
import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.config import Settings
from app.db import Database, make_engine
from app.db.bulk import insert_many
from app.models import TestRun, TestRunMetric, TestRunStep
from app.routers import query
from app.schemas.query import SqlAnswer
from app.services import query as services_query
from tests.bait import laid
from tests.factories import contents
from tests.marks import ON_DUCKDB
from tests.routers import attacks
from tests.routers.conftest import serving as serving_here
from tests.routers.helpers import B, ok, problem
from tests.routers.statements import RUNS, WORKS
from tests.server import serving


def store(client: TestClient) -> None:
    for run in RUNS:
        assert client.post(f"{B}/runs", json=run).status_code == 201


def ask(client: Any, sql: str, params: Any = (), **more: Any) -> Any:
    return client.post(f"{B}/query", json={"sql": sql, "params": params or [], **more})


def test_useful_statements_answer_the_same_on_every_engine(api: TestClient) -> None:
    store(api)
    wrong = []
    for sql, params, rows in WORKS:
        response = ask(api, sql, params)
        found = response.json().get("rows", response.text)
        if found != rows:
            wrong.append((sql, found))
    assert wrong == []


def test_what_is_not_allowed_is_refused_and_nothing_is_changed(
    settings: Settings,
    openapi: dict[str, Any],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Nor opened: no file, folder or address."""

    def stored() -> Any:
        engine = make_engine(settings.sqlalchemy_url)
        with engine.connect() as connection:
            found = contents(connection)
        engine.dispose()
        return found

    with serving_here(settings, openapi) as client:
        store(client)
    before, files = stored(), sorted(path.name for path in tmp_path.iterdir())
    folder = tmp_path_factory.mktemp("bait")
    with laid(folder) as bait, serving_here(settings, openapi) as client:
        (folder / "passwd").read_text()
        assert bait.taken()
        socket.create_connection((httpx2.URL(bait.url).host, httpx2.URL(bait.url).port or 0)).close()
        assert bait.taken()
        assert len(attacks.REFUSED) > 190
        for attack in attacks.REFUSED:
            sql = attack.replace("/etc", str(folder)).replace("https://example.com", bait.url)
            response = ask(client, sql)
            assert response.status_code == 422, sql
            errors = problem(response, 422)["errors"]
            assert [error["field"] for error in errors] == ["sql"], sql
            said = errors[0]["message"]
            assert str(tmp_path) not in said, sql
            assert "duckdb" not in said or "duckdb" in sql, sql
        assert not bait.taken()
    assert stored() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "sql"),
        ({"sql": 1}, "sql"),
        ({"sql": "SELECT 1", "limit": 0}, "limit"),
        ({"sql": "SELECT 1", "limit": 10_001}, "limit"),
        ({"sql": "SELECT 1", "more": 1}, "more"),
        ({"sql": "SELECT 1", "params": [1]}, "params"),
        ({"sql": "SELECT ?", "params": {}}, "params"),
        ({"sql": "SELECT ?", "params": [[[]]]}, "params"),
        ({"sql": "SELECT :a", "params": []}, "params"),
        ({"sql": "SELECT :a", "params": {}}, "params"),
        ({"sql": "SELECT :a", "params": {"a": 1, "b": 2}}, "params"),
        ({"sql": "SELECT ?, :a", "params": [1, 2]}, "params"),
        ({"sql": "SELECT nothing FROM test_runs"}, "sql"),
        ({"sql": "SELECT 1 + 'x'::int"}, "sql"),
        ({"sql": "SELECT 1 / 0 FROM nowhere"}, "sql"),
    ],
)
def test_wrong_input_is_named(api: TestClient, body: dict[str, Any], field: str) -> None:
    errors = problem(api.post(f"{B}/query", json=body), 422)["errors"]
    assert errors[0]["field"].startswith(field)
    assert not [error for error in errors if " at 0x" in error["field"]]  # of the process's memory


def test_columns_limit_and_formats(api: TestClient) -> None:
    store(api)
    sql = (
        "SELECT run_id, hardware, started_at, duration, save_results, error, 7 AS n, 7 AS n, "
        "'NaN'::float AS f FROM test_runs ORDER BY 1"
    )
    answer = ok(ask(api, sql, limit=2))
    assert [(column["name"], column["type"]) for column in answer["columns"]] == [
        ("run_id", "text"),
        ("hardware", "text[]"),
        ("started_at", "timestamp"),
        ("duration", "number"),
        ("save_results", "boolean"),
        ("error", "text"),
        ("n", "integer"),
        ("n", "integer"),
        ("f", "number"),
    ]
    assert len(answer["rows"]) == 2
    assert answer["truncated"] is True
    assert answer["elapsed_ms"] > 0
    assert ok(ask(api, sql, limit=3))["truncated"] is False
    assert ok(ask(api, f"{sql} LIMIT 2", limit=10))["truncated"] is False
    empty = ok(ask(api, "SELECT run_id FROM test_runs WHERE false"))
    assert (empty["columns"], empty["rows"]) == ([{"name": "run_id", "type": "text"}], [])

    def as_(kind: str) -> Any:
        return api.post(f"{B}/query", json={"sql": sql}, headers={"Accept": kind})

    text = as_("text/html;q=0.5, text/csv")
    assert text.headers["content-type"].startswith("text/csv")
    table = list(csv.reader(io.StringIO(text.text, newline="")))
    assert table[0][:3] == ["run_id", "hardware", "started_at"]
    assert table[2] == [
        *("b", '["cpu"]', "2026-01-02T11:30:00.500000Z", "20.0", "true"),
        *("it's 100% broken_\nhere", "7", "7", "NaN"),
    ]
    arrow = as_("application/vnd.apache.arrow.stream")
    assert arrow.headers["content-type"] == "application/vnd.apache.arrow.stream"
    batch = nanoarrow.ArrayStream.from_readable(arrow.content).read_all()
    assert [field.name for field in batch.schema.fields][:4] == [
        "run_id",
        "hardware",
        "started_at",
        "duration",
    ]
    row = next(iter(batch.iter_py()))
    assert (row["run_id"], row["hardware"], row["duration"], row["n"]) == ("a", '["cpu","cuda"]', 10.0, 7)
    assert row["started_at"].isoformat() == "2026-01-01T10:00:00+00:00"
    problem(as_("text/html"), 406)


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT CAST(? AS json)", ["[" * 9000 + "]" * 9000]),
        ("SELECT CAST(? AS json)", ["[" * 300 + "]" * 300]),
        ("SELECT CAST(? AS json)", ["1" * 5000]),
        ("SELECT CAST(? AS json)", ['"\\ud800"']),
        ("SELECT interval '100000000 months'", []),
    ],
)
def test_a_value_that_no_answer_could_have(api: TestClient, sql: str, params: list[Any]) -> None:
    problem(ask(api, sql, params), 422)


@pytest.mark.parametrize("kind", ["application/json", "text/csv", "application/vnd.apache.arrow.stream"])
def test_a_time_after_the_last_year_of_python(api: TestClient, kind: str) -> None:
    sql = {"sql": "SELECT timestamp '12000-01-01'"}
    assert api.post(f"{B}/query", json=sql, headers={"Accept": kind}).status_code in (200, 422)


def memory(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) << 12


def _metrics(session: Session) -> None:
    session.add(TestRun(run_id="x", model_name="m"))
    session.flush()
    rows = [{"run_id": "x", "metric_name": f"name {n}", "metric_value": n / 7, "id": n} for n in range(3000)]
    insert_many(session, TestRunMetric, rows)
    steps = [{"run_id": "x", "step_name": f"step {n}", "error": "x" * 1990} for n in range(3000)]
    insert_many(session, TestRunStep, steps)


def p95(times: list[float]) -> float:
    return sorted(times)[len(times) * 95 // 100]


BUSY = 3.0
"""Seconds that a request may take at any time, where others use the machine as well."""


@pytest.mark.slow
def test_an_endless_statement_is_stopped_and_holds_up_nobody(url: str, tmp_path: Path) -> None:
    database = Database(url)
    database.write(_metrics)
    database.close()
    options = ("--database-url", url, "--query-timeout", "0.3")
    with (
        serving(tmp_path, *options) as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
        httpx2.Client(base_url=server.url, timeout=30) as other,
    ):
        ok(ask(client, "SELECT count(*) FROM test_runs"))
        before, ended = memory(server.process.pid), threading.Event()
        most, times = [before], []

        def track() -> None:
            while not ended.is_set():
                start = time.monotonic()
                other.patch(f"{B}/run/x", json={"progress": 0.5}).raise_for_status()
                times.append(time.monotonic() - start)
                most.append(memory(server.process.pid))
                time.sleep(0.01)

        tracking = threading.Thread(target=track)
        tracking.start()
        try:
            for sql in attacks.lines(attacks.SLOW):
                start = time.monotonic()
                said = problem(ask(client, sql), 422)["detail"]
                assert time.monotonic() - start < 6, sql
                assert "stopped" in said or "temp_file_limit" in said, (sql, said)
            for sql, params in attacks.WIDE:
                start = time.monotonic()
                assert ask(client, sql, params).status_code in (200, 422), sql
                assert time.monotonic() - start < 6, sql
        finally:
            ended.set()
            tracking.join()
        assert max(most) - before < 1 << 30
        assert p95(times) < BUSY
        ok(ask(client, "SELECT count(*) FROM test_runs"))


def test_one_query_at_a_time(settings: Settings, openapi: dict[str, Any]) -> None:
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT count(*) FROM r"
    with serving_here(settings.model_copy(update={"query_timeout": 1.5}), openapi) as client:
        running = threading.Thread(target=ask, args=(client, endless))
        running.start()
        time.sleep(0.3)
        refused = ask(client, "SELECT 1")
        assert refused.headers["Retry-After"] == "1"
        assert "Other queries" in problem(refused, 503)["detail"]
        running.join()
        ok(ask(client, "SELECT 1"))


def test_an_answer_is_written_before_the_next_one_begins(
    settings: Settings, openapi: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = threading.Event(), threading.Event()

    def write(answer: SqlAnswer) -> bytes:
        begun.set()
        done.wait(20)
        return b""

    monkeypatch.setitem(query._FORMATS, "text/csv", write)
    with serving_here(settings, openapi) as client:
        body, headers = {"sql": "SELECT 1"}, {"Accept": "text/csv"}
        writing = threading.Thread(
            target=client.post, args=(f"{B}/query",), kwargs={"json": body, "headers": headers}
        )
        writing.start()
        assert begun.wait(20)
        refused = ask(client, "SELECT 1")
        done.set()
        writing.join()
        assert "Other queries" in problem(refused, 503)["detail"]


@ON_DUCKDB
def test_the_next_one_begins_when_memory_is_given_back(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok(ask(api, "SELECT 1"))
    left = [1 << 50] * 5
    monkeypatch.setattr(services_query, "PATIENCE", 60)
    monkeypatch.setattr(services_query, "memory", lambda: left.pop() if left else 0)
    ok(ask(api, "SELECT 1"))
    assert left == []
