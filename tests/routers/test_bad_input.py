"""Whatever is sent, the answer says what is wrong with it, and nothing of it is stored."""

from __future__ import annotations

import gc
import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from httpx2 import Response
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from tests.factories import contents
from tests.marks import ON_DUCKDB
from tests.routers.helpers import B, add, ok, problem, run

JSON = {"content-type": "application/json"}

Endpoint = tuple[str, str, Any]
OBJECTS: list[Endpoint] = [
    ("POST", "/runs", {"model_name": "m"}),
    ("PUT", "/run/new", {"model_name": "m"}),
    ("PATCH", "/run/r", {"progress": 0.5}),
    ("POST", "/run/r/complete", {"tests_passed": 1}),
    ("POST", "/run/r/error", {"error": "e"}),
    ("POST", "/run/r/cancel", {"error": "e"}),
    ("PUT", "/run/r/tags", {"a": "b"}),
    ("PUT", "/run/r/results", {"tests_passed": 1}),
    ("POST", "/search", {"query": "m"}),
    ("POST", "/batches", {"batch_id": "new"}),
    ("POST", "/batch/b/runs", {"run_ids": ["r"]}),
]
LISTS: list[Endpoint] = [
    ("POST", "/run/r/steps", [{"step_name": "s"}]),
    ("POST", "/run/r/metrics", [{"metric_name": "m", "value": 1}]),
    ("POST", "/run/r/artifacts", [{"artifact_path": "p"}]),
]
NEED_NO_BODY = ("/complete", "/error", "/cancel")


REFUSED_AT_ONCE = ON_DUCKDB  # the engine is not asked


def state(client: TestClient) -> dict[str, list[dict[str, Any]]]:
    with client.app.state.database.engine.connect() as connection:  # type: ignore[attr-defined]
        return contents(connection)


@pytest.fixture
def untouched(api: TestClient) -> Iterator[TestClient]:
    """A client of a database with a run in a batch, of which nothing may have changed at the end."""
    add(
        api,
        batch_id="b",
        status="running",
        tags={"a": "1"},
        metrics={"m": "NaN"},
        results={"tests_passed": 1},
    )
    before = state(api)
    yield api
    assert state(api) == before


def send(
    client: TestClient, method: str, path: str, body: bytes | str, kind: Any = "application/json"
) -> Response:
    headers = {} if kind is None else {"content-type": kind}
    return client.request(method, B + path, content=body, headers=headers)


NOT_JSON: list[bytes] = [
    b"{", b"[", b"nul", b"{'a': 1}", b'{"a": 1', b'{"a": 1,}', b"{} {}", b"[],", b'"text', b"\x00", b"{}\x00",
    b"\xff", b'"\xff"', b'{"\xff": 1}', b"\xff\xfe{\x00", b"\xef\xbb", b"undefined", b"<run/>", b"a=b",
    b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}",
]  # fmt: skip


@REFUSED_AT_ONCE
@pytest.mark.parametrize(("method", "path", "valid"), OBJECTS + LISTS, ids=lambda part: str(part)[:20])
def test_bodies_that_are_no_json(untouched: TestClient, method: str, path: str, valid: Any) -> None:
    for body in NOT_JSON:
        problem(send(untouched, method, path, body), 422, "body")
    if not path.endswith(NEED_NO_BODY):
        problem(send(untouched, method, path, b""), 422, "body")
        problem(untouched.request(method, B + path), 422, "body")
    for kind in (None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", b"\xff"):
        detail = problem(send(untouched, method, path, json.dumps(valid), kind), 422, "body")["detail"]
        assert "application/json" in detail


@REFUSED_AT_ONCE
def test_bodies_of_the_wrong_kind(untouched: TestClient) -> None:
    for method, path, _ in OBJECTS:
        for body in ("[]", '"text"', "5", "1.5", "true", '[{"model_name": "m"}]', "[[]]"):
            problem(send(untouched, method, path, body), 422, "body")
        if not path.endswith(NEED_NO_BODY):
            problem(send(untouched, method, path, "null"), 422, "body")
        if not path.endswith(("tags", "results")):
            problem(send(untouched, method, path, '{"no such field": 1}'), 422, "no such field")
    for method, path, _ in LISTS:
        for body in ("{}", '"text"', "5", "true", "null", '{"0": {"name": "a", "value": 1, "path": "a"}}'):
            problem(send(untouched, method, path, body), 422, "body")
        for body in ("[5]", '["text"]', "[null]", "[[]]", "[true]"):
            problem(send(untouched, method, path, body), 422, "[0]")
        problem(send(untouched, method, path, '[{"no such field": 1}]'), 422, "[0].no such field")


HALF = '"\\ud800"'
NUL = '"a\\u0000b"'
NO_TEXT = [HALF, NUL, '"\\udfff\\ud800"', "5", "1.5", "true", "[]", "{}", '["a"]', "1" + "0" * 400]
LONG = json.dumps("x" * 20_001)
WIDE = json.dumps("".join(chr(0x10000 + n) for n in random.Random(1).sample(range(0x10000), 1000)))

RUN = '{"model_name": "m", %s}'
TEXTS: list[tuple[str, str, str, str, list[str]]] = [
    # method, path, body, field, and what else is wrong there
    ("POST", "/runs", '{"model_name": @}', "model_name", ['""', "null", LONG, WIDE]),
    ("PUT", "/run/new", '{"model_name": @}', "model_name", ['""', "null", LONG, WIDE]),
    ("POST", "/runs", RUN % '"test_type": @', "test_type", ['""', "null", LONG]),
    ("POST", "/runs", RUN % '"hardware": [@]', "hardware[0]", ['""', "null", LONG]),
    ("POST", "/runs", RUN % '"current_step": @', "current_step", [LONG]),
    ("POST", "/runs", RUN % '"error": @', "error", []),
    ("POST", "/runs", RUN % '"result_file": @', "result_file", []),
    ("POST", "/runs", RUN % '"creator": @', "creator", []),
    ("POST", "/runs", RUN % '"run_id": @', "run_id", ['""', '"a b"', '"a\\n"', LONG]),
    ("POST", "/runs", RUN % '"batch_id": @', "batch_id", ['""', '"a/b"', '".."', LONG]),
    ("POST", "/runs", RUN % '"status": @', "status", ['""', '"done"', '"RUNNING"', "null", LONG]),
    ("POST", "/runs", RUN % '"steps": [{"step_name": @}]', "steps[0].step_name", ['""', "null", LONG, WIDE]),
    ("POST", "/runs", RUN % '"steps": [{"name": "s", "error": @}]', "steps[0].error", []),
    ("POST", "/runs", RUN % '"steps": [{"name": "s", "status": @}]', "steps[0].status", ['""', '"done"']),
    (
        "POST",
        "/runs",
        RUN % '"metrics": [{"metric_name": @, "value": 1}]',
        "metrics[0].metric_name",
        ['""', LONG],
    ),
    ("POST", "/runs", RUN % '"metrics": [{"name": "m", "value": 1, "unit": @}]', "metrics[0].unit", []),
    (
        "POST",
        "/runs",
        RUN % '"artifacts": [{"artifact_path": @}]',
        "artifacts[0].artifact_path",
        ['""', LONG],
    ),
    ("POST", "/runs", RUN % '"artifacts": [{"path": "p", "description": @}]', "artifacts[0].description", []),
    (
        "POST",
        "/runs",
        RUN % '"artifacts": [{"path": "p", "artifact_type": @}]',
        "artifacts[0].artifact_type",
        ['""', "null", LONG],
    ),
    ("PATCH", "/run/r", '{"current_step": @}', "current_step", ['""', LONG, WIDE]),
    ("PATCH", "/run/r", '{"error": @}', "error", []),
    ("PATCH", "/run/r", '{"status": @}', "status", ['""', '"passed"']),
    ("POST", "/run/r/error", '{"error": @}', "error", []),
    ("POST", "/run/r/cancel", '{"error": @}', "error", []),
    ("POST", "/run/r/complete", '{"result_file": @}', "result_file", ['""', LONG, WIDE]),
    (
        "POST",
        "/run/r/steps",
        '[{"step_name": "a"}, {"step_name": @}]',
        "[1].step_name",
        ['""', "null", LONG, WIDE],
    ),
    ("POST", "/run/r/steps", '[{"step_name": "a", "error": @}]', "[0].error", []),
    ("POST", "/run/r/metrics", '[{"metric_name": @, "value": 1}]', "[0].metric_name", ['""', "null", LONG]),
    ("POST", "/run/r/metrics", '[{"metric_name": "a", "value": 1, "unit": @}]', "[0].unit", []),
    ("POST", "/run/r/artifacts", '[{"artifact_path": @}]', "[0].artifact_path", ['""', "null", LONG, WIDE]),
    ("POST", "/run/r/artifacts", '[{"artifact_path": "a", "description": @}]', "[0].description", []),
    ("POST", "/search", '{"query": @}', "query", ['""', '" "', "null", LONG]),
    ("POST", "/search", '{"query": "m", "model_name": @}', "model_name", ['""', LONG]),
    ("POST", "/search", '{"query": "m", "hardware": @}', "hardware", ['""', LONG]),
    ("POST", "/search", '{"query": "m", "tag": [@]}', "tag[0]", ['""', "null", LONG]),
    ("POST", "/batches", '{"description": @}', "description", []),
    ("POST", "/batches", '{"creator": @}', "creator", []),
    ("POST", "/batches", '{"batch_id": @}', "batch_id", ['""', '"a b"', LONG]),
    ("POST", "/batches", '{"run_ids": [@]}', "run_ids[0]", ['""', "null", LONG]),
    ("POST", "/batch/b/runs", '{"run_ids": ["r", @]}', "run_ids[1]", ['""', "null", LONG]),
]


@REFUSED_AT_ONCE
def test_texts_that_are_none(untouched: TestClient) -> None:
    for method, path, body, field, more in TEXTS:
        for value in [*NO_TEXT, *more]:
            sent = body.replace("@", value)
            assert problem(send(untouched, method, path, sent), 422)["errors"][0]["field"] == field, sent[
                :100
            ]


KEYS: list[tuple[str, str, str, str, list[str]]] = [
    ("POST", "/runs", RUN % '"tags": {@: "v"}', "tags.", [NUL, '""', LONG, WIDE]),
    ("POST", "/runs", RUN % '"metrics": {@: 1}', "metrics[0].metric_name", [NUL, '""', LONG, WIDE]),
    (
        "POST",
        "/runs",
        RUN % '"metrics": {@: {"value": 1}}',
        "metrics[0].metric_name",
        [NUL, '""', LONG, WIDE],
    ),
    ("POST", "/runs", RUN % '"results": {"a": [{@: 1}]}', "results", []),
    ("POST", "/runs", RUN % '"results": {"test_details": [{"status": "passed", @: 1}]}', "results", []),
    ("POST", "/runs", RUN % "@: 1", "", [NUL, '""', LONG]),
    ("POST", "/runs", RUN % '"steps": [{"name": "s", @: 1}]', "steps[0]", [NUL, '""', LONG]),
    ("PUT", "/run/r/tags", '{"ok": "v", @: "v"}', "", [NUL, '""', LONG, WIDE]),
    ("PUT", "/run/r/results", '{@: "v"}', "", []),
    ("POST", "/run/r/complete", '{"results": {@: "v"}}', "results", []),
    (
        "POST",
        "/run/r/complete",
        '{"performance_metrics": {@: {"a": 1}}}',
        "performance_metrics.",
        [NUL, '""', LONG],
    ),
    (
        "POST",
        "/run/r/complete",
        '{"performance_metrics": {"cpu": {@: 1}}}',
        "performance_metrics.cpu.",
        [NUL, '""', LONG, WIDE],
    ),
    ("POST", "/search", '{"query": "m", @: 1}', "", [NUL, '""', LONG]),
]


@REFUSED_AT_ONCE
def test_keys_that_are_none(untouched: TestClient) -> None:
    for method, path, body, field, more in KEYS:
        for key in [HALF, *more]:
            sent = body.replace("@", key)
            named = problem(send(untouched, method, path, sent), 422)["errors"][0]["field"]
            assert named.startswith(field), sent[:100]


HUGE = "1" + "0" * 400
NO_NUMBER = [
    "true",
    '"5"',
    '""',
    '"nan"',
    '"inf"',
    '"+Infinity"',
    "[]",
    "{}",
    HUGE,
    "-" + HUGE,
    "1e999",
    "NaN",
]
NEGATIVE = ["-1", "-1e-9", '"-Infinity"', "-1e999"]
NUMBERS: list[tuple[str, str, str, str, list[str]]] = [
    ("POST", "/runs", RUN % '"timeout": @', "timeout", NEGATIVE),
    ("POST", "/runs", RUN % '"duration": @', "duration", NEGATIVE),
    (
        "POST",
        "/runs",
        RUN % '"progress": @',
        "progress",
        [*NEGATIVE, "2", "1.0000001", '"NaN"', '"Infinity"'],
    ),
    ("POST", "/runs", RUN % '"steps": [{"name": "s", "duration": @}]', "steps[0].duration", NEGATIVE),
    ("POST", "/runs", RUN % '"steps": [{"name": "s", "progress": @}]', "steps[0].progress", ["2", '"NaN"']),
    ("POST", "/runs", RUN % '"metrics": [{"name": "m", "value": @}]', "metrics[0].value", ["null"]),
    ("POST", "/runs", RUN % '"metrics": {"m": @}', "metrics[0].value", ["null"]),
    ("PUT", "/run/new", RUN % '"duration": @', "duration", NEGATIVE),
    ("PATCH", "/run/r", '{"progress": @}', "progress", [*NEGATIVE, "2", "1.0000001", '"NaN"', '"Infinity"']),
    ("POST", "/run/r/steps", '[{"name": "s", "duration": @}]', "[0].duration", NEGATIVE),
    ("POST", "/run/r/steps", '[{"name": "s", "progress": @}]', "[0].progress", ["-1", "2"]),
    (
        "POST",
        "/run/r/metrics",
        '[{"name": "m", "value": 1}, {"name": "m", "value": @}]',
        "[1].value",
        ["null"],
    ),
    (
        "POST",
        "/run/r/complete",
        '{"performance_metrics": {"cpu": {"latency": @}}}',
        "performance_metrics.cpu.latency",
        ["null"],
    ),
    ("POST", "/run/r/complete", '{"tests_passed": @}', "tests_passed", ["-1", "1.5", "2147483648"]),
    (
        "POST",
        "/run/r/complete",
        '{"results": {"tests_failed": @}}',
        "results",
        ["-1", "1.5", "null", "2147483648"],
    ),
    ("PUT", "/run/r/results", '{"tests_skipped": @}', "body", ["-1", "1.5", "null", "2147483648"]),
    ("POST", "/search", '{"query": "m", "limit": @}', "limit", ["0", "1001", "-1", "1.5", "null"]),
    ("POST", "/query", '{"sql": "SELECT 1", "limit": @}', "limit", ["0", "10001", "-1", "1.5", "null"]),
]


@REFUSED_AT_ONCE
def test_numbers_that_are_none(untouched: TestClient) -> None:
    for method, path, body, field, more in NUMBERS:
        for value in [*NO_NUMBER, *more]:
            sent = body.replace("@", value)
            assert problem(send(untouched, method, path, sent), 422)["errors"][0]["field"] == field, sent[
                :100
            ]


NO_TIME = [
    "5", "1.5", "1700000000", "true", "[]", "{}", HUGE, '""', '" "', '"now"', '"yesterday"',
    '"1700000000"', HALF, NUL,
    '"2026-13-01"', '"2026-02-30T00:00:00Z"', '"2026-01-01T25:00:00"', '"2026-01-01T00:00:00+99:00"',
    '"0001-01-01T00:00:00+01:00"', '"9999-12-31T23:59:59-01:00"', '"10000-01-01T00:00:00Z"', '"-0001-01-01"',
    '"2026-01-01T00:00:00Z\\u0000"', '"２０２６-01-01"', '"31.01.2026"', json.dumps("2" * 100_000),
]  # fmt: skip
TIMES: list[tuple[str, str, str, str]] = [
    ("POST", "/runs", RUN % '"started_at": @', "started_at"),
    ("PUT", "/run/new", RUN % '"completed_at": @', "completed_at"),
    ("POST", "/runs", RUN % '"steps": [{"name": "s", "started_at": @}]', "steps[0].started_at"),
    ("POST", "/runs", RUN % '"steps": [{"name": "s", "completed_at": @}]', "steps[0].completed_at"),
    ("POST", "/runs", RUN % '"metrics": [{"name": "m", "value": 1, "timestamp": @}]', "metrics[0].timestamp"),
    ("POST", "/runs", RUN % '"artifacts": [{"path": "p", "created_at": @}]', "artifacts[0].created_at"),
    ("POST", "/run/r/steps", '[{"name": "s", "started_at": @}]', "[0].started_at"),
    ("POST", "/run/r/metrics", '[{"name": "m", "value": 1, "timestamp": @}]', "[0].timestamp"),
    ("POST", "/run/r/artifacts", '[{"path": "p", "created_at": @}]', "[0].created_at"),
    ("POST", "/search", '{"query": "m", "since": @}', "since"),
    ("POST", "/search", '{"query": "m", "until": @}', "until"),
]


@REFUSED_AT_ONCE
def test_times_that_are_none(untouched: TestClient) -> None:
    for method, path, body, field in TIMES:
        for value in NO_TIME:
            sent = body.replace("@", value)
            assert problem(send(untouched, method, path, sent), 422)["errors"][0]["field"] == field, sent[
                :100
            ]


DEEP = '{"a":' * 101 + "1" + "}" * 101
VERY_DEEP = "[" * 900 + "]" * 900
NO_BOOLEAN = ["1", "0", '"true"', '"no"', '""', "null", "[]", "{}", HUGE]
PARTS: list[tuple[str, str, str, str, list[str]]] = [
    ("POST", "/runs", RUN % '"save_results": @', "save_results", NO_BOOLEAN),
    ("POST", "/export", '{"overwrite": @}', "overwrite", NO_BOOLEAN),
    ("POST", "/prune", '{"older_than": "1d", "dry_run": @}', "dry_run", NO_BOOLEAN),
    ("POST", "/runs", RUN % '"hardware": @', "hardware", ["5", "null", "{}", "true", HUGE]),
    ("POST", "/runs", RUN % '"tags": @', "tags", ["5", "null", "[]", '"a=b"', '[["a", "b"]]', VERY_DEEP]),
    (
        "POST",
        "/runs",
        RUN % '"tags": {"a": @}',
        "tags.a",
        ["[]", "{}", HALF, NUL, LONG, WIDE, "1e999", VERY_DEEP],
    ),
    ("POST", "/runs", RUN % '"results": @', "results", ["5", "[]", '"a"', "true", DEEP, f'{{"a": {HALF}}}']),
    ("POST", "/runs", RUN % '"results": {"a": @}', "results", ["1e999", "NaN", "-Infinity", HALF, VERY_DEEP]),
    (
        "POST",
        "/runs",
        RUN % '"results": {"test_details": @}',
        "results",
        ["5", "{}", '"a"', "[5]", "[{}]", "[[]]"],
    ),
    (
        "POST",
        "/runs",
        RUN % '"results": {"test_details": [{"method": "m", "status": @}]}',
        "results",
        ["5", "null", "[]", "{}", '"maybe"', '""', "true"],
    ),
    ("POST", "/runs", RUN % '"steps": @', "steps", ["5", "null", "{}", '"a"']),
    ("POST", "/runs", RUN % '"steps": [@]', "steps[0]", ["5", "null", "[]", '"a"']),
    ("POST", "/runs", RUN % '"steps": [{"name": "a"}, @]', "steps", ['{"name": "a"}', '{"step_name": "a"}']),
    ("POST", "/runs", RUN % '"metrics": @', "metrics", ["5", "null", '"a"']),
    ("POST", "/runs", RUN % '"metrics": [@]', "metrics[0]", ["5", "null", "[]", '"a"']),
    ("POST", "/runs", RUN % '"artifacts": @', "artifacts", ["5", "null", "{}", '"a"']),
    ("POST", "/runs", RUN % '"artifacts": [{"path": "a"}, @]', "artifacts", ['{"artifact_path": "a"}']),
    ("PUT", "/run/r/tags", '{"a": @}', "a", ["[]", "{}", HALF, NUL, LONG, "NaN"]),
    ("PUT", "/run/r/results", '{"a": @}', "body", [HALF, "1e999", "NaN", DEEP]),
    ("POST", "/run/r/complete", '{"results": @}', "results", ["5", "[]", '"a"', DEEP]),
    ("POST", "/run/r/complete", '{"test_details": @}', "test_details", ["5", "{}", '"a"']),
    ("POST", "/run/r/complete", '{"performance_metrics": @}', "performance_metrics", ["5", "[]", '"a"']),
    (
        "POST",
        "/run/r/complete",
        '{"performance_metrics": {"cpu": @}}',
        "performance_metrics.cpu",
        ["5", "[]", "null"],
    ),
    ("POST", "/batches", '{"run_ids": @}', "run_ids", ["5", "{}", '"r"', "null"]),
    ("POST", "/batch/b/runs", '{"run_ids": @}', "run_ids", ["5", "{}", '"r"', "null", "[]"]),
]


@REFUSED_AT_ONCE
def test_parts_of_the_wrong_kind(untouched: TestClient) -> None:
    for method, path, body, field, values in PARTS:
        for value in values:
            sent = body.replace("@", value)
            assert problem(send(untouched, method, path, sent), 422)["errors"][0]["field"] == field, sent[
                :100
            ]


@REFUSED_AT_ONCE
def test_more_tags_than_a_filter_may_have(untouched: TestClient) -> None:
    tags = ["a"] * 900_000
    problem(untouched.post(f"{B}/search", json={"query": "m", "tag": tags}), 422, "tag")
    problem(untouched.get(f"{B}/runs", params={"tag": tags[:21]}), 422, "tag")
    assert len(untouched.get(f"{B}/runs", params={"tag": tags[:20]}).json()) == 1


def test_every_wrong_field_is_named(untouched: TestClient) -> None:
    body = {
        "model": "m",
        "status": "done",
        "steps": [{"name": "a"}, {"name": "b", "progress": 2, "x": 1}],
        "metrics": [{"name": "m", "value": True}],
        "tags": {"a": []},
    }
    problem(
        untouched.post(f"{B}/runs", json=body),
        422,
        *("model_name", "model", "status", "steps[1].progress", "steps[1].x", "metrics[0].value", "tags.a"),
    )


def test_what_was_sent_is_not_repeated(untouched: TestClient) -> None:
    response = untouched.post(
        f"{B}/runs", json={"model_name": "m", "creator": ["a secret"], "started_at": "secret"}
    )
    assert "secret" not in problem(response, 422, "creator", "started_at")["detail"]
    assert "secret" not in response.text


def test_unknown_addresses_and_methods_are_problems_too(untouched: TestClient) -> None:
    for path in (
        "/nope",
        "/api",
        B,
        f"{B}/",
        f"{B}/run",
        f"{B}/run/",
        f"{B}/run/r/nope",
        f"{B}/run/a/b/c",
    ):
        assert path in problem(untouched.get(path), 404)["detail"]
    for method, path in (
        ("DELETE", "/runs"), ("PUT", "/runs"), ("GET", "/search"), ("GET", "/ingest"), ("POST", "/run/r"),
        ("GET", "/run/r/complete"), ("DELETE", "/run/r/steps"), ("OPTIONS", "/runs"), ("TRACE", "/run/r"),
    ):  # fmt: skip
        response = untouched.request(method, B + path)
        problem(response, 405)
        assert response.headers["allow"]


IDS = [
    "a b", "a/b", "/", "ä", "日本", "a\x00b", "\x00", "..", ".", "../runs", "a\nb", "a\\b", "%", "%zz", "a?b",
    "a#b", "a;b",
    "*", "'", '"', "<script>", "x" * 201, "x" * 5000, "\x7f", "\u2028", "🚀", " ", "a\r\nX-Evil: 1",
]  # fmt: skip
RAW_PATHS = [
    "%ff",
    "%c3",
    "a%2Fb",
    "%2e%2e",
    "%2E",
    "%2e%2e%2fruns",
    "%00",
    "%0d%0aX-Evil:1",
    "%",
    "%zz",
    "%u0041",
]


@pytest.fixture
def port(settings: Settings, openapi: dict[str, Any]) -> Iterator[int]:
    """The port of a real server, which gets its addresses as bytes."""
    app = create_app(settings)
    app.openapi_schema = openapi
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        gc.collect()  # the sockets that the server's loop left, before another test is blamed for them


def test_ids_in_real_addresses(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def answer(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection.request(method, B + path, body=body and json.dumps(body), headers=JSON if body else {})
        response = connection.getresponse()
        kind, text = response.headers["content-type"], response.read()
        if response.status in (307, 308):
            return response.status, None
        assert "x-evil" not in response.headers
        assert kind == ("application/json" if response.status < 300 else "application/problem+json"), text
        return response.status, json.loads(text)

    try:
        assert answer("POST", "/runs", {"model_name": "m", "run_id": "r"})[0] == 201
        for path in [*(quote(run_id, safe="") for run_id in IDS), *RAW_PATHS]:
            for method, tail, body in (
                ("GET", "", None),
                ("GET", "/metrics", None),
                ("DELETE", "", None),
                ("PATCH", "", {"progress": 0.5}),
                ("POST", "/complete", {}),
                ("POST", "/steps", [{"name": "s"}]),
                ("PUT", "/tags", {"a": "b"}),
            ):
                status, told = answer(method, f"/run/{path}{tail}", body)
                assert status in (404, 405), (method, path, status, told)
            status, told = answer("PUT", f"/run/{path}", {"model_name": "m"})
            assert status in (404, 405, 422), (path, status, told)
            if status == 422:
                assert [error["field"] for error in told["errors"]] == ["run_id"]
            assert answer("GET", f"/batch/{path}")[0] in (404, 405)
            assert answer("GET", f"/runs?batch_id={path.replace('#', '')}")[0] == 422
            assert answer("GET", f"/runs?{path}=1")[0] == 422
        status, runs = answer("GET", "/runs?model_name=m&hardware=%ff&tag=%ff")
        assert (status, runs) == (200, [])
        assert [run["run_id"] for run in answer("GET", "/runs")[1]] == ["r"]
    finally:
        connection.close()


def test_a_host_that_is_none_leads_nowhere_else(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for run_id in "ab":
            body = json.dumps({"model_name": "m", "run_id": run_id})
            connection.request("POST", f"{B}/runs", body=body, headers=JSON)
            assert connection.getresponse().read()
        for host in ("[", "a>b", 'a"; rel="x', "a b", "x" * 300, "a/../b", "a@b", ""):
            connection.request("GET", f"{B}/runs?limit=1", headers={"host": host})
            response = connection.getresponse()
            assert response.read()
            assert response.status in (200, 400, 403)
            if response.status == 200:
                assert response.headers["link"].count(">") == 1
    finally:
        connection.close()


DOCUMENT: dict[str, Any] = {
    "model_name": "bert",
    "hardware": ["cpu", "cuda"],
    "test_type": "basic",
    "timeout": 300,
    "save_results": True,
    "status": "completed",
    "progress": 0.5,
    "current_step": "Infer",
    "started_at": "2026-01-31T12:00:00Z",
    "completed_at": "2026-01-31T12:00:10Z",
    "duration": 10,
    "error": None,
    "result_file": "r.json",
    "creator": "ci",
    "tags": {"branch": "main"},
    "batch_id": "b",
    "results": {"tests_passed": 1, "test_details": [{"method": "m", "status": "passed"}]},
    "steps": [{"step_name": "s", "status": "passed", "started_at": "2026-01-31T12:00:01Z", "duration": 1.5}],
    "metrics": [{"metric_name": "m", "value": 1.5, "unit": "ms", "timestamp": "2026-01-31T12:00:01Z"}],
    "artifacts": [{"artifact_path": "p", "artifact_type": "log", "description": "d"}],
}


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield way
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from places(item, (*way, key))


TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "failed", "2026-01-31", "", "a\x00", "\ud800", 10**400, -1, 2]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("name"), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(list(places(DOCUMENT))[1:]), st.sampled_from(["set", "drop", "add"]), TEXT, VALUES
    ),
    min_size=1,
    max_size=3,
)


def changed(changes: list[Any]) -> Any:
    document = json.loads(json.dumps(DOCUMENT))
    for way, action, key, value in changes:
        target = document
        try:
            for part in way[:-1]:
                target = target[part]
            inner = target[way[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        if action == "set":
            target[way[-1]] = value
        elif action == "drop":
            del target[way[-1]]
        elif isinstance(inner, dict):
            inner[key] = value
        elif isinstance(inner, list):
            inner.append(value)
    return document


def test_a_document_that_is_changed_at_random_is_kept_or_refused(api: TestClient, engine_name: str) -> None:
    kept = refused = 0

    @given(CHANGES)
    @hypothesis_settings(
        max_examples=200 if engine_name == "postgresql" else 80,  # the slower engine
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(changes: list[Any]) -> None:
        nonlocal kept, refused
        document = changed(changes)
        body = json.dumps(document)
        response = send(api, "POST", "/runs", body)
        if response.status_code != 201:
            refused += 1
            problem(response, 422)
            # what one way of sending a run refuses, the others do
            problem(send(api, "POST", "/ingest", f"[{body}]"), 422)
            return
        kept += 1
        detail = ok(response, 201)
        assert run(api, detail["run_id"]) == detail
        reads_back(document, detail)
        if kept % 5 == 0:
            assert ok(send(api, "POST", "/ingest", f"[{body}]"))["runs"] == 1

    check()
    assert kept > 10
    assert refused > 10


def reads_back(document: dict[str, Any], detail: dict[str, Any]) -> None:
    for name in (
        "model_name",
        "test_type",
        "error",
        "creator",
        "result_file",
        "current_step",
        "save_results",
    ):
        if document.get(name) is not None:
            assert detail[name] == document[name]
    for name in ("timeout", "duration", "progress"):
        if document.get(name) is not None:
            assert detail[name] == document[name] or float(detail[name]) == float(document[name])
    if isinstance(document.get("results"), dict):
        kept = {name: value for name, value in document["results"].items() if not name.startswith("tests_")}
        assert {name: detail["results"][name] for name in kept} == kept
    assert len(detail["steps"]) == len(document.get("steps", []))
    assert len(detail["artifacts"]) == len(document.get("artifacts", []))
    assert set(detail["tags"]) == {
        name for name, value in document.get("tags", {}).items() if value is not None
    }
