"""What the indexes of revision 0002 are worth: each query with and without them, on the same data.

    python -m tests.benchmarks.indexes [--runs 100000] [--url URL]

Fills an empty database (a temporary DuckDB file, or the empty PostgreSQL database at URL) with runs of 10
steps, 20 metrics and 2 tags, in random order of their ids, and prints the median time of each query and the
ratio.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.db import Database, utcnow
from app.db.bulk import insert_many
from app.db.migrate import config_file, migrate
from app.models import TestRun, TestRunMetric, TestRunStep, TestRunTag, new_metric_ids
from app.schemas.runs import MetricQuery, RunQuery, SearchRequest
from app.schemas.stats import PerformanceQuery
from app.services import runs, search, stats

STEPS, METRICS, CHUNK, REPEATS = 10, 20, 1000, 15


def fill(session: Session, ids: list[str], chance: random.Random) -> None:
    now = utcnow()
    count = len(ids)
    started = {run_id: now - timedelta(seconds=chance.uniform(0, 365 * 86400)) for run_id in ids}
    insert_many(
        session,
        TestRun,
        [
            {
                "run_id": run_id,
                "model_name": f"model-{int(chance.paretovariate(1)) % 500}",
                "hardware": chance.choice((["cpu"], ["cuda"], ["openvino"], ["cpu", "cuda"])),
                "test_type": "basic",
                "save_results": True,
                "status": chance.choice(("completed",) * 9 + ("error",)),
                "progress": 1.0,
                "started_at": started[run_id],
                "duration": chance.lognormvariate(1, 1),
                "created_at": now,
            }
            for run_id in ids
        ],
    )
    insert_many(
        session,
        TestRunStep,
        [
            {
                "run_id": run_id,
                "step_name": f"test_{step}",
                "status": "passed",
                "progress": 1.0,
                "started_at": now,
            }
            for run_id in ids
            for step in range(STEPS)
        ],
    )
    numbers = iter(new_metric_ids(count * METRICS))
    insert_many(
        session,
        TestRunMetric,
        [
            {
                "run_id": run_id,
                "id": next(numbers),
                "metric_name": f"metric_{metric}",
                "metric_value": chance.random(),
                "metric_unit": "ms",
                "timestamp": now,
            }
            for run_id in ids
            for metric in range(METRICS)
        ],
    )
    insert_many(
        session,
        TestRunTag,
        [
            {"run_id": run_id, "tag_name": name, "tag_value": f"{chance.randrange(1000)}"}
            for run_id in ids
            for name in ("branch", "commit")
        ],
    )


def queries(some_ids: list[str]) -> dict[str, Callable[[Session], object]]:
    ids = iter(some_ids)
    return {
        "run detail": lambda session: runs.get_run(session, next(ids)),
        "series of a run": lambda session: runs.list_metrics(session, next(ids), MetricQuery()),
        "newest 100": lambda session: runs.list_runs(session, RunQuery()),
        "newest 100 of a model": lambda session: runs.list_runs(session, RunQuery(model_name="model-3")),
        "newest 100 on cuda": lambda session: runs.list_runs(session, RunQuery(hardware="cuda")),
        "newest 100 with a tag": lambda session: runs.list_runs(session, RunQuery(tag=["branch=7"])),
        "search": lambda session: search.search_runs(session, SearchRequest(query="model-3 cuda")),
        "performance, 30 days": lambda session: stats.performance(session, PerformanceQuery()),
    }


def measure(database: Database, total: int, chance: random.Random) -> dict[str, float]:
    medians = {}
    some_ids = [f"run-{chance.randrange(total):08}" for _ in range(4 * REPEATS)]
    for name, query in queries(some_ids).items():
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            database.read(query)
            times.append(time.perf_counter() - start)
        medians[name] = statistics.median(times)
    return medians


def to_revision(engine: Engine, revision: str) -> None:
    config = Config(config_file())
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if revision == "0001" else command.upgrade)(config, revision)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--url")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"duckdb:///{Path(folder) / 'bench.duckdb'}"
        migrate(url)
        database, chance = Database(url), random.Random(1)
        start = time.perf_counter()
        ids = [f"run-{number:08}" for number in range(options.runs)]
        chance.shuffle(ids)  # as random ids arrive
        for first in range(0, options.runs, CHUNK):
            database.write(fill, ids[first : first + CHUNK], chance)
        print(f"{options.runs} runs filled in {time.perf_counter() - start:.0f} s")
        to_revision(database.engine, "0001")
        without = measure(database, options.runs, chance)
        to_revision(database.engine, "head")
        with_ = measure(database, options.runs, chance)
        database.close()
    print(f"{'query':<24}{'without ms':>12}{'with ms':>10}{'ratio':>8}")
    for name, seconds in without.items():
        print(f"{name:<24}{seconds * 1e3:>12.1f}{with_[name] * 1e3:>10.1f}{seconds / with_[name]:>8.1f}")


if __name__ == "__main__":
    main()
