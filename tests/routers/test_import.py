"""Imports over HTTP: what an export holds comes back whole on each engine; half a file stores nothing."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert
from starlette.testclient import TestClient

from app.models import BatchTestRun, TestRun, TestRunBatch, TestRunResult, TestRunStep
from app.schemas.common import MAX_ITEMS
from tests.marks import ON_DUCKDB
from tests.routers import history
from tests.routers.conftest import _empty
from tests.routers.helpers import B, add, ids, ok, problem, rows, run
from tests.routers.transfers import file_of, send

File = dict[str, Any]
SAMPLES = sorted((Path(__file__).parents[1] / "data" / "junit").glob("*.xml"))


def exported(client: TestClient) -> File:
    found: File = json.loads(file_of(client))
    return found


def content(file: File) -> tuple[Any, Any]:
    """What must survive: all but the time of the export."""
    return file["runs"], file["batches"]


# Round trips

text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=15
) | st.sampled_from(
    ["\\", '"', "'; --", "NULL", "\r\n\t", "{}", "\u2028\u202e", "e\u0301", "\U0001f600", " "]
)
name = text.filter(bool)
run_id = st.text("abcXYZ019._:-", min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))
number = st.floats() | st.sampled_from([1e308, 5e-324, -0.0, 2.0**53, 0.1])
told = st.sampled_from(["NaN", "Infinity", "-Infinity"])
zones = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=12)), None])
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30, 23, 59, 59, 999999), timezones=st.none()) | (
    st.sampled_from([datetime(1, 1, 2), datetime(9999, 12, 30, 23, 59, 59, 999999), datetime(1970, 1, 1)])
)
moment = st.builds(lambda time, zone: time.replace(tzinfo=zone).isoformat(), times, zones)
json_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=12,
)


def jsonable(value: float) -> float | str:
    """As the API writes a number that JSON does not know."""
    if value != value:
        return "NaN"
    return value if abs(value) != float("inf") else f"{'-' * (value < 0)}Infinity"


seconds = st.floats(min_value=0).map(jsonable)
step = st.fixed_dictionaries(
    {"step_name": name},
    optional={
        "status": st.sampled_from(["pending", "running", "passed", "failed", "skipped", "error", "timeout"]),
        "progress": st.floats(0, 1),
        "started_at": moment | st.just("2026-01-01T00:00:00Z"),
        "completed_at": moment,
        "duration": seconds,
        "error": text,
    },
)
metric = st.fixed_dictionaries(
    {"metric_name": name | st.just("loss"), "value": number.map(jsonable) | told},
    optional={"unit": text, "timestamp": moment},
)
artifact = st.fixed_dictionaries(
    {"artifact_path": name}, optional={"artifact_type": name, "description": text, "created_at": moment}
)
document = st.fixed_dictionaries(
    {"run_id": run_id, "model_name": name},
    optional={
        "hardware": st.lists(name, max_size=3),
        "test_type": name,
        "timeout": seconds,
        "save_results": st.booleans(),
        "status": st.sampled_from((*history.TERMINAL, "running", "initializing", "failed")),
        "progress": st.floats(0, 1),
        "current_step": text,
        "started_at": moment,
        "completed_at": moment,
        "duration": seconds,
        "error": text,
        "result_file": text,
        "creator": text,
        "tags": st.dictionaries(name, text, max_size=3),
        "batch_id": run_id,
        "results": st.dictionaries(
            text.filter(lambda key: not key.startswith("test")), json_value, max_size=3
        ).map(lambda result: {**result, "tests_passed": len(result)}),
        "steps": st.lists(step, max_size=4, unique_by=lambda step: step["step_name"]),
        "metrics": st.lists(metric, max_size=6),
        "artifacts": st.lists(artifact, max_size=3, unique_by=lambda artifact: artifact["artifact_path"]),
    },
)


def nested(depth: int) -> Any:
    value: Any = 2**100
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


EXTREME = {
    "run_id": "extreme",
    "model_name": "m",
    "started_at": "0001-01-01T00:00:00Z",
    "completed_at": "9999-12-31T23:59:59.999999Z",
    "results": {
        "deep": nested(99),
        "n\0l": "\0",
        "tests_failed": 2**31 - 1,
        "floats": [1e308, 5e-324, -0.0, 0.1 + 0.2],
    },
    "steps": [
        {"step_name": f"s{n}", "status": "passed", "started_at": "2026-01-01T00:00:00Z"} for n in range(400)
    ],
    "metrics": [{"metric_name": f"m{n % 3}", "value": n} for n in range(6000)],
    "batch_id": "b",
    "tags": {},
}


@pytest.fixture
def both(request: pytest.FixtureRequest) -> tuple[TestClient, TestClient]:
    """A client of each engine."""
    return request.getfixturevalue("_shared_duckdb"), request.getfixturevalue("_shared_postgresql")


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    documents=st.lists(document, min_size=1, max_size=4, unique_by=lambda document: document["run_id"]),
    batches=st.lists(run_id, max_size=3, unique=True),
)
@example(documents=[EXTREME], batches=["b2", "b1"])
def test_nothing_is_lost_between_engines(
    both: tuple[TestClient, TestClient], documents: list[dict[str, Any]], batches: list[str]
) -> None:
    duckdb, postgresql = both
    duckdb.app.state.database.write(_empty)  # type: ignore[attr-defined]
    ok(duckdb.post(f"{B}/ingest", content=json.dumps(documents)))
    for n, batch_id in enumerate(batches):
        members = [document["run_id"] for document in documents[n:]]
        body = {"batch_id": batch_id, "run_ids": members, "description": f"d{n}"}
        assert duckdb.post(f"{B}/batches", json=body).status_code in (201, 409)
    first = exported(duckdb)
    for document in documents:
        assert ok(duckdb.get(f"{B}/run/{document['run_id']}"))["results"] == (
            {"tests_passed": 0, "tests_failed": 0, "tests_skipped": 0, **document["results"]}
            if "results" in document
            else None
        )
    source = first
    for target in (postgresql, duckdb):
        target.app.state.database.write(_empty)  # type: ignore[attr-defined]
        for _ in range(2):
            answer = ok(send(target, json.dumps(source)))
            assert answer == {"format": "export", "runs": len(documents), "warnings": []}
        source = exported(target)
        assert content(source) == content(first)


def test_what_a_script_left_out_stays_left_out(both: tuple[TestClient, TestClient]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for source, target in (both, both[::-1]):
        for client in both:
            client.app.state.database.write(_empty)  # type: ignore[attr-defined]
        with source.app.state.database.engine.begin() as connection:  # type: ignore[attr-defined]
            connection.execute(
                insert(TestRun),
                [
                    {
                        "run_id": "a",
                        "model_name": "m",
                        "status": "error",
                        "duration": 5.0,
                        "completed_at": None,
                    },
                    {
                        "run_id": "b",
                        "model_name": "m",
                        "status": "error",
                        "duration": None,
                        "completed_at": start,
                    },
                ],
            )
            steps = [
                {"step_name": "no-end", "duration": 5.0, "completed_at": None},
                {"step_name": "no-duration", "duration": None, "completed_at": start},
            ]
            passed = {"run_id": "a", "status": "passed", "progress": 0.0, "started_at": start}
            connection.execute(insert(TestRunStep), [{**passed, **step} for step in steps])
            connection.execute(insert(TestRunResult), [{"run_id": "a", "tests_passed": 3}])
            connection.execute(insert(BatchTestRun), [{"batch_id": "b", "status": "completed"}])
            connection.execute(insert(TestRunBatch), [{"run_id": "a", "batch_id": "b"}])
        file = exported(source)
        assert {item["run_id"]: item["completed_at"] for item in file["runs"]}["a"] is None
        ok(send(target, json.dumps(file)))
        assert content(exported(target)) == content(file)


def small(client: TestClient) -> File:
    """A file of five runs with everything, in two batches."""
    parts = {
        "steps": [{"name": "a", "status": "passed", "duration": 1}, {"name": "b", "status": "failed"}],
        "metrics": [{"name": "x", "value": n} for n in (1, "NaN", 3)],
        "artifacts": [{"path": "p"}],
        "results": {"tests_passed": 1, "tests_failed": 1},
        "tags": {"t": "v"},
    }
    runs = [
        {
            "run_id": f"r{n}",
            "model_name": "m",
            "batch_id": f"b{n % 2}",
            "started_at": f"2026-01-0{9 - n}T00:00:00Z",
            "status": "completed",
            **parts,
        }
        for n in range(5)
    ]
    ok(client.post(f"{B}/ingest", json=runs))
    ok(client.post(f"{B}/batch/b0/runs", json={"run_ids": ["r1"]}))
    ok(client.post(f"{B}/batch/b0/complete"))
    return exported(client)


@pytest.fixture
def file(api: TestClient) -> File:
    """An export file; the database that it is of is empty again."""
    made = small(api)
    api.app.state.database.write(_empty)  # type: ignore[attr-defined]
    return made


def multipart(client: TestClient, body: bytes) -> Any:
    return client.post(f"{B}/import", files={"file": ("export.json", body, "application/json")})


FORMS: dict[str, Callable[[TestClient, File], Any]] = {
    "body": lambda client, file: send(client, json.dumps(file)),
    "indented": lambda client, file: send(client, json.dumps(file, indent=4, ensure_ascii=False)),
    "another order": lambda client, file: send(client, json.dumps(file, sort_keys=True)),
    "header last": lambda client, file: send(client, json.dumps(dict(reversed(file.items())))),
    "byte order mark": lambda client, file: send(client, codecs.BOM_UTF8 + json.dumps(file).encode()),
    "blank lines before": lambda client, file: send(client, "\n\n  " + json.dumps(file) + "\n"),
    "gzip": lambda client, file: send(client, gzip.compress(json.dumps(file).encode())),
    "form": lambda client, file: multipart(client, json.dumps(file).encode()),
    "form with gzip": lambda client, file: multipart(client, gzip.compress(json.dumps(file).encode())),
    "another type": lambda client, file: send(
        client, json.dumps(file), **{"content-type": "application/octet-stream"}
    ),
}


def test_every_form_of_a_file(api: TestClient, file: File) -> None:
    for form, imported in FORMS.items():
        api.app.state.database.write(_empty)  # type: ignore[attr-defined]
        assert ok(imported(api, file)) == {"format": "export", "runs": 5, "warnings": []}, form
        assert content(exported(api)) == content(file), form


def test_a_file_with_integers_of_any_size(api: TestClient, file: File) -> None:
    file["runs"][1]["results"] |= {"big": 2**64, "small": -(10**200)}
    file["runs"][3]["results"] |= {"big": 10**4000}
    for order in (file, dict(reversed(file.items()))):
        ok(send(api, json.dumps(order)))
        assert content(exported(api)) == content(file)


def test_parts_of_a_file(api: TestClient, file: File) -> None:
    """What an export leaves out on request, or a script does not write."""
    head = {name: file[name] for name in ("format", "version")}
    assert ok(send(api, json.dumps({**head, "batches": file["batches"]})))["runs"] == 0
    assert ok(api.get(f"{B}/batches")) == [
        {**batch, **{name: 0 for name in batch if name.startswith(("actual", "total")) or "d_runs" in name}}
        for batch in file["batches"]
    ]
    without = [{**item, "batch_id": None, "batch_ids": []} for item in file["runs"]]
    ok(send(api, json.dumps({**head, "runs": without})))
    assert exported(api)["runs"] == without
    bare = [{"run_id": "bare", "model_name": "m", "metrics": {"x": {"value": 2, "unit": "u", "count": 9}}}]
    ok(send(api, json.dumps({**head, "runs": bare, "batches": [{"batch_id": "new", "run_count": 0}]})))
    assert run(api, "bare")["metrics"]["x"]["value"] == 2.0
    assert ok(send(api, json.dumps(head)))["runs"] == 0


def test_an_import_replaces_runs(api: TestClient) -> None:
    file = small(api)
    ok(api.post(f"{B}/run/r0/metrics", json=[{"name": "later", "value": 1}]))
    ok(api.post(f"{B}/run/r0/steps", json=[{"name": "later"}]))
    ok(api.put(f"{B}/run/r0/tags", json={"later": "x", "t": "changed"}))
    ok(api.delete(f"{B}/run/r1"))
    ok(api.post(f"{B}/batches", json={"batch_id": "later", "run_ids": ["r0", "r2"]}), 201)
    add(api, "other", batch_id="later")
    other = run(api, "other")
    assert ok(send(api, json.dumps(file)))["runs"] == 5
    assert [item for item in exported(api)["runs"] if item["run_id"] != "other"] == file["runs"]
    found = {item["batch_id"]: item for item in ok(api.get(f"{B}/batches"))}
    assert [found[item["batch_id"]] for item in file["batches"]] == file["batches"]
    assert (found["later"]["run_count"], found["later"]["actual_run_count"]) == (1, 1)
    assert run(api, "other") == other


@ON_DUCKDB  # the engine is not asked
def test_a_run_may_have_more_parts_than_one_request_brings(api: TestClient) -> None:
    add(api)
    file = exported(api)
    file["runs"][0]["steps"] = [{"step_name": f"s{n}"} for n in range(MAX_ITEMS + 1)]
    ok(send(api, json.dumps(file)))
    assert ok(api.get(f"{B}/runs"))[0]["step_count"] == MAX_ITEMS + 1


def test_an_import_joins_batches(api: TestClient, file: File) -> None:
    add(api, "here", batch_id="b0")
    for _ in range(2):
        ok(send(api, json.dumps(file)))
        found = {item["batch_id"]: item for item in ok(api.get(f"{B}/batches"))}
        assert (found["b0"]["run_count"], found["b0"]["actual_run_count"]) == (5, 5)
        assert (found["b1"]["run_count"], found["b1"]["actual_run_count"]) == (2, 2)
    assert run(api, "here")["batch_ids"] == ["b0"]


def test_options_with_an_export_file(api: TestClient, file: File) -> None:
    options = "model_name=other&hardware=qnn&test_type=x&per=suite&tag=t%3Dnew&tag=extra&batch_id=b1"
    answer = ok(send(api, json.dumps(file), options))
    assert (answer["format"], answer["runs"]) == ("export", 5)
    for option in ("model_name", "hardware", "test_type", "per"):
        assert sum(option in warning for warning in answer["warnings"]) == 1
    after = exported(api)
    for new, old in zip(after["runs"], file["runs"], strict=True):
        assert new["tags"] == {"t": "new", "extra": ""}
        assert set(new["batch_ids"]) == {*old["batch_ids"], "b1"}
        assert {key: new[key] for key in ("model_name", "hardware", "test_type")} == {
            key: old[key] for key in ("model_name", "hardware", "test_type")
        }
    (batch,) = [item for item in after["batches"] if item["batch_id"] == "b1"]
    assert (batch["run_count"], batch["actual_run_count"]) == (5, 5)


def change(file: File, *path: Any, to: Any) -> File:
    inner: Any = file
    for part in path[:-1]:
        inner = inner[part]
    if to is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return file


WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("runs", 3, "steps", 0, "status"), "okay", "runs[3].steps[0].status"),
    (("runs", 0, "status"), "done", "runs[0].status"),
    (("runs", 4, "metric_series", 2, "value"), "3", "runs[4].metric_series[2].value"),
    (("runs", 4, "metric_series"), 5, "runs[4].metric_series"),
    (("runs", 1, "steps", 1, "step_name"), KeyError, "runs[1].steps[1].step_name"),
    (("runs", 1, "steps", 1, "step_name"), "a", "runs[1].steps"),
    (("runs", 2, "artifacts", 0, "size"), 5, "runs[2].artifacts[0].size"),
    (("runs", 2, "nope"), 1, "runs[2].nope"),
    (("runs", 2, "started_at"), "yesterday", "runs[2].started_at"),
    (("runs", 2, "created_at"), 5, "runs[2].created_at"),
    (("runs", 2, "duration"), -1, "runs[2].duration"),
    (("runs", 2, "progress"), 1.5, "runs[2].progress"),
    (("runs", 2, "hardware"), [5], "runs[2].hardware[0]"),
    (("runs", 2, "tags"), ["x"], "runs[2].tags"),
    (("runs", 2, "results"), [1], "runs[2].results"),
    (("runs", 2, "results", "tests_passed"), -1, "runs[2].results"),
    (("runs", 2, "results", "deep"), nested(100), "runs[2].results"),
    (("runs", 2, "batch_ids", 0), "not an id", "runs[2].batch_ids[0]"),
    (("runs", 2, "run_id"), "a/b", "runs[2].run_id"),
    (("runs", 2, "model_name"), "", "runs[2].model_name"),
    (("runs", 2, "error"), "a\x00b", "runs[2].error"),
    (("runs", 4), 5, "runs[4]"),
    (("runs", 4), None, "runs[4]"),
    (("runs",), {}, "runs"),
    (("runs",), {"r": {}}, "runs"),
    (("runs",), "r", "runs"),
    (("runs",), None, "runs"),
    (("batches",), {"b": {}}, "batches"),
    (("batches",), 7, "batches"),
    (("batches", 1, "batch_id"), KeyError, "batches[1].batch_id"),
    (("batches", 1, "status"), "x", "batches[1].status"),
    (("batches", 1, "run_count"), "x", "batches[1].run_count"),
    (("format",), "junit", "format"),
    (("format",), None, "format"),
    (("format",), KeyError, "format"),
    (("version",), 2, "version"),
    (("version",), "1", "version"),
    (("version",), KeyError, "version"),
]


def test_a_wrong_file_is_told_where_and_stores_nothing(api: TestClient, file: File) -> None:
    add(api, "r0", creator="before")
    before, detail, plain = rows(api), run(api, "r0"), json.dumps(file)
    for path, value, field in WRONG:
        body = change(json.loads(plain), *path, to=value)
        for order in (body, dict(reversed(body.items()))):
            response = send(api, json.dumps(order))
            assert response.status_code == 422, (path, value)
            problem(response, 422, field)
    assert rows(api) == before
    assert run(api, "r0") == detail


def test_half_a_file_stores_nothing(api: TestClient, file: File) -> None:
    plain = json.dumps(file).encode()
    packed = gzip.compress(plain)
    cuts = [1, 10, 40, 100, *range(200, len(plain), len(plain) // 12), len(plain) - 1]
    broken = [plain[:cut] for cut in cuts]
    broken += [packed[:cut] for cut in (2, 11, len(packed) // 2, len(packed) - 1)]
    broken += [
        b"",
        b" ",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"hello",
        b"\x00" * 100,
        b"\xff\xfe",
        plain + b"x",
        plain + plain,
        plain[:-1] + b",}",
        plain.replace(b'"r1"', b'"\xff"'),
        plain.replace(b'"duration": 1.0', b'"duration": NaN'),
        plain.replace(b'"duration": 1.0', b'"duration": 1' + b"0" * 5000),
        plain.replace(b'"duration": 1.0', b'"duration": 01'),
        plain.replace(b'"tests_passed": 1', b'"tests_passed": 1' + b"0" * 5000),
        plain.replace(b'"tests_passed": 1', b'"x": ' + b"[" * 100_000),
        plain.replace(b'"tests_passed": 1', b'"x": ' + b"[" * 100_000 + b"]" * 100_000),
        packed + b"x",
        packed[:-8] + bytes(8),
    ]
    for body in broken:
        answer = problem(send(api, body), 422)
        assert all(len(error["message"]) < 300 for error in answer["errors"]), answer
        assert " b'" not in answer["detail"]
    problem(multipart(api, plain[:500]), 422)
    problem(api.post(f"{B}/import", files={}), 422)
    problem(api.post(f"{B}/import", data={"file": "not a file"}), 422)
    assert set(rows(api).values()) == {0}
    ok(send(api, plain))


# JUnit XML

CASES = {file.name: sum(1 for _ in ElementTree.parse(file).iter("testcase")) for file in SAMPLES}
OPTIONS = (
    "model_name=my-model&hardware=cpu&hardware=cuda&test_type=nightly&tag=branch%3Dmain&tag=flag"
    "&tag=eq%3Da%3Db&batch_id=ci-7"
)


def counted(runs: list[dict[str, Any]]) -> int:
    return sum(item[f"tests_{name}"] for item in runs for name in ("passed", "failed", "skipped"))


@pytest.mark.parametrize("per", ["file", "suite"])
def test_junit_files(api: TestClient, per: str) -> None:
    assert len(SAMPLES) >= 6
    for sample in SAMPLES:
        api.app.state.database.write(_empty)  # type: ignore[attr-defined]
        data = sample.read_bytes()
        answer = ok(send(api, data, f"{OPTIONS}&per={per}"))
        assert answer["format"] == "junit"
        assert all(isinstance(warning, str) for warning in answer["warnings"])
        runs = ok(api.get(f"{B}/runs?limit=1000"))
        assert len(runs) == answer["runs"] >= 1
        assert per == "suite" or answer["runs"] == 1
        assert counted(runs) == CASES[sample.name], sample.name
        for item in runs:
            assert (item["model_name"], item["hardware"]) == ("my-model", ["cpu", "cuda"])
            assert (item["test_type"], item["batch_ids"]) == ("nightly", ["ci-7"])
            assert item["tags"].items() >= {"branch": "main", "flag": "", "eq": "a=b"}.items()
            assert item["status"] in ("completed", "error")
        steps = [step for item in runs for step in run(api, item["run_id"])["steps"]]
        assert len(steps) == CASES[sample.name]
        assert {step["status"] for step in steps} <= {"passed", "failed", "skipped", "error"}
        batch = ok(api.get(f"{B}/batch/ci-7"))
        assert batch["run_count"] == batch["actual_run_count"] == len(runs)

        stored = rows(api)
        again = api.post(
            f"{B}/import?{OPTIONS}&per={per}", files={"file": (sample.name, gzip.compress(data))}
        )
        assert ok(again) == answer
        assert rows(api) == stored
        if b"timestamp=" in data:  # else it starts when it is imported
            assert ok(api.get(f"{B}/runs?limit=1000")) == runs


def test_what_an_import_was_told_finds_its_runs(api: TestClient) -> None:
    add(api, "other")
    ok(send(api, SAMPLES[0].read_bytes(), f"{OPTIONS}&per=suite"))
    runs = [item for item in ok(api.get(f"{B}/runs")) if item["run_id"] != "other"]
    for query in (
        "model_name=my-model", "hardware=cuda", "test_type=nightly", "batch_id=ci-7",
        "tag=branch=main&tag=flag&tag=eq=a=b",
    ):  # fmt: skip
        assert ids(api.get(f"{B}/runs?limit=1000&{query}")) == [item["run_id"] for item in runs]


def test_junit_files_speak_for_themselves(api: TestClient) -> None:
    for sample in SAMPLES:
        ok(send(api, sample.read_bytes(), f"tag=file%3D{sample.stem}"))
    runs = {item["tags"]["file"]: item for item in ok(api.get(f"{B}/runs"))}
    assert len(runs) == len(SAMPLES)
    pytest_run = runs["pytest"]
    assert (pytest_run["model_name"], pytest_run["hardware"]) == ("bert-base-uncased", ["cpu", "cuda"])
    assert (pytest_run["test_type"], pytest_run["creator"]) == ("nightly", "ci")
    assert pytest_run["started_at"] == "2026-03-01T10:00:00.500000Z"
    assert pytest_run["tags"]["branch"] == "main"
    assert all(item["model_name"] and item["model_name"] != "junit" for item in runs.values())
    # A file that says which model it is about does not overrule the caller.
    ok(send(api, SAMPLES[0].read_bytes(), "model_name=told"))
    assert "told" in {item["model_name"] for item in ok(api.get(f"{B}/runs"))}
    file = exported(api)
    api.app.state.database.write(_empty)  # type: ignore[attr-defined]
    ok(send(api, json.dumps(file)))
    assert content(exported(api)) == content(file)


LONG = "%E5%90%8D" * 900  # 900 characters, 2700 bytes


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("per=case", "per"),
        ("model_name=", "model_name"),
        (f"model_name={LONG}", "model_name"),
        ("hardware=", "hardware"),
        (f"hardware={'x' * 201}", "hardware"),
        ("test_type=", "test_type"),
        ("tag=%3Dvalue", "tag"),
        ("tag=", "tag"),
        (f"tag=n%3D{LONG}", "tag"),
        (f"tag={LONG}", "tag"),
        ("tag=a%00b", "tag"),
        ("batch_id=a%20b", "batch_id"),
        ("batch_id=", "batch_id"),
        ("model=m", "model"),
        ("tags=a", "tags"),
    ],
)
def test_bad_options(api: TestClient, query: str, field: str) -> None:
    for body in (SAMPLES[0].read_bytes(), b'{"format": "test-suite-db", "version": 1, "runs": []}'):
        answer = problem(send(api, body, query), 422)
        assert any(error["field"].startswith(field) for error in answer["errors"]), answer
    assert set(rows(api).values()) == {0}


@pytest.mark.parametrize("body", [b"<", b"<a/>", b"<testsuite>", b"<testsuite/><testsuite/>", b"<!-- -->"])
def test_xml_that_is_no_junit(api: TestClient, body: bytes) -> None:
    problem(send(api, body), 422)
    assert set(rows(api).values()) == {0}
