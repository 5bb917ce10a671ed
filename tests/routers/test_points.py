"""Metrics and runs as an Arrow stream: what JSON says, in columns."""

from __future__ import annotations

import gzip
import io
import json
import sys
from array import array
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import nanoarrow
import nanoarrow.ipc
import pyarrow
import pytest
from starlette.testclient import TestClient

from app.schemas.common import MAX_ITEMS
from tests.marks import ON_DUCKDB
from tests.routers.helpers import B, ok, problem

ARROW = "application/vnd.apache.arrow.stream"
MICROSECONDS = 1_769_860_800_000_000  # 2026-01-31T12:00:00Z

Column = tuple[Any, Sequence[Any]]


def stream(*batches: dict[str, Column]) -> bytes:
    """The batches, columns by name with their type, as an Arrow IPC stream."""
    arrays = []
    for batch in batches:
        children = {name: _array(type_, values) for name, (type_, values) in batch.items()}
        schema = nanoarrow.struct({name: child.schema for name, child in children.items()})
        length = len(next(iter(batch.values()))[1])
        arrays.append(
            nanoarrow.c_array_from_buffers(schema, length, [None], children=list(children.values()))
        )
    written = io.BytesIO()
    with nanoarrow.ipc.StreamWriter.from_writable(written) as writer:
        writer.write_stream(nanoarrow.Array.from_chunks(arrays))
    return written.getvalue()


def _array(type_: Any, values: Sequence[Any]) -> Any:
    if nanoarrow.Schema(type_).type != nanoarrow.Type.TIMESTAMP:
        return nanoarrow.c_array(values, type_)
    valid = sum(1 << place for place, value in enumerate(values) if value is not None)
    bits = valid.to_bytes(len(values) // 8 + 1, "little")
    numbers = array("q", [value or 0 for value in values])
    return nanoarrow.c_array_from_buffers(type_, len(values), [bits, numbers])


def columns(**more: Column) -> dict[str, Column]:
    return {
        "metric_name": (nanoarrow.string(), ["loss", "loss", "accuracy"]),
        "value": (nanoarrow.float64(), [0.5, 0.25, 0.9]),
        **more,
    }


@pytest.fixture
def run(api: TestClient) -> str:
    return str(ok(api.post(f"{B}/runs", json={"model_name": "m", "run_id": "r"}), 201)["run_id"])


def send(api: TestClient, run: str, body: bytes) -> Any:
    return api.post(f"{B}/run/{run}/metrics", content=body, headers={"Content-Type": ARROW})


def series(api: TestClient, run: str) -> list[dict[str, Any]]:
    return list(ok(api.get(f"{B}/run/{run}/metrics?limit=10000")))


def test_a_stream_says_what_json_says(api: TestClient, run: str) -> None:
    names, values = ["loss", "größe", "loss"], [0.1, -0.0, 5e-324]
    units, times = ["", "ms", "%"], [MICROSECONDS + 1, MICROSECONDS, MICROSECONDS + 123_456]
    body = stream(
        {
            "timestamp": (nanoarrow.timestamp("us", timezone="UTC"), times),
            "unit": (nanoarrow.string(), units),
            "value": (nanoarrow.float64(), values),
            "metric_name": (nanoarrow.string(), names),
        }
    )
    assert ok(send(api, run, body)) == {"run_id": run, "stored": 3}
    ok(api.post(f"{B}/runs", json={"model_name": "m", "run_id": "other"}), 201)
    points = [
        {"metric_name": name, "value": value, "unit": unit, "timestamp": f"2026-01-31T12:00:00.{part}Z"}
        for name, value, unit, part in zip(names, values, units, ("000001", "000000", "123456"), strict=True)
    ]
    ok(api.post(f"{B}/run/other/metrics", json=points))
    assert series(api, run) == series(api, "other")


@pytest.mark.parametrize("count", [1, 499, 500, 3000])
def test_many_points_and_several_batches(api: TestClient, run: str, count: int) -> None:
    whole = {
        "metric_name": (nanoarrow.string(), [f"m{place % 7}" for place in range(count)]),
        "value": (nanoarrow.float64(), [place * 0.1 for place in range(count)]),
    }
    assert ok(send(api, run, stream(whole)))["stored"] == count
    assert ok(send(api, run, gzip.compress(stream(whole, columns(), whole))))["stored"] == 2 * count + 3
    values = [point["value"] for point in series(api, run)]
    assert values == [*whole["value"][1], *whole["value"][1], 0.5, 0.25, 0.9, *whole["value"][1]]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1e-6), ("ms", 1e-3), ("us", 1), ("ns", 1000)])
def test_times_of_every_unit_and_none(api: TestClient, run: str, unit: str, factor: float) -> None:
    times = (nanoarrow.timestamp(unit), [round(MICROSECONDS * factor), None, 0])
    ok(send(api, run, stream(columns(timestamp=times))))
    told = [point["timestamp"] for point in series(api, run)]
    assert told[0] == "2026-01-31T12:00:00Z"
    assert told[1] > "2026"
    assert told[2] == "1970-01-01T00:00:00Z"


def test_values_that_are_not_finite_and_units_that_are_missing(api: TestClient, run: str) -> None:
    found = {
        "metric_name": (nanoarrow.string(), ["a", "b", "c"]),
        "value": (nanoarrow.float64(), [float("nan"), float("inf"), float("-inf")]),
        "unit": (nanoarrow.string(), [None, "ms", None]),
    }
    ok(send(api, run, stream(found)))
    assert [(point["value"], point["unit"]) for point in series(api, run)] == [
        ("NaN", ""), ("Infinity", "ms"), ("-Infinity", ""),
    ]  # fmt: skip


def test_runs_are_rows_of_a_stream(api: TestClient) -> None:
    runs = [
        {
            "run_id": "a", "model_name": "bert", "hardware": ["cpu", "cuda"], "status": "completed",
            "started_at": datetime(2026, 1, 31, 12), "duration": 2.5, "tags": {"branch": "main"},
            "steps": [{"step_name": "test_load", "status": "passed", "duration": 0.5}],
            "metrics": [{"metric_name": "loss", "value": 0.5}, {"metric_name": "loss", "value": 0.25}],
        },
        {"run_id": "b", "model_name": "größe"},
    ]  # fmt: skip
    types = pyarrow.schema(
        [
            ("run_id", pyarrow.string()),
            ("model_name", pyarrow.string()),
            ("hardware", pyarrow.list_(pyarrow.string())),
            ("status", pyarrow.string()),
            ("started_at", pyarrow.timestamp("ms")),
            ("duration", pyarrow.float64()),
            ("tags", pyarrow.map_(pyarrow.string(), pyarrow.string())),
            (
                "steps",
                pyarrow.list_(
                    pyarrow.struct({"step_name": "string", "status": "string", "duration": "double"})
                ),
            ),
            ("metrics", pyarrow.list_(pyarrow.struct({"metric_name": "string", "value": "double"}))),
        ]
    )
    send = partial(api.post, f"{B}/ingest", headers={"Content-Type": ARROW})
    stored = ok(send(content=_written(pyarrow.Table.from_pylist(runs, types))))
    assert stored == {"runs": 2, "steps": 1, "metrics": 2, "tags": 1, "artifacts": 0}
    arrived = [ok(api.get(f"{B}/run/{run_id}")) for run_id in "ab"]
    runs[0]["started_at"] = "2026-01-31T12:00:00Z"
    ok(api.post(f"{B}/ingest", json=runs))
    given = [ok(api.get(f"{B}/run/{run_id}")) for run_id in "ab"]
    assert arrived[0] == given[0]
    assert {**arrived[1], "started_at": None} == {**given[1], "started_at": None}
    wrong = pyarrow.table({"model_name": ["m", "m"], "progress": [0.5, 2.0]})
    problem(send(content=_written(wrong)), 422, "[1].progress")
    problem(send(content=b"nothing"), 422, "body")


def _structures(**fields: str) -> Any:
    return pyarrow.list_(pyarrow.struct(fields))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("path", ["ingest", "run/r/metrics"])
def test_compressed_columns_are_refused(api: TestClient, path: str, compression: str) -> None:
    names = pyarrow.array(["m"] * 100)
    table = pyarrow.table({"model_name": names.dictionary_encode(), "metric_name": names})
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    send = partial(api.post, f"{B}/{path}", headers={"Content-Type": ARROW})
    for sent in (table, table.select([1])):
        told = problem(send(content=_written(sent, options)), 422, "body")["detail"]
        assert "compressed columns" in told


def test_more_rows_than_a_request_may_hold(api: TestClient) -> None:
    table = pyarrow.table({"model_name": ["m"] * (MAX_ITEMS + 1)})
    answer = api.post(f"{B}/ingest", content=_written(table), headers={"Content-Type": ARROW})
    assert f"at most {MAX_ITEMS} runs" in problem(answer, 422, "body")["detail"]


def _written(table: Any, options: Any = None) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


REFUSED: list[tuple[dict[str, Column], str]] = [
    ({"value": (nanoarrow.float64(), [1.0])}, "metric_name"),
    ({"metric_name": (nanoarrow.string(), ["a"])}, "value"),
    (columns(step=(nanoarrow.int64(), [1, 2, 3])), "step"),
    (columns(value=(nanoarrow.string(), ["1", "2", "3"])), "value"),
    (columns(value=(nanoarrow.float64(), [1.0, None, 2.0])), "value"),
    (columns(metric_name=(nanoarrow.string(), ["a", None, "b"])), "metric_name"),
    (columns(metric_name=(nanoarrow.string(), ["a", "", "b"])), "metric_name"),
    (columns(metric_name=(nanoarrow.string(), ["a", "n\0l", "b"])), "metric_name"),
    (columns(metric_name=(nanoarrow.string(), ["a", "n" * 1001, "b"])), "metric_name"),
    (columns(metric_name=(nanoarrow.int64(), [1, 2, 3])), "metric_name"),
    (columns(unit=(nanoarrow.string(), ["a", "n\0l", "b"])), "unit"),
    (columns(timestamp=(nanoarrow.string(), ["2026-01-31"] * 3)), "timestamp"),
    (columns(timestamp=(nanoarrow.timestamp("s"), [0, 10**12, 0])), "timestamp"),
    ({"metric_name": (nanoarrow.string(), []), "value": (nanoarrow.float64(), [])}, "body"),
]


def test_what_is_refused_stores_nothing(api: TestClient, run: str) -> None:
    for wrong, field in REFUSED:
        problem(send(api, run, stream(wrong)), 422, field)
    good = stream(columns())
    for body in (b"", b"[]", json.dumps([{"metric_name": "a", "value": 1}]).encode(), good[:100], good[8:]):
        problem(send(api, run, body), 422, "body")
    problem(send(api, "nobody", good), 404)
    assert series(api, run) == []


def test_no_flipped_byte_is_a_fault(api: TestClient, run: str) -> None:
    good = stream(columns(unit=(nanoarrow.string(), ["ms", "ß", "%"])))
    for place in range(0, len(good), 3):
        body = good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
        assert send(api, run, body).status_code in (200, 422)


@ON_DUCKDB
def test_a_server_without_a_reader_of_arrow_says_what_to_do(
    api: TestClient, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    told = problem(send(api, run, stream(columns())), 422, "body")["detail"]
    assert "test-suite-db[arrow]" in told
