"""Rows for tests: awkward on purpose, and the same every time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.orm import DeclarativeBase

from app.models import (
    Base,
    BatchTestRun,
    TestRun,
    TestRunArtifact,
    TestRunBatch,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
)

MODELS: list[type[DeclarativeBase]] = [
    TestRun,
    BatchTestRun,
    TestRunResult,
    TestRunStep,
    TestRunMetric,
    TestRunTag,
    TestRunBatch,
    TestRunArtifact,
]
"""Parents first."""

TEXTS = [
    "plain",
    "",
    " leading and trailing ",
    'it\'s "quoted" `here`',
    "tab\tnewline\nreturn\rend",
    "back\\slash \\N \\t \\\\",
    "{a,b} [c] (d) NULL null",
    "naïve Straße ΑΣ 漢字 e\u0301",
    "🚀👩‍👩‍👧 \u202eright to left",
    "100% _x_ $1 :name ?",
    "'; DROP TABLE test_runs; --",
]
"""What drivers, COPY and JSON could trip over."""

FLOATS = [0.0, 1.5, -2.25, 1e-300, 1.7976931348623157e308, math.nan, math.inf, -math.inf, 0.1]
ARRAYS: list[list[str]] = [["cpu"], [], ["cpu", "cuda"], ["a,b", 'q"uote', "it's", "{}", "NULL", "", "\\"]]
DOCUMENTS: list[dict[str, Any]] = [
    {},
    {"big": 2**70, "small": -(2**63), "float": 0.1, "none": None, "yes": True},
    {"nested": [{"text": value} for value in TEXTS]},
    {"": {"a'b": 'c"d', "\\": "\n"}},
]
TIMES = [
    datetime(2026, 3, 1, 12, 30, 15, 123456, UTC),
    datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(1969, 12, 31, 23, 59, 59, 999999),
    datetime(2199, 1, 1, tzinfo=timezone(-timedelta(hours=8))),
]
"""With and without a zone: what is stored is always UTC."""


FAMILIES = 50
"""So many runs share the rows of the child tables; each result has a run of its own."""


def text_of(n: int) -> str:
    return TEXTS[n % len(TEXTS)]


def time_of(n: int) -> datetime:
    return TIMES[n % len(TIMES)] + timedelta(seconds=n)


def sometimes(n: int, value: Any) -> Any:
    return None if n % 3 == 0 else value


def key(kind: str, n: int) -> str:
    return f"{kind}-{n}-{text_of(n)}"


def row(model: type[DeclarativeBase], n: int, variant: int = 0) -> dict[str, Any]:
    """The n-th row of a table, with every column; a variant has the same key and other values."""
    v = n + variant
    own = model in (TestRun, TestRunResult)
    run_id = {"run_id": key("run", n if own else n % FAMILIES)}
    if model is TestRun:
        return run_id | {
            "model_name": text_of(v),
            "hardware": ARRAYS[v % len(ARRAYS)],
            "test_type": text_of(v + 1),
            "timeout": sometimes(v, 300.0),
            "save_results": v % 2 == 0,
            "status": "running",
            "progress": FLOATS[v % len(FLOATS)],
            "current_step": sometimes(v + 1, text_of(v + 2)),
            "started_at": time_of(v),
            "completed_at": sometimes(v + 2, time_of(v + 1)),
            "duration": sometimes(v, 0.1 * v),
            "error": sometimes(v + 1, text_of(v + 3)),
            "result_file": sometimes(v + 2, text_of(v + 4)),
            "creator": sometimes(v, text_of(v + 5)),
            "created_at": time_of(v + 2),
        }
    if model is BatchTestRun:
        return {
            "batch_id": key("batch", n),
            "description": sometimes(v, text_of(v)),
            "run_count": v,
            "started_at": time_of(v),
            "completed_at": sometimes(v, time_of(v)),
            "duration": sometimes(v + 1, FLOATS[v % len(FLOATS)]),
            "status": text_of(v),
            "creator": sometimes(v + 2, text_of(v)),
            "created_at": time_of(v),
        }
    if model is TestRunResult:
        return run_id | {
            "tests_passed": v,
            "tests_failed": 2**31 - 1,
            "tests_skipped": 0,
            "result_data": DOCUMENTS[v % len(DOCUMENTS)],
        }
    if model is TestRunStep:
        return run_id | {
            "step_name": key("step", n),
            "status": text_of(v),
            "progress": FLOATS[v % len(FLOATS)],
            "started_at": time_of(v),
            "completed_at": sometimes(v, time_of(v)),
            "duration": sometimes(v + 1, FLOATS[v % len(FLOATS)]),
            "error": sometimes(v + 2, text_of(v)),
        }
    if model is TestRunMetric:
        return run_id | {
            "id": 2**62 + n,
            "metric_name": text_of(v),
            "metric_value": FLOATS[v % len(FLOATS)],
            "metric_unit": text_of(v + 1),
            "timestamp": time_of(v),
        }
    if model is TestRunTag:
        return run_id | {"tag_name": key("tag", n), "tag_value": text_of(v)}
    if model is TestRunBatch:
        return run_id | {"batch_id": key("batch", n // FAMILIES)}
    assert model is TestRunArtifact
    return run_id | {
        "artifact_path": key("path", n),
        "artifact_type": text_of(v),
        "description": sometimes(v, text_of(v)),
        "created_at": time_of(v),
    }


def rows(model: type[DeclarativeBase], numbers: Iterable[int], variant: int = 0) -> list[dict[str, Any]]:
    return [row(model, n, variant) for n in numbers]


def comparable(value: Any) -> Any:
    """The value in a form in which equal means equal: NaN too, and every time in UTC."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items()}
    return value


def fill(connection: Connection, count: int = 12) -> None:
    """`count` rows in each of the eight tables, in the connection's transaction."""
    for model in MODELS:
        connection.execute(model.__table__.insert(), rows(model, range(count)))  # type: ignore[attr-defined]


def contents(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of the eight tables, with the columns that the database has, in the order of their keys."""
    return {
        table.name: [
            comparable(dict(found))
            for found in connection.execute(
                text(f"SELECT * FROM {table.name} ORDER BY {', '.join(c.name for c in table.primary_key)}")
            ).mappings()
        ]
        for table in Base.metadata.sorted_tables
    }


def schema(connection: Connection) -> dict[str, Any]:
    """All that the engine knows about its tables, without the order of columns."""
    inspector = inspect(connection)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(name)
            },
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
            "foreign keys": sorted(
                (key["constrained_columns"], key["referred_table"], key["options"])
                for key in inspector.get_foreign_keys(name)
            ),
            "unique": sorted(unique["column_names"] for unique in inspector.get_unique_constraints(name)),
            "indexes": {
                index["name"]: (index["unique"], index["column_names"])
                for index in inspector.get_indexes(name)
            },
        }
        for name in inspector.get_table_names()
    }
