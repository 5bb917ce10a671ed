"""The figures of a server, as Prometheus reads them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db import Database
from app.errors import Unavailable
from app.models import TestRun
from tests.marks import ON_DUCKDB
from tests.routers.helpers import B, add, ok, problem
from tests.routers.test_prune import old

Series = tuple[str, frozenset[tuple[str, str]]]

LABEL = re.compile(r'(\w+)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (-?[\d.e+-]+|NaN|[+-]Inf)")


def parse(text: str) -> dict[Series, float]:
    """The samples of an answer; each must be of a family that was described before, and stand there once."""
    found: dict[Series, float] = {}
    kinds: dict[str, str] = {}
    described = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            described.add(line.split()[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name in described
            assert name not in kinds
            kinds[name] = kind
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            name, labels, value = sample.groups()
            family = re.sub("_(bucket|sum|count)$", "", name)
            assert name in kinds or kinds.get(family) == "histogram", line
            assert LABEL.sub("", labels or "") == "", line
            unescaped = [
                (key, re.sub(r"\\(.)", lambda part: {"n": "\n"}.get(part[1], part[1]), text))
                for key, text in LABEL.findall(labels or "")
            ]
            series = (name, frozenset(unescaped))
            assert series not in found, line
            found[series] = float(value)
    return found


def figures(client: TestClient) -> dict[Series, float]:
    response = client.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(response.text)


def of(name: str, **labels: str) -> Series:
    return name, frozenset(labels.items())


def test_requests_are_counted_by_template_and_timed(client: TestClient) -> None:
    run, lists = f"{B}/run/{{run_id}}", f"{B}/runs"
    add(client)
    for run_id in ("r", "r", "unknown"):
        client.get(f"{B}/run/{run_id}")
    for address in ("/nothing", "/nothing/else%0A{}"):
        problem(client.get(address), 404)
    problem(client.request("BREW", lists), 405)
    found = figures(client)
    total = "testdb_http_requests_total"
    counts = {
        (labels["method"], labels["route"], labels["status"]): value
        for (name, pairs), value in found.items()
        if name == total and (labels := dict(pairs))
    }
    assert counts == {
        ("POST", lists, "201"): 1,
        ("GET", run, "200"): 2,
        ("GET", run, "404"): 1,
        ("GET", "other", "404"): 2,
        ("other", lists, "405"): 1,
    }
    timed = "testdb_http_request_duration_seconds"
    assert found[of(f"{timed}_count", route=run)] == found[of(f"{timed}_bucket", route=run, le="+Inf")] == 3
    assert 0 < found[of(f"{timed}_sum", route=run)] < 60
    buckets = [
        (float(dict(pairs)["le"]), value)
        for (name, pairs), value in found.items()
        if name == f"{timed}_bucket" and ("route", run) in pairs
    ]
    assert len(buckets) > 8
    assert sorted(buckets) == buckets
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert figures(client)[of(total, method="GET", route="/metrics", status="200")] == 1


def test_runs_are_counted_by_status(api: TestClient) -> None:
    ok(api.post(f"{B}/ingest", json=[old("a"), old("b"), old("c", status="error"), old("odd")]))
    add(api, "live", status="running")
    add(api, "waits")
    odd = 'a\\"b"\nc'
    for run_id, values in {"odd": {"status": odd}, "waits": {"creator": "testdb"}}.items():
        change = update(TestRun).where(TestRun.run_id == run_id).values(values)
        api.app.state.database.write(Session.execute, change)  # type: ignore[attr-defined]
    found = figures(api)
    by_status = {
        dict(pairs)["status"]: value for (name, pairs), value in found.items() if name == "testdb_runs"
    }
    assert by_status == {
        "initializing": 1, "running": 1, "completed": 2, "error": 1, "timeout": 0, "cancelled": 0, odd: 1,
    }  # fmt: skip
    assert found[of("testdb_runs_live")] == 3
    assert found[of("testdb_runs_queued")] == 1
    assert found[of("testdb_database_up")] == 1


def test_the_process_and_the_size_of_the_database(api: TestClient) -> None:
    found = figures(api)
    assert found[of("testdb_database_size_bytes")] > 100_000
    assert time.time() - 24 * 3600 < found[of("process_start_time_seconds")] < time.time() + 1
    assert 20e6 < found[of("process_resident_memory_bytes")] < 20e9
    threads, stop = found[of("process_threads")], threading.Event()
    descriptors = found[of("process_open_fds")]
    more = [threading.Thread(target=stop.wait) for _ in range(20)]
    for thread in more:
        thread.start()
    with ExitStack() as files:
        for _ in range(50):
            files.enter_context(Path("/dev/null").open("rb"))
        found = figures(api)
    stop.set()
    for thread in more:
        thread.join()
    assert threads + 10 <= found[of("process_threads")] <= threads + 30
    assert descriptors + 40 <= found[of("process_open_fds")] <= descriptors + 60


@ON_DUCKDB
def test_another_process_cannot_open_the_file_after_its_size_was_told(client: TestClient, url: str) -> None:
    figures(client)
    add(client)
    code = "import sys; from app.db import Database; Database(sys.argv[1]).ping()"
    other = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=60)
    assert other.returncode == 1
    assert "Conflicting lock" in other.stderr


def test_a_database_that_does_not_answer_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_database: Database) -> int:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(Database, "size", away)
    found = figures(client)
    assert found[of("testdb_database_up")] == 0
    assert of("testdb_runs_live") not in found
    assert of("process_threads") in found
