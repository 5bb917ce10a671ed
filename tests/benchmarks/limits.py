"""The limit: the same work done straight on the engine, in this process, without a server or an ORM."""

from __future__ import annotations

import os
import random
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from app.models import new_id
from tests.benchmarks import payloads, queries
from tests.benchmarks.contest import Contestant, Operation


class Limit(Contestant):
    """One connection to the engine; every operation ends with its commit."""

    name = "limit"
    alone = True

    def __init__(self, engine_pids: Sequence[int]) -> None:
        self.pids = [os.getpid(), *engine_pids]
        self._chance = random.Random(1)

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = (), *, beside: bool = False) -> list[Any]:
        """The rows; parameters are marked with `?`. `beside` takes the connection of the reads."""

    @abstractmethod
    def transaction(self, *work: Operation) -> None:
        """Does the work in one transaction."""

    @abstractmethod
    def insertion(self, table: str, rows: Sequence[payloads.Row]) -> Operation:
        """Prepares the engine's fastest way to insert the rows."""

    @abstractmethod
    def do_export(self, count: int) -> list[Operation]:
        """All tables as JSON, as the engine itself writes it."""

    def do_metrics_json_1000(self, count: int) -> list[Operation]:
        return self._metrics(count, 1000)

    def do_metrics_json_10000(self, count: int) -> list[Operation]:
        return self._metrics(count, 10_000)

    do_metrics_arrow_10000 = do_metrics_json_10000

    def do_ingest(self, count: int) -> list[Operation]:
        return [self._storing([payloads.run(steps=10, metrics=10) for _ in range(500)]) for _ in range(count)]

    do_ingest_8_clients = do_ingest

    def do_create_run(self, count: int) -> list[Operation]:
        return [
            partial(
                self.transaction,
                self._inserting("test_runs", payloads.run_row(document)),
                *(
                    self._inserting("test_run_tags", row)
                    for row in payloads.rows([document])["test_run_tags"]
                ),
            )
            for document in (payloads.run(steps=0, metrics=0) for _ in range(count))
        ]

    def do_log_metric(self, count: int) -> list[Operation]:
        rows = payloads.metric_rows(self._run(), payloads.points(count))
        return [self._inserting("test_run_metrics", row) for row in rows]

    def do_finish_run(self, count: int) -> list[Operation]:
        documents = [payloads.run(steps=0, metrics=0) for _ in range(count)]
        created = payloads.rows(documents)
        self.insertion("test_runs", created["test_runs"])()
        end = "UPDATE test_runs SET status = 'completed', progress = 1.0, current_step = 'Completed',"
        end += " completed_at = ?, duration = 20.0 WHERE run_id = ?"
        return [
            partial(
                self.transaction,
                partial(self.execute, end, [payloads.NAIVE, row["run_id"]]),
                self._inserting("test_run_results", row),
                self._inserting("test_run_steps", {**_LAST_STEP, "run_id": row["run_id"]}),
            )
            for row in created["test_run_results"]
        ]

    def do_run_detail(self, count: int) -> list[Operation]:
        return [partial(self._detail, self._chance.choice(self._detailed)) for _ in range(count)]

    def do_list(self, count: int) -> list[Operation]:
        return [partial(self._page, "")] * count

    def do_list_filtered(self, count: int) -> list[Operation]:
        return [partial(self._page, queries.FILTERED)] * count

    def do_search(self, count: int) -> list[Operation]:
        return [partial(self._page, queries.FOUND)] * count

    def do_delete_run(self, count: int) -> list[Operation]:
        documents = [payloads.run(steps=10, metrics=20) for _ in range(count)]
        self._storing(documents)()
        return [self._deleting("= ?", document["run_id"]) for document in documents]

    def do_delete_batch(self, count: int) -> list[Operation]:
        batches = [new_id() for _ in range(count)]
        for batch_id in batches:
            self._storing([payloads.run(steps=5, metrics=20) for _ in range(1000)], batch_id)()
        return [partial(self._delete_batch, batch_id) for batch_id in batches]

    def do_stats_models(self, count: int) -> list[Operation]:
        return [partial(self.execute, queries.MODEL_STATS)] * count

    def do_stats_hardware(self, count: int) -> list[Operation]:
        return [partial(self.execute, queries.HARDWARE_STATS)] * count

    def do_performance(self, count: int) -> list[Operation]:
        return [self._performance] * count

    def read(self) -> None:
        self._detail(self._detailed[0], beside=True)

    def _metrics(self, count: int, size: int) -> list[Operation]:
        run_id = self._run()
        return [
            self.insertion("test_run_metrics", payloads.metric_rows(run_id, payloads.points(size)))
            for _ in range(count)
        ]

    def _run(self) -> str:
        document = payloads.run(steps=0, metrics=0)
        self.insertion("test_runs", [payloads.run_row(document)])()
        return str(document["run_id"])

    def _storing(self, documents: Sequence[payloads.Row], batch_id: str | None = None) -> Operation:
        rows = payloads.rows(documents, batch_id)
        return partial(self.transaction, *(self.insertion(table, found) for table, found in rows.items()))

    def _inserting(self, table: str, row: payloads.Row) -> Operation:
        marks = ", ".join("?" * len(row))
        return partial(
            self.execute, f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values())
        )

    def _deleting(self, condition: str, value: Any) -> Operation:
        tables = (*queries.CHILDREN, "test_runs")
        return partial(
            self.transaction,
            *(
                partial(self.execute, f"DELETE FROM {table} WHERE run_id {condition}", [value])
                for table in tables
            ),
        )

    def _delete_batch(self, batch_id: str) -> None:
        found = self.execute("SELECT run_id FROM test_run_batch WHERE batch_id = ?", [batch_id])
        ids = [run_id for (run_id,) in found]
        self._deleting(self.any_of, ids)()
        self.execute("DELETE FROM batch_test_runs WHERE batch_id = ?", [batch_id])

    any_of: str
    """The condition that a text is one of a list of texts, the parameter."""

    def _detail(self, run_id: str, *, beside: bool = False) -> None:
        for statement in queries.OF_RUN:
            self.execute(statement, [run_id], beside=beside)

    def _page(self, where: str) -> None:
        ids = [row[0] for row in self.execute(queries.PAGE.format(where=where))]
        marks = ", ".join("?" * len(ids))
        for statement in queries.OF_PAGE if ids else ():
            self.execute(statement.format(ids=marks), ids)

    def _performance(self) -> None:
        for statement in queries.PERFORMANCE:
            self.execute(statement)
        self._page("")

    @cached_property
    def _detailed(self) -> list[str]:
        documents = [payloads.run(steps=10, metrics=20) for _ in range(50)]
        self._storing(documents)()
        return [document["run_id"] for document in documents]


_LAST_STEP = {"step_name": "Completed", "status": "completed", "progress": 1.0, "started_at": payloads.NAIVE}


class DuckDBLimit(Limit):
    any_of = "IN (SELECT unnest(?::VARCHAR[]))"

    def __init__(self, file: Path) -> None:
        super().__init__([])
        self._connection = duckdb.connect(file)
        self._reads = self._connection.cursor()
        self._folder = file.parent

    def execute(self, statement: str, values: Sequence[Any] = (), *, beside: bool = False) -> list[Any]:
        return (self._reads if beside else self._connection).execute(statement, values).fetchall()

    def transaction(self, *work: Operation) -> None:
        self._connection.begin()
        for operation in work:
            operation()
        self._connection.commit()

    def insertion(self, table: str, rows: Sequence[payloads.Row]) -> Operation:
        return partial(self._insert, table, payloads.as_table(rows))

    def _insert(self, table: str, rows: object) -> None:
        self._connection.register("given", rows)
        self._connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM given")
        self._connection.unregister("given")

    def do_export(self, count: int) -> list[Operation]:
        return [self._export] * count

    def _export(self) -> None:
        for table in queries.TABLES:
            self._connection.execute(f"COPY {table} TO '{self._folder / table}.json' (FORMAT json)")

    def close(self) -> None:
        self._connection.close()


class PostgreSQLLimit(Limit):
    any_of = "= ANY(?)"

    def __init__(self, url: str, engine_pids: Sequence[int], folder: Path) -> None:
        super().__init__(engine_pids)
        self._connection = psycopg.connect(url, autocommit=True, options="-c timezone=utc")
        self._reads = psycopg.connect(url, autocommit=True, options="-c timezone=utc")
        self._folder = folder

    def execute(self, statement: str, values: Sequence[Any] = (), *, beside: bool = False) -> list[Any]:
        connection = self._reads if beside else self._connection
        cursor = connection.execute(statement.replace("?", "%s"), values or None)
        return cursor.fetchall() if cursor.description else []

    def transaction(self, *work: Operation) -> None:
        with self._connection.transaction():
            for operation in work:
                operation()

    def insertion(self, table: str, rows: Sequence[payloads.Row]) -> Operation:
        columns = ", ".join(rows[0])
        statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT csv, NULL '{payloads.NULL}')"
        return partial(self._copy, statement, payloads.as_csv(rows))

    def _copy(self, statement: str, content: bytes) -> None:
        with self._connection.cursor().copy(statement) as copy:
            copy.write(content)

    def do_export(self, count: int) -> list[Operation]:
        return [self._export] * count

    def _export(self) -> None:
        for table in queries.TABLES:
            statement = f"COPY (SELECT row_to_json({table}) FROM {table}) TO STDOUT"
            path = self._folder / f"{table}.json"
            with path.open("wb") as file, self._connection.cursor().copy(statement) as copy:
                for piece in copy:
                    file.write(piece)

    def close(self) -> None:
        self._connection.close()
        self._reads.close()
