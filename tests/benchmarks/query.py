"""How long a write takes beside a heavy statement of `POST /query`.

    python -m tests.benchmarks.query [--url URL] [--seconds 4]

Starts a server on a temporary DuckDB file, or on the migrated PostgreSQL database at URL, records 200 000
metrics, and prints the median and the 95th percentile of a PATCH of a run, alone and while statements run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import httpx2

from app.db import Database
from app.db.bulk import insert_many
from app.db.migrate import migrate
from app.models import TestRun, TestRunMetric, new_metric_ids
from tests.server import serving

API = "/api/test/db"
HEAVY = (
    "SELECT count(*) FROM test_run_metrics a, test_run_metrics b WHERE a.metric_value < b.metric_value",
    "SELECT a.id * b.id FROM test_run_metrics a, test_run_metrics b ORDER BY 1",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT count(*) FROM r",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"duckdb:///{folder}/bench.duckdb"
        fill(url)
        with serving(Path(folder), "--database-url", url) as server:
            report("alone", server.url, given.seconds)
            for sql in HEAVY:
                ended = threading.Event()
                thread = threading.Thread(target=keep_asking, args=(server.url, sql, ended))
                thread.start()
                report(sql[:60], server.url, given.seconds)
                ended.set()
                thread.join()


def fill(url: str) -> None:
    migrate(url)
    database = Database(url)
    rows = [
        {"run_id": "x", "id": key, "metric_name": f"name {key % 50}", "metric_value": key % 1000 / 7}
        for key in new_metric_ids(200_000)
    ]
    database.write(lambda session: session.add_all(TestRun(run_id=key, model_name="m") for key in "xy"))
    database.write(insert_many, TestRunMetric, rows)
    database.close()


def keep_asking(url: str, sql: str, ended: threading.Event) -> None:
    with httpx2.Client(base_url=url, timeout=60) as client:
        while not ended.is_set():
            client.post(f"{API}/query", json={"sql": sql})


def report(what: str, url: str, seconds: float) -> None:
    times, end = [], time.monotonic() + seconds
    with httpx2.Client(base_url=url, timeout=60) as client:
        while (start := time.monotonic()) < end:
            client.patch(f"{API}/run/y", json={"progress": 0.5}).raise_for_status()
            times.append((time.monotonic() - start) * 1000)
    p95 = statistics.quantiles(times, n=20)[-1]
    print(f"{statistics.median(times):8.1f} ms median {p95:8.1f} ms p95   {what}")


if __name__ == "__main__":
    main()
