"""How long other requests take beside a heavy statement of `POST /query`.

    python -m tests.benchmarks.query [--url URL] [--seconds 3] [--rounds 5]

Starts a server on a temporary DuckDB file, or on the migrated PostgreSQL database at URL, and records 200 000
metrics. In each round it sends a PATCH of a run and a GET of it, in turns, alone and while each statement
runs again and again, and prints the medians over the rounds: of the median, of the 95th percentile, and of
its ratio to the one alone in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from app.db import Database
from app.db.bulk import insert_many
from app.db.migrate import migrate
from app.models import TestRun, TestRunMetric, new_metric_ids
from tests.server import serving

API = "/api/test/db"
RUN = f"{API}/run/y"
HEAVY = (
    "SELECT count(*) FROM test_run_metrics a, test_run_metrics b WHERE a.metric_value < b.metric_value",
    "SELECT a.id * b.id FROM test_run_metrics a, test_run_metrics b ORDER BY 1",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT count(*) FROM r",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"duckdb:///{folder}/bench.duckdb"
        fill(url)
        with serving(Path(folder), "--database-url", url) as server:
            times(server.url, 1)
            for _ in range(given.rounds):
                middle, alone = times(server.url, given.seconds)
                found["alone"].append((middle, alone, 1.0))
                for sql in HEAVY:
                    with asking(server.url, sql):
                        middle, high = times(server.url, given.seconds)
                    found[sql].append((middle, high, high / alone))
    for what, rounds in found.items():
        middle, high, ratio = map(statistics.median, zip(*rounds, strict=True))
        print(f"{middle:6.1f} ms median {high:6.1f} ms p95 {ratio:5.2f} x   {what[:60]}")


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


@contextmanager
def asking(url: str, sql: str) -> Iterator[None]:
    """The statement runs again and again until the block ends."""
    ended = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=url, timeout=60) as client:
            while not ended.is_set():
                client.post(f"{API}/query", json={"sql": sql})

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def times(url: str, seconds: float) -> tuple[float, float]:
    """The median and the 95th percentile of requests for so long, in milliseconds."""
    found, end = [], time.monotonic() + seconds
    with httpx2.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < end:
            for method, body in (("PATCH", {"progress": 0.5}), ("GET", None)):
                start = time.monotonic()
                client.request(method, RUN, json=body).raise_for_status()
                found.append((time.monotonic() - start) * 1000)
    return statistics.median(found), statistics.quantiles(found, n=20)[-1]


if __name__ == "__main__":
    main()
