"""MLflow's tracking server as a contestant: for what both can do, through its REST API."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from tests.benchmarks.client import Client
from tests.benchmarks.contest import Contestant, Load, Operation
from tests.server import free_port

API = "/api/2.0/mlflow"
AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""
START = 180
RUNS_OF_INGEST, RUNS_OF_BATCH = 10, 20
"""So many runs stand for the 500 of an ingest, and the 1000 of a batch: each needs requests of its own."""

Pages = Iterator[list[tuple[Any, ...]]]

TABLES = {
    "runs": """
        SELECT replace(run_id, '-', '') AS run_uuid, 'run-' || rowid AS name, 'UNKNOWN' AS source_type,
            '' AS source_name, '' AS entry_point_name, creator AS user_id,
            CASE status WHEN 'completed' THEN 'FINISHED' WHEN 'cancelled' THEN 'KILLED' ELSE 'FAILED' END
                AS status,
            epoch_ms(started_at) AS start_time, epoch_ms(completed_at) AS end_time, '' AS source_version,
            'active' AS lifecycle_stage, 'mlflow-artifacts:/1/' || run_id AS artifact_uri,
            {experiment} AS experiment_id
        FROM test_runs""",
    "metrics": """
        SELECT metric_name AS key, metric_value AS value, epoch_ms(timestamp) AS timestamp,
            replace(run_id, '-', '') AS run_uuid, id % 100 AS step, false AS is_nan
        FROM test_run_metrics""",
    "latest_metrics": """
        SELECT metric_name AS key, arg_max(metric_value, id) AS value,
            epoch_ms(max(timestamp)) AS timestamp, max(id) % 100 AS step, false AS is_nan,
            replace(run_id, '-', '') AS run_uuid
        FROM test_run_metrics GROUP BY run_id, metric_name""",
    "tags": """
        SELECT tag_name AS key, tag_value AS value, replace(run_id, '-', '') AS run_uuid FROM test_run_tags
        UNION ALL SELECT 'model', model_name, replace(run_id, '-', '') FROM test_runs""",
}


class MLflow(Contestant):
    """A running server with an experiment of its own."""

    name = "MLflow"

    def __init__(self, client: Client, pids: Sequence[int], experiment: str) -> None:
        self.client = client
        self.pids = pids
        self._experiment = experiment
        self._chance = random.Random(1)

    def do_metrics_json_1000(self, count: int) -> list[Operation]:
        run_id = self._create()
        return [self._batch(run_id, first) for first in range(count)]

    def do_metrics_json_10000(self, count: int) -> Load:
        run_id = self._create()
        return Load([self._batch(run_id, first) for first in range(10 * count)], count)

    do_metrics_arrow_10000 = do_metrics_json_10000

    def do_ingest(self, count: int) -> Load:
        runs = RUNS_OF_INGEST * count
        return Load([self._whole_run] * runs, runs / 500)

    do_ingest_8_clients = do_ingest

    def do_create_run(self, count: int) -> list[Operation]:
        return [self._create] * count

    def do_log_metric(self, count: int) -> list[Operation]:
        run_id = self._create()
        bodies = [_json(run_id=run_id, **_metric(number)) for number in range(count)]
        return [partial(self._post, "runs/log-metric", body) for body in bodies]

    def do_finish_run(self, count: int) -> list[Operation]:
        return [partial(self._finish, self._create()) for _ in range(count)]

    def do_run_detail(self, count: int) -> list[Operation]:
        paths = [f"{API}/runs/get?run_id={self._chance.choice(self._detailed)}" for _ in range(count)]
        return [partial(self.client.send, "GET", path) for path in paths]

    def do_list(self, count: int) -> list[Operation]:
        return self._search(count)

    def do_list_filtered(self, count: int) -> list[Operation]:
        return self._search(
            count, "attributes.status = 'FINISHED' and tags.model = 'model-0' and tags.branch = 'main'"
        )

    def do_delete_run(self, count: int) -> list[Operation]:
        return [partial(self._delete, self._create()) for _ in range(count)]

    def do_delete_batch(self, count: int) -> Load:
        runs = RUNS_OF_BATCH * count
        return Load([partial(self._delete, self._create()) for _ in range(runs)], runs / 1000)

    def read(self) -> None:
        """One small read, beside other work."""
        self.client.send("GET", f"{API}/runs/get?run_id={self._detailed[0]}")

    def _post(self, path: str, body: bytes) -> bytes:
        return self.client.send("POST", f"{API}/{path}", body)

    def _create(self) -> str:
        body = _json(
            experiment_id=self._experiment,
            start_time=time.time_ns() // 1_000_000,
            tags=[{"key": "model", "value": "model-0"}, {"key": "branch", "value": "main"}],
        )
        return str(json.loads(self._post("runs/create", body))["run"]["info"]["run_id"])

    def _batch(self, run_id: str, first: int, count: int = AT_ONCE) -> Operation:
        metrics = [_metric(number) for number in range(first * AT_ONCE, first * AT_ONCE + count)]
        return partial(self._post, "runs/log-batch", _json(run_id=run_id, metrics=metrics))

    def _whole_run(self) -> None:
        run_id = self._create()
        params = [{"key": f"test_{number}", "value": "passed"} for number in range(10)]
        metrics = [_metric(number) for number in range(10)]
        self._post("runs/log-batch", _json(run_id=run_id, metrics=metrics, params=params))
        self._finish(run_id)

    def _finish(self, run_id: str) -> None:
        self._post(
            "runs/update", _json(run_id=run_id, status="FINISHED", end_time=time.time_ns() // 1_000_000)
        )

    def _delete(self, run_id: str) -> None:
        self._post("runs/delete", _json(run_id=run_id))

    def _search(self, count: int, condition: str = "") -> list[Operation]:
        body = _json(
            experiment_ids=[self._experiment],
            max_results=100,
            order_by=["attributes.start_time DESC"],
            filter=condition,
        )
        return [partial(self._post, "runs/search", body)] * count

    @cached_property
    def _detailed(self) -> list[str]:
        found = []
        for _ in range(20):
            found.append(self._create())
            self._batch(found[-1], 0, 20)()
        return found


def _json(**document: Any) -> bytes:
    return json.dumps(document).encode()


def _metric(number: int) -> dict[str, Any]:
    return {
        "key": f"metric_{number % 20}",
        "value": 0.1 * number,
        "timestamp": 1_700_000_000_000 + number,
        "step": number,
    }


def install(folder: Path) -> Path:
    """The command `mlflow` of a virtual environment of its own, which is made when it is not there."""
    command = folder / "bin" / "mlflow"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "mlflow", "psycopg2-binary"], check=True)
    return command


@contextmanager
def mlflow_server(
    command: Path, folder: Path, store: str, history: Path, engine_pids: Sequence[int]
) -> Iterator[MLflow]:
    """A server on the database at `store`, a URL of SQLite or PostgreSQL, with the runs of a DuckDB file.

    Its processes do the work of SQLite, and those of `engine_pids` the work of PostgreSQL.
    Its log is in `folder`.
    """
    folder.mkdir()
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    driven = store.replace("postgresql:", "postgresql+psycopg2:")
    options = ["--backend-store-uri", driven, "--artifacts-destination", folder, "--workers", "1"]
    options += ["--host", host, "--port", port]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [command, "server", *options],
            cwd=folder,
            stdout=log,
            stderr=log,
            # Its helper processes for jobs would only take CPU away from it.
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        client = Client(f"http://{address}")
        try:
            _wait(server, client, folder / "log")
            made = client.ask("POST", f"{API}/experiments/create", {"name": "benchmark"})
            experiment = made["experiment_id"]
            _fill(store, history, experiment)
            yield MLflow(client, [server.pid, *engine_pids], experiment)
        finally:
            client.close()
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server: subprocess.Popen[bytes], client: Client, log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and server.poll() is None:
        try:
            client.send("GET", "/health")
        except OSError:  # nobody listens yet
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"MLflow did not start: {log.read_text()[-2000:]}")


def _fill(store: str, history: Path, experiment: str) -> None:
    """Puts the same runs straight into its tables: its API would take hours for a large history."""
    with duckdb.connect(history, read_only=True) as source:
        for table, select in TABLES.items():
            rows = source.execute(select.format(experiment=experiment))
            columns = [column[0] for column in rows.description or ()]
            pages = iter(partial(rows.fetchmany, 10_000), [])
            if store.startswith("sqlite"):
                _fill_sqlite(store.removeprefix("sqlite:///"), table, columns, pages)
            else:
                _fill_postgresql(store, table, columns, pages)


def _fill_sqlite(file: str, table: str, columns: list[str], pages: Pages) -> None:
    connection = sqlite3.connect(file, timeout=60)
    marks = ", ".join("?" * len(columns))
    with connection:
        for page in pages:
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", page)
    connection.execute("ANALYZE")
    connection.close()


def _fill_postgresql(store: str, table: str, columns: list[str], pages: Pages) -> None:
    with psycopg.connect(store, autocommit=True) as connection:
        with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
            for page in pages:
                for row in page:
                    copy.write_row(row)
        connection.execute(f"ANALYZE {table}")
