"""Makes a history of any size: the same runs, from the same seed, on either engine.

    python -m tests.benchmarks.data --url URL --runs N [--days 365] [--models 200] [--seed 1] [--until DATE]

Migrates the database and fills it when it is empty. DuckDB makes the rows set by set; PostgreSQL gets them by
COPY. A run has about 5 steps, 20 metrics and 2 tags; few models have most of the runs; durations are
log-normal; one run in twenty fails, times out or is cancelled; one in three is in a batch of a hundred.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb
import psycopg
from sqlalchemy import make_url

from app.db.engine import embedded_file
from app.db.migrate import migrate

PAGE = 30_000
"""Runs a transaction; a multiple of the 300 runs that a batch is drawn from."""
PIECE = 1 << 20
NULL = r"\N"
COUNT = "SELECT count(*) FROM test_runs"

MACROS = """
    CREATE TEMP MACRO chance(n, salt) AS hash(n, salt, {seed}) / 18446744073709551616.0;
    CREATE TEMP MACRO normal(n, salt) AS
        sqrt(-2 * ln(1 - chance(n, salt))) * cos(2 * pi() * chance(n, salt || ' angle'));
    CREATE TEMP MACRO key(kind, n) AS md5(kind || '-' || n || '-{seed}')::UUID::VARCHAR;
    CREATE TEMP MACRO later(moment, seconds) AS moment + to_microseconds((1e6 * (seconds))::BIGINT);
"""

RUNS = """
    CREATE OR REPLACE TEMP TABLE made AS
    WITH numbered AS (
        SELECT n,
            later(TIMESTAMP '{until}', (n + chance(n, 'start') - {runs}) * {days} * 86400.0 / {runs})
                AS started,
            floor({models} * chance(n, 'model') ^ 3)::INTEGER AS model,
            chance(n, 'platform') AS platform,
            chance(n, 'end') AS ending,
            3 + floor(5 * chance(n, 'steps'))::INTEGER AS steps,
            10 + floor(21 * chance(n, 'metrics'))::INTEGER AS metrics,
            1 + floor(3 * chance(n, 'tags'))::INTEGER AS tags
        FROM range({first}, {last}) AS numbers(n)
    ), told AS (
        SELECT *,
            CASE WHEN ending < 0.95 THEN 'completed' WHEN ending < 0.98 THEN 'error'
                 WHEN ending < 0.99 THEN 'timeout' ELSE 'cancelled' END AS status,
            CASE WHEN platform < 0.40 THEN ['cpu'] WHEN platform < 0.70 THEN ['cuda']
                 WHEN platform < 0.80 THEN ['cpu', 'cuda'] WHEN platform < 0.88 THEN ['openvino']
                 WHEN platform < 0.94 THEN ['rocm'] WHEN platform < 0.98 THEN ['mps']
                 ELSE ['webgpu'] END AS hardware
        FROM numbered
    )
    SELECT *,
        key('run', n) AS run_id,
        CASE status WHEN 'timeout' THEN 300.0
             ELSE least(exp(2.5 + 0.004 * model + 0.8 * normal(n, 'duration')), 299.0) END AS duration,
        CASE status WHEN 'completed' THEN 'Completed' WHEN 'error' THEN 'Error'
             WHEN 'timeout' THEN 'Timeout' ELSE 'Cancelled' END AS last_step,
        CASE status WHEN 'completed' THEN NULL WHEN 'error' THEN
             'RuntimeError: out of memory at layer ' || floor(48 * chance(n, 'layer'))::INTEGER
             WHEN 'timeout' THEN 'The run took longer than 300 seconds.' ELSE 'Cancelled by its user.' END
             AS error,
        (status <> 'completed' OR chance(n, 'failed') < 0.04)::INTEGER AS failed,
        (chance(n, 'skipped') < 0.1)::INTEGER AS skipped
    FROM told
"""

STEPS = """
    CREATE OR REPLACE TEMP TABLE step AS
    SELECT made.*, k, k = steps - 1 AS last, duration / steps AS took,
        CASE WHEN k = steps - 1 THEN last_step
             ELSE 'test_' || ['load', 'inference', 'batch', 'gradients', 'export', 'memory'][k + 1]
                  || '[' || hardware[1] || ']' END AS step_name,
        CASE WHEN k = steps - 1 THEN status WHEN k < failed THEN 'failed'
             WHEN k < failed + skipped AND k < steps - 1 THEN 'skipped' ELSE 'passed' END AS outcome
    FROM made, range(7) AS step(k) WHERE k < steps
"""

BATCHED = "n % 3 = 0"
BATCH = "key('batch', n // 300)"

TABLES = {
    "test_runs": """
        SELECT run_id, 'model-' || model AS model_name, hardware,
            ['basic', 'performance', 'compatibility'][1 + n % 3] AS test_type,
            300.0::DOUBLE AS timeout, true AS save_results, status,
            CASE status WHEN 'completed' THEN 1.0 ELSE 0.5 END::DOUBLE AS progress,
            last_step AS current_step, started AS started_at, later(started, duration) AS completed_at,
            duration, error, CASE WHEN n % 5 = 0 THEN 'results/' || run_id || '.json' END AS result_file,
            'user-' || n % 17 AS creator, started AS created_at
        FROM made ORDER BY n""",
    "batch_test_runs": f"""
        SELECT {BATCH} AS batch_id, 'night ' || n // 300 AS description, count(*)::INTEGER AS run_count,
            min(started) AS started_at, max(later(started, duration)) AS completed_at,
            date_diff('microsecond', min(started), max(later(started, duration))) / 1e6 AS duration,
            CASE count(*) FILTER (status = 'completed') WHEN count(*) THEN 'completed'
                 WHEN 0 THEN 'error' ELSE 'partial' END AS status,
            'scheduler' AS creator, min(started) AS created_at
        FROM made WHERE {BATCHED} GROUP BY n // 300 ORDER BY n // 300""",
    "test_run_results": """
        WITH counted AS (
            SELECT n, run_id,
                count(*) FILTER (outcome = 'passed')::INTEGER AS tests_passed,
                count(*) FILTER (outcome = 'failed')::INTEGER AS tests_failed,
                count(*) FILTER (outcome = 'skipped')::INTEGER AS tests_skipped,
                list({'method': step_name, 'status': outcome, 'duration_ms': round(1000 * took, 3)}
                     ORDER BY k) AS test_details
            FROM step WHERE NOT last AND status IN ('completed', 'error') GROUP BY n, run_id
        )
        SELECT run_id, tests_passed, tests_failed, tests_skipped,
            to_json({'tests_passed': tests_passed, 'tests_failed': tests_failed,
                     'tests_skipped': tests_skipped, 'test_details': test_details}) AS result_data
        FROM counted ORDER BY n""",
    "test_run_steps": """
        SELECT run_id, step_name, outcome AS status, 1.0::DOUBLE AS progress,
            later(started, k * took) AS started_at, later(started, (k + 1) * took) AS completed_at,
            took AS duration, CASE WHEN last OR outcome = 'failed' THEN error END AS error
        FROM step ORDER BY n, k""",
    "test_run_metrics": """
        SELECT run_id, 1500000000000000000 + n * 100 + k AS id,
            hardware[1] || '.' || ['latency', 'throughput', 'memory', 'load_time', 'power'][1 + k % 5]
                AS metric_name,
            [4.0, 250.0, 900.0, 2.0, 75.0][1 + k % 5] * exp(0.01 * model + 0.3 * normal(n * 100 + k, 'value'))
                AS metric_value,
            ['ms', 'items/s', 'MB', 's', 'W'][1 + k % 5] AS metric_unit,
            later(started, duration * k / metrics) AS timestamp
        FROM made, range(30) AS point(k) WHERE k < metrics ORDER BY n, k""",
    "test_run_tags": """
        SELECT run_id, ['branch', 'commit', 'owner'][k + 1] AS tag_name,
            CASE k WHEN 0 THEN CASE WHEN chance(n, 'branch') < 0.7 THEN 'main' ELSE 'topic-' || n % 200 END
                 WHEN 1 THEN md5('' || n // 40)[:10] ELSE 'team-' || n % 12 END AS tag_value
        FROM made, range(3) AS tag(k) WHERE k < tags ORDER BY n, k""",
    "test_run_batch": f"SELECT run_id, {BATCH} AS batch_id FROM made WHERE {BATCHED} ORDER BY n",
    "test_run_artifacts": """
        SELECT run_id, 'results/' || run_id || '.json' AS artifact_path, 'result' AS artifact_type,
            NULL::VARCHAR AS description, later(started, duration) AS created_at
        FROM made WHERE n % 5 = 0 ORDER BY n""",
}


def fill(
    url: str,
    runs: int,
    *,
    days: int = 365,
    models: int = 200,
    seed: int = 1,
    until: datetime | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Fills an empty migrated database with `runs` runs of the `days` before `until` (midnight in UTC).

    `report` is called with the number of runs done. Raises ValueError when there is a run already.
    """
    end = until or datetime.now(UTC)
    file = embedded_file(url)
    with ExitStack() as opened:
        source = opened.enter_context(duckdb.connect(file or ":memory:"))
        if file:
            _require_empty(source.execute(COUNT).fetchone())
            load = partial(_insert, source)
        else:
            address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
            server = opened.enter_context(psycopg.connect(address, options="-c timezone=utc"))
            _require_empty(server.execute(COUNT).fetchone())
            server.commit()
            page = Path(opened.enter_context(tempfile.TemporaryDirectory())) / "page.csv"
            load = partial(_copy, source, server, page)
        source.execute(MACROS.format(seed=seed))
        for first in range(0, runs, PAGE):
            last = min(first + PAGE, runs)
            source.execute(
                RUNS.format(
                    first=first, last=last, runs=runs, days=days, models=models, until=f"{end:%Y-%m-%d}"
                )
            )
            source.execute(STEPS)
            load()
            report(last)
        if file:
            source.execute("CHECKPOINT")
        else:
            server.autocommit = True
            server.execute("VACUUM ANALYZE")  # as a server of some age has done by itself


def _require_empty(counted: tuple[int, ...] | None) -> None:
    if counted != (0,):
        raise ValueError("The database has runs already; give an empty one.")


def _insert(source: duckdb.DuckDBPyConnection) -> None:
    source.begin()
    for table, select in TABLES.items():
        source.execute(f"INSERT INTO {table} BY NAME {select}")
    source.commit()


def _copy(source: duckdb.DuckDBPyConnection, server: psycopg.Connection, page: Path) -> None:
    for table, select in TABLES.items():
        rows = source.sql(select)
        if "hardware" in rows.columns:
            rows = rows.select("* REPLACE ('{' || array_to_string(hardware, ',') || '}' AS hardware)")
        rows.write_csv(str(page), header=False, na_rep=NULL)
        statement = f"COPY {table} ({', '.join(rows.columns)}) FROM STDIN (FORMAT csv, NULL '{NULL}')"
        with page.open("rb") as stream, server.cursor().copy(statement) as copy:
            while piece := stream.read(PIECE):
                copy.write(piece)
    server.commit()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", type=datetime.fromisoformat, help="the day after the last; default: today")
    options = parser.parse_args()
    start = time.perf_counter()

    def report(done: int) -> None:
        print(f"{done} runs in {time.perf_counter() - start:.1f} s", flush=True)

    migrate(options.url)
    fill(**vars(options), report=report)


if __name__ == "__main__":
    main()
