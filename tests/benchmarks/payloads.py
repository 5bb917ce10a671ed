"""What is sent: the same documents as JSON, as Arrow, and as rows of the tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.models import new_id, new_metric_ids

NAIVE = datetime(2026, 1, 1)
"""In UTC without a zone, as DuckDB stores times; PostgreSQL's sessions run in UTC."""
START = NAIVE.replace(tzinfo=UTC)
NULL = r"\N"

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""By table, parents first."""


def points(count: int) -> list[Row]:
    """`count` points of 20 series, a millisecond apart."""
    return [
        {
            "metric_name": f"metric_{number % 20}",
            "value": 0.1 * number,
            "unit": "ms",
            "timestamp": START + timedelta(milliseconds=number),
        }
        for number in range(count)
    ]


def as_json(document: Any) -> bytes:
    return json.dumps(document, default=datetime.isoformat).encode()


def as_lines(documents: Iterable[Row]) -> bytes:
    return b"\n".join(map(as_json, documents))


def as_table(items: Sequence[Row]) -> Any:
    """An Arrow table."""
    from pyarrow import Table  # which only some of the cases need

    return Table.from_pylist(list(items))


def as_arrow(items: Sequence[Row]) -> bytes:
    """A stream of one Arrow table."""
    from pyarrow import ipc

    table, sink = as_table(items), io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def as_csv(rows: Sequence[Row]) -> bytes:
    """What PostgreSQL's COPY takes with `FORMAT csv` and `NULL '\\N'`."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow(map(_cell, row.values()))
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if value is None:
        return NULL
    return f"{{{','.join(value)}}}" if isinstance(value, list) else value


def run(*, steps: int, metrics: int, batch_id: str | None = None) -> Row:
    """A completed run with as many steps and metrics, and two tags, as a client sends it."""
    return {
        "run_id": new_id(),
        "model_name": "model-0",
        "hardware": ["cuda"],
        "status": "completed",
        "started_at": START,
        "completed_at": START + timedelta(seconds=20),
        "duration": 20.0,
        "batch_id": batch_id,
        "tags": {"branch": "main", "commit": "0123456789"},
        "results": {"tests_passed": steps, "tests_failed": 0, "tests_skipped": 0},
        "steps": [
            {
                "step_name": f"test_{number}",
                "status": "passed",
                "started_at": START + timedelta(seconds=number),
                "completed_at": START + timedelta(seconds=number + 1),
                "duration": 1.0,
            }
            for number in range(steps)
        ],
        "metrics": points(metrics),
    }


def metric_rows(run_id: str, items: Sequence[Row]) -> list[Row]:
    return [
        {
            "run_id": run_id,
            "id": number,
            "metric_name": point["metric_name"],
            "metric_value": point["value"],
            "metric_unit": point["unit"],
            "timestamp": point["timestamp"].replace(tzinfo=None),
        }
        for number, point in zip(new_metric_ids(len(items)), items, strict=True)
    ]


def rows(documents: Sequence[Row], batch_id: str | None = None) -> Rows:
    """The rows that the server makes of runs, all in the batch if there is one."""
    found: Rows = {"test_runs": [run_row(document) for document in documents]}
    if batch_id:
        found["batch_test_runs"] = [
            {
                "batch_id": batch_id,
                "run_count": len(documents),
                "started_at": NAIVE,
                "status": "completed",
                "created_at": NAIVE,
            }
        ]
    found["test_run_results"] = [
        {"run_id": document["run_id"], **document["results"], "result_data": json.dumps(document["results"])}
        for document in documents
    ]
    found["test_run_steps"] = [
        {"run_id": document["run_id"], "progress": 1.0}
        | {name: _naive(value) for name, value in step.items()}
        for document in documents
        for step in document["steps"]
    ]
    found["test_run_metrics"] = [
        row for document in documents for row in metric_rows(document["run_id"], document["metrics"])
    ]
    found["test_run_tags"] = [
        {"run_id": document["run_id"], "tag_name": name, "tag_value": value}
        for document in documents
        for name, value in document["tags"].items()
    ]
    if batch_id:
        found["test_run_batch"] = [
            {"run_id": document["run_id"], "batch_id": batch_id} for document in documents
        ]
    return found


def run_row(document: Row) -> Row:
    parts = ("tags", "results", "steps", "metrics", "batch_id")
    columns = {name: _naive(value) for name, value in document.items() if name not in parts}
    return {
        "test_type": "basic",
        "save_results": True,
        "progress": 1.0,
        "created_at": NAIVE,
    } | columns


def _naive(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value
