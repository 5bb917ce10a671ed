"""Many runs in one request: all of them are stored, or none."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from app.config import Settings
from app.services import ingest as reading
from tests.marks import ON_DUCKDB
from tests.routers.conftest import serving
from tests.routers.helpers import B, add, ids, ok, problem, rows, run

Run = dict[str, Any]
NDJSON = "application/x-ndjson"


def as_array(runs: list[Run]) -> dict[str, Any]:
    return {"content": json.dumps(runs), "headers": {"content-type": "application/json"}}


def as_lines(runs: list[Run]) -> dict[str, Any]:
    return {"content": "\n".join(map(json.dumps, runs)), "headers": {"content-type": NDJSON}}


def zipped(request: dict[str, Any], **headers: str) -> dict[str, Any]:
    body = gzip.compress(request["content"].encode())
    return {"content": body, "headers": request["headers"] | headers}


FORMS: dict[str, Callable[[list[Run]], dict[str, Any]]] = {
    "array": as_array,
    "lines": as_lines,
    "array, gzip": lambda runs: zipped(as_array(runs)),
    "lines, gzip": lambda runs: zipped(as_lines(runs)),
    "lines, gzip, said so": lambda runs: zipped(as_lines(runs), **{"content-encoding": "gzip"}),
    "lines, charset": lambda runs: as_lines(runs) | {"headers": {"content-type": f"{NDJSON}; charset=utf-8"}},
    "blank lines and returns": lambda runs: (
        as_lines(runs) | {"content": "\n\r\n" + "\r\n \n".join(map(json.dumps, runs)) + "\r\n\n"}
    ),
    "form": lambda runs: {"files": {"file": ("runs.json", json.dumps(runs))}},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
BOTH_FORMS = pytest.mark.parametrize("form", [as_array, as_lines])


def ingest(client: TestClient, request: dict[str, Any]) -> Response:
    return client.post(f"{B}/ingest", **request)


def documents(count: int, **fields: Any) -> list[Run]:
    return [
        {
            "run_id": f"r{n:04}",
            "model_name": f"m{n % 3}",
            "started_at": "2026-01-31T12:00:00Z",
            "steps": [{"step_name": f"{name}{n}", "status": "passed"} for name in "zya"],
            "metrics": [{"metric_name": "lat", "value": value, "unit": "ms"} for value in (n, "NaN")],
            "tags": {"branch": "main ä", "gone": None},
            "artifacts": [{"artifact_path": f"p{n}"}],
            "results": {"tests_passed": n},
            "batch_id": f"b{n % 2}",
            **fields,
        }
        for n in range(count)
    ]


def counts(runs: int) -> dict[str, int]:
    return {"runs": runs, "steps": 3 * runs, "metrics": 2 * runs, "tags": runs, "artifacts": runs}


@EVERY_FORM
def test_every_form_of_the_body(api: TestClient, form: Callable[[list[Run]], dict[str, Any]]) -> None:
    assert ok(ingest(api, form(documents(5)))) == counts(5)
    detail = run(api, "r0003")
    assert [step["step_name"] for step in detail["steps"]] == ["z3", "y3", "a3"]
    assert (detail["tags"], detail["batch_ids"]) == ({"branch": "main ä"}, ["b1"])
    assert detail["metrics"]["lat"] == {
        "value": "NaN", "unit": "ms", "timestamp": "2026-01-31T12:00:00Z",
        "count": 1, "min": 3.0, "max": 3.0, "avg": 3.0,
    }  # fmt: skip
    assert detail["results"] == {"tests_passed": 3, "tests_failed": 0, "tests_skipped": 0}
    assert ids(api.get(f"{B}/runs")) == [f"r{n:04}" for n in range(5)]


def test_a_run_is_stored_as_if_it_had_been_sent_alone(api: TestClient) -> None:
    for form in (as_array, as_lines):
        for document in documents(2):
            name = f"{form.__name__}-{document['run_id']}"
            alone = ok(api.put(f"{B}/run/{name}-1", json={**document, "run_id": f"{name}-1"}), 201)
            ok(ingest(api, form([{**document, "run_id": f"{name}-2"}])))
            among_others = run(api, f"{name}-2")
            differ = {key for key, value in alone.items() if among_others[key] != value}
            assert differ == {"run_id", "created_at"}


def test_runs_without_an_id_get_one(api: TestClient) -> None:
    assert ok(ingest(api, as_array([{"model_name": "m"}] * 3)))["runs"] == 3
    assert len(set(ids(api.get(f"{B}/runs")))) == 3


@BOTH_FORMS
def test_nothing_at_all(api: TestClient, form: Callable[[list[Run]], dict[str, Any]]) -> None:
    assert ok(ingest(api, form([]))) == counts(0)
    assert not any(rows(api).values())


def test_many_runs_sent_twice(api: TestClient) -> None:
    request = as_lines(documents(450))
    assert ok(ingest(api, request)) == counts(450)
    before, detail = rows(api), run(api, "r0449")
    assert before["test_runs"] == before["test_run_batch"] == 450
    assert before["batch_test_runs"] == 2
    assert ok(ingest(api, request)) == counts(450)
    assert rows(api) == before
    assert run(api, "r0449") == detail
    assert ok(api.get(f"{B}/batch/b1"))["run_count"] == 225


def test_a_run_that_exists_is_replaced_with_all_it_has(api: TestClient) -> None:
    ok(ingest(api, as_array(documents(3))))
    before = run(api, "r0001")
    new = [{"run_id": "r0001", "model_name": "new", "tags": {"x": "y"}}, {"run_id": "r9", "model_name": "m"}]
    told = {"runs": 2, "steps": 0, "metrics": 0, "tags": 1, "artifacts": 0}
    assert ok(ingest(api, as_array(new))) == told
    detail = run(api, "r0001")
    assert (detail["model_name"], detail["tags"], detail["created_at"]) == (
        "new",
        {"x": "y"},
        before["created_at"],
    )
    assert (detail["steps"], detail["metrics"], detail["artifacts"], detail["results"]) == ([], {}, [], None)
    assert run(api, "r0002")["model_name"] == "m2"
    assert rows(api)["test_run_steps"] == 6


@BOTH_FORMS
@pytest.mark.parametrize("distance", [1, 250])
def test_the_last_of_several_with_one_id_wins(
    api: TestClient, form: Callable[[list[Run]], dict[str, Any]], distance: int
) -> None:
    twice = {"run_id": "twice", "model_name": "first", "tags": {"a": "1"}, "steps": [{"name": "old"}]}
    last = {"run_id": "twice", "model_name": "last", "metrics": {"m": 1}}
    runs = [twice, *({"model_name": "m"} for _ in range(distance)), last]
    told = {"runs": distance + 1, "steps": 0, "metrics": 1, "tags": 0, "artifacts": 0}
    assert ok(ingest(api, form(runs))) == told
    detail = run(api, "twice")
    assert (detail["model_name"], detail["tags"], detail["steps"]) == ("last", {}, [])
    assert rows(api)["test_runs"] == distance + 1


BAD_ITEMS: list[tuple[Any, str]] = [
    ({}, ".model_name"),
    ({"model_name": ""}, ".model_name"),
    ({"model_name": None}, ".model_name"),
    ({"model_name": "m", "modelname": "m"}, ".modelname"),
    ({"model_name": "m", "status": "passed"}, ".status"),
    ({"model_name": "m", "run_id": "a/b"}, ".run_id"),
    ({"model_name": "m", "duration": -1}, ".duration"),
    ({"model_name": "m", "started_at": 5}, ".started_at"),
    ({"model_name": "m", "steps": [{"name": "a"}, {"name": "b", "status": "odd"}]}, ".steps[1].status"),
    ({"model_name": "m", "steps": [{"name": "a"}, {"name": "a"}]}, ".steps"),
    ({"model_name": "m", "metrics": [{"name": "a", "value": "fast"}]}, ".metrics[0].value"),
    ({"model_name": "m", "artifacts": [{"path": "a"}, {"path": "a"}]}, ".artifacts"),
    ({"model_name": "m", "tags": {"a": []}}, ".tags.a"),
    ({"model_name": "m", "tags": {"a\x00": "b"}}, ".tags.a\x00"),
    ({"model_name": "m", "results": {"tests_passed": "many"}}, ".results"),
    ({"model_name": "m", "error": "a\x00b"}, ".error"),
    ([], ""),
    ("text", ""),
    (None, ""),
    (5, ""),
]


@BOTH_FORMS
def test_a_bad_item_is_named_and_nothing_is_stored(
    api: TestClient, form: Callable[[list[Run]], dict[str, Any]]
) -> None:
    stored = add(api, "r0000", tags={"was": "here"})
    before = rows(api)
    for bad, field in BAD_ITEMS:
        request = form([*documents(3), bad, *documents(1)])
        body = problem(ingest(api, request), 422, f"[3]{field}")
        assert body["detail"].startswith(f"[3]{field}: ")
    assert rows(api) == before
    assert run(api, "r0000") == stored


@BOTH_FORMS
def test_a_bad_item_after_thousands(api: TestClient, form: Callable[[list[Run]], dict[str, Any]]) -> None:
    runs = [
        *({"model_name": "m"} for _ in range(2000)),
        {"model_name": "m", "steps": [{"name": "s", "x": 1}]},
    ]
    problem(ingest(api, form(runs)), 422, "[2000].steps[0].x")
    assert not any(rows(api).values())


@pytest.mark.parametrize(
    ("kind", "form"), [("application/json", "[{}\n]"), ("application/x-ndjson", "{}")], ids=["array", "lines"]
)
def test_runs_are_read_before_or_while_they_are_stored(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str, form: str
) -> None:
    runs = [json.dumps({"run_id": f"r{n}", "model_name": 'm"],\\'}) for n in range(3)]
    monkeypatch.setattr(reading, "MAX_ITEMS", 4)
    for at_once in (10_000, 10):
        monkeypatch.setattr(reading, "AT_ONCE", at_once)

        def send(*runs: str) -> Response:
            body = form.replace("{}", ("," if kind.endswith("/json") else "\n\n").join(runs))
            return api.post(f"{B}/ingest", content=body, headers={"Content-Type": kind})

        problem(send(*runs, '{"model_name": 5}'), 422, "[3].model_name")
        problem(send(*runs, "{]"), 422)
        assert "at most 4 runs" in problem(send(*runs, *runs), 422, "body")["detail"]
        assert ok(api.get(f"{B}/runs")) == []
        assert ok(send(*runs))["runs"] == 3
        assert sorted(item["run_id"] for item in ok(api.get(f"{B}/runs"))) == ["r0", "r1", "r2"]
        for n in range(3):
            ok(api.delete(f"{B}/run/r{n}"))


def test_every_wrong_field_of_an_item_is_named(api: TestClient) -> None:
    request = as_array([{"model_name": "m", "x": 1, "progress": 2}, {"y": 1}])
    problem(ingest(api, request), 422, "[0].x", "[0].progress", "[1].model_name", "[1].y")
    answer = problem(ingest(api, as_array([{}] * 5000)), 422, "[0].model_name", "[99].model_name")
    assert len(answer["errors"]) <= 100


GZIP = gzip.compress(b"[]")
BAD_BODIES = {
    "application/json": [
        b"", b" ", b"{}", b"nul", b"null", b"5", b'"text"', b"[", b"[1", b"[]]", b"[] []",
        b'{"model_name": "m"}', b'[{"model_name": "m"},]', b"[{'model_name': 'm'}]",
        b'[{"model_name": "\xff"}]', b"\xff\xfe[\x00]\x00",
        b'[{"model_name": "\\ud800"}]', b'[{"model_name": "\xed\xa0\x80"}]', b"[" * 100_000,
        b'[{"a":' * 100_000, b'[{"model_name": "m", "duration": 1' + b"0" * 400 + b"}]",
        b'[{"model_name": "m", "results": {"n": 1' + b"0" * 5000 + b"}}]",
        b'[{"model_name": "m", "results": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}]",
        b"\x1f\x8b", b"\x1f", GZIP[:-1], GZIP[:12], GZIP + b"junk", b"\x1f\x8b" + b"x" * 50,
        gzip.compress(b""), gzip.compress(b"[}"), gzip.compress(b"\xff"),
    ],
    NDJSON: [
        b"[]", b"{", b"nul", b"\x1f\x8b", b"\x1f", b"\xff", b"{}", b'{"model_name": "m"} {"model_name": "m"}',
        b'{"model_name":\n"m"}', b'{"model_name": "m"}\n{"model_name": "m"', b"[" * 100_000, GZIP[:-1],
        b'{"model_name": "\\udfff"}', b"\xff\xfe{\x00}\x00", gzip.compress(b"[]"),
    ],
    "multipart/form-data": [b"", b"--x\r\n", b"[]"],
    "multipart/form-data; boundary=x": [
        b"", b"[]", b"--x--\r\n", b'--x\r\nContent-Disposition: form-data; name="a"',
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_a_body_that_is_not_what_it_should_be(api: TestClient, kind: str) -> None:
    for body in BAD_BODIES[kind]:
        problem(api.post(f"{B}/ingest", content=body, headers={"content-type": kind}), 422)
    assert not any(rows(api).values())


def test_a_form_without_a_file(api: TestClient) -> None:
    problem(api.post(f"{B}/ingest", data={"file": "[]"}, files={"other": ("", b"")}), 422)
    problem(api.post(f"{B}/ingest", data={"file": "[]"}), 422)


def test_unknown_parameters_are_refused(api: TestClient) -> None:
    problem(api.post(f"{B}/ingest?replace=false", json=[]), 422, "replace")


@pytest.fixture
def narrow(settings: Settings, openapi: dict[str, Any]) -> Iterator[TestClient]:
    """A client of an application that takes bodies of one MiB."""
    with serving(settings.model_copy(update={"max_body_mb": 1}), openapi) as client:
        yield client


def test_a_body_that_is_too_large(narrow: TestClient) -> None:
    large = json.dumps([{"model_name": "m", "error": "x" * 2_000_000}])
    random = json.dumps([{"model_name": "m", "error": os.urandom(1_000_000).hex()}])
    for body, extra in (
        (large, {}),
        (iter([large.encode()]), {}),
        (gzip.compress(large.encode()), {}),
        (iter([gzip.compress(random.encode())]), {}),
        (b"[]", {"content-length": "99999999999"}),
    ):
        headers = {"content-type": "application/json", **extra}
        problem(narrow.post(f"{B}/ingest", content=body, headers=headers), 413)
    for url in (f"{B}/runs", f"{B}/search"):
        problem(narrow.post(url, content=large, headers={"content-type": "application/json"}), 413)
        chunks = iter([large.encode()])
        problem(narrow.post(url, content=chunks, headers={"content-type": "application/json"}), 413)
    assert not any(rows(narrow).values())
    fits = json.dumps([{"model_name": "m", "error": "x" * 1_000_000}])
    assert ok(narrow.post(f"{B}/ingest", content=gzip.compress(fits.encode())))["runs"] == 1


@ON_DUCKDB  # the engine is not asked
def test_a_small_body_that_grows_without_end(narrow: TestClient) -> None:
    bomb = gzip.compress(b"[" + b" " * (100 << 20) + b"]", 1)
    assert len(bomb) < 1 << 20
    problem(narrow.post(f"{B}/ingest", content=bomb), 413)


def test_two_clients_send_the_same_runs_at_once(api: TestClient) -> None:
    request = as_lines(documents(30))
    answers: list[Response] = []
    barrier = threading.Barrier(3)

    def send() -> None:
        barrier.wait()
        answers.append(ingest(api, request))

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ok(answer) for answer in answers] == [counts(30)] * 3
    stored = rows(api)
    assert (stored["test_runs"], stored["test_run_metrics"], stored["test_run_batch"]) == (30, 60, 30)
    assert ok(api.get(f"{B}/batch/b0"))["run_count"] == 15
