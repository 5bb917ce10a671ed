"""The description that the server publishes of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.marks import ON_DUCKDB
from tests.routers.helpers import DETAIL, SUMMARY, B, add, ok, problem

Operation = tuple[str, str, dict[str, Any]]

ENDPOINTS = {
    "GET /runs", "POST /runs", "GET /run/{run_id}", "PUT /run/{run_id}", "PATCH /run/{run_id}",
    "DELETE /run/{run_id}", "GET /run/{run_id}/metrics", "POST /run/{run_id}/metrics",
    "POST /run/{run_id}/steps", "POST /run/{run_id}/artifacts", "PUT /run/{run_id}/tags",
    "PUT /run/{run_id}/results",
    "POST /run/{run_id}/complete", "POST /run/{run_id}/error", "POST /run/{run_id}/cancel", "GET /batches",
    "POST /batches", "GET /batch/{batch_id}", "DELETE /batch/{batch_id}", "POST /batch/{batch_id}/runs",
    "POST /batch/{batch_id}/complete", "GET /models/stats", "GET /hardware/stats", "GET /performance",
    "POST /search", "POST /ingest", "POST /import", "POST /export", "GET /exports/{export_id}",
    "GET /exports/{export_id}/file",
}  # fmt: skip


def operations(openapi: dict[str, Any]) -> list[Operation]:
    return [
        (method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]


@pytest.fixture
def of_database(openapi: dict[str, Any]) -> list[Operation]:
    """The operations under /api/test/db."""
    return [found for found in operations(openapi) if found[1].startswith(B)]


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def resolved(openapi: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = openapi
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


@ON_DUCKDB
def test_it_is_served(api: TestClient, openapi: dict[str, Any]) -> None:
    assert ok(api.get("/openapi.json")) == openapi
    assert openapi["openapi"].startswith("3.")
    assert openapi["info"]["title"] == "Test Suite Database"
    assert openapi["info"]["description"]


def test_every_endpoint_is_there(of_database: list[Operation]) -> None:
    assert {f"{method} {path.removeprefix(B)}" for method, path, _ in of_database} >= ENDPOINTS


def test_every_reference_leads_somewhere(openapi: dict[str, Any]) -> None:
    references = [node for node in walk(openapi) if isinstance(node.get("$ref"), str)]
    assert references
    for node in references:
        assert isinstance(resolved(openapi, node), dict)
    assert not [node for node in walk(openapi) if "$defs" in node]


def test_every_operation_says_what_it_does(openapi: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(openapi)]
    assert len(set(names)) == len(names)
    for _, path, operation in operations(openapi):
        assert operation["summary"], path
        assert operation["description"].endswith("."), path
        assert operation["tags"], path


def test_every_error_is_a_problem(of_database: list[Operation]) -> None:
    for method, path, operation in of_database:
        answers = operation["responses"]
        assert {"422", "503"} <= set(answers), path
        if "{run_id}" in path and method != "PUT":
            assert "404" in answers, path
        if "requestBody" in operation:
            assert "413" in answers, path
        if method != "GET" and not path.endswith(("/search", "/query")):
            assert "409" in answers, path
        for status, answer in answers.items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], path
                fields = answer["content"]["application/problem+json"]["schema"]["properties"]
                assert {"type", "title", "status", "detail"} <= set(fields)
                assert ("errors" in fields) == (status == "422")
            else:
                assert int(status) in (200, 201, 202)


@pytest.mark.parametrize(
    ("endpoint", "statuses"),
    [
        ("POST /runs", {"201", "409"}),
        ("PUT /run/{run_id}", {"200", "201", "409"}),
        ("PATCH /run/{run_id}", {"200", "404", "409"}),
        ("POST /run/{run_id}/complete", {"200", "404", "409"}),
        ("POST /run/{run_id}/error", {"200", "404", "409"}),
        ("POST /run/{run_id}/cancel", {"200", "404", "409"}),
        ("POST /batches", {"201", "404", "409"}),
        ("POST /export", {"202", "409"}),
        ("POST /ingest", {"200", "413"}),
    ],
)
def test_statuses_of_note(of_database: list[Operation], endpoint: str, statuses: set[str]) -> None:
    answers = next(o["responses"] for m, p, o in of_database if f"{m} {p.removeprefix(B)}" == endpoint)
    assert statuses <= set(answers)
    if "201" in statuses:
        assert "Location" in answers["201"]["headers"]


def test_lists_say_how_to_reach_the_next_page(of_database: list[Operation]) -> None:
    for method, path, operation in of_database:
        parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
        if "cursor" in parameters:
            headers = operation["responses"]["200"]["headers"]
            assert "Link" in headers, (method, path)
            assert ("X-Total-Count" in headers) == ("count" in parameters)


def test_every_body_has_a_schema_and_the_main_ones_an_example(
    openapi: dict[str, Any], of_database: list[Operation]
) -> None:
    without = []
    for method, path, operation in of_database:
        for kind, media in operation.get("requestBody", {}).get("content", {}).items():
            assert media["schema"], path
            if kind != "application/json":
                continue
            schema = resolved(openapi, media["schema"])
            options = [resolved(openapi, option) for option in schema.get("anyOf", [])]
            items = [resolved(openapi, schema["items"])] if "items" in schema else []
            if not any(
                "example" in found or "examples" in found for found in [media, schema, *options, *items]
            ):
                without.append(f"{method} {path.removeprefix(B)}")
    assert set(without) <= {"POST /batch/{batch_id}/runs", "POST /export", "POST /import", "POST /query"}


def test_examples_are_accepted(openapi: dict[str, Any], api: TestClient) -> None:
    schemas = openapi["components"]["schemas"]
    add(api, status="running")
    example = {name: schema["examples"][0] for name, schema in schemas.items() if "examples" in schema}
    ok(api.post(f"{B}/runs", json=example["RunDocument"]), 201)
    assert ok(api.post(f"{B}/ingest", json=[example["RunDocument"]]))["runs"] == 1
    ok(api.patch(f"{B}/run/r", json=example["RunPatch"]))
    ok(api.post(f"{B}/run/r/steps", json=[example["StepDocument"]]))
    ok(api.post(f"{B}/run/r/metrics", json=[example["MetricDocument"]]))
    ok(api.post(f"{B}/run/r/artifacts", json=[example["ArtifactDocument"]]))
    ok(api.post(f"{B}/run/r/complete", json=example["Completion"]))
    add(api, "e")
    ok(api.post(f"{B}/run/e/error", json=example["Ending"]))
    ok(api.post(f"{B}/search", json=example["SearchRequest"]))
    ok(api.post(f"{B}/batches", json=example["BatchDocument"]), 201)
    for path in ("tags", "results"):
        body = openapi["paths"][f"{B}/run/{{run_id}}/{path}"]["put"]["requestBody"]["content"][
            "application/json"
        ]
        (found,) = body.get("examples") or body["schema"]["examples"]
        ok(api.put(f"{B}/run/r/{path}", json=found))


def test_the_answers_have_the_fields_of_the_contract(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    assert set(schemas["RunSummary"]["properties"]) == SUMMARY == set(schemas["RunSummary"]["required"])
    assert set(schemas["RunDetail"]["properties"]) == DETAIL == set(schemas["RunDetail"]["required"])
    for name in ("RunDetail", "RunSummary"):
        kinds = schemas[name]["properties"]["duration"]["anyOf"]
        assert {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]} in kinds[0].get("anyOf", kinds)


def test_the_parameters_of_the_list(of_database: list[Operation]) -> None:
    runs = next(o for m, p, o in of_database if (m, p) == ("GET", f"{B}/runs"))
    parameters = {parameter["name"]: parameter["schema"] for parameter in runs["parameters"]}
    assert set(parameters) == {
        "limit", "cursor", "count", "status", "model_name", "test_type", "hardware", "batch_id", "tag",
        "since", "until",
    }  # fmt: skip
    limit = parameters["limit"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 1000, 100)
    assert parameters["tag"]["type"] == "array"


@ON_DUCKDB
def test_no_endpoint_takes_an_unknown_parameter(api: TestClient, openapi: dict[str, Any]) -> None:
    for method, path, _ in operations(openapi):
        url = re.sub(r"\{\w+\}", "x", path)
        problem(api.request(method, f"{url}?no_such_parameter=1"), 422, "no_such_parameter")


def test_only_a_parameter_that_is_a_list_stands_more_than_once(api: TestClient) -> None:
    for query, field in (
        ("/runs?status=completed&status=error", "status"),
        ("/runs?hardware=cpu&tag=a&hardware=cuda", "hardware"),
        ("/models/stats?days=7&days=7", "days"),
        ("/run/x/metrics?name=a&name=b", "name"),
    ):
        body = problem(api.get(f"/api/test/db{query}"), 422, field)
        assert len(body["errors"]) == 1
    ok(api.get("/api/test/db/runs?tag=a&tag=b"))
    ok(api.post("/api/test/db/import?hardware=cpu&hardware=cuda&tag=a&tag=b", content="<testsuite/>"))


def test_a_method_that_is_none_is_told_which_there_are(api: TestClient) -> None:
    for path, methods in (("/run/r", "DELETE, GET, PATCH, PUT"), ("/runs", "GET, POST"), ("/search", "POST")):
        answer = api.options(f"/api/test/db{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
