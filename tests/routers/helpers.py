"""What the tests of the API have in common."""

from __future__ import annotations

from typing import Any

from httpx2 import Response
from starlette.testclient import TestClient

from tests.factories import contents

B = "/api/test/db"

DETAIL = {
    "run_id", "model_name", "hardware", "test_type", "timeout", "save_results", "status", "progress",
    "current_step", "started_at", "completed_at", "duration", "error", "result_file", "creator", "created_at",
    "results", "steps", "metrics", "tags", "artifacts", "batch_id", "batch_ids",
}  # fmt: skip
SUMMARY = {
    "run_id", "model_name", "hardware", "test_type", "status", "progress", "current_step", "started_at",
    "completed_at", "duration", "error", "creator", "tests_passed", "tests_failed", "tests_skipped",
    "step_count", "metric_count", "artifact_count", "batch_id", "batch_ids", "tags",
}  # fmt: skip


def add(client: TestClient, run_id: str = "r", **fields: Any) -> dict[str, Any]:
    """Records a run and returns its detail."""
    response = client.post(f"{B}/runs", json={"run_id": run_id, "model_name": "m", **fields})
    return ok(response, 201)


def ok(response: Response, status: int = 200) -> Any:
    """The JSON of an answer with that status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def run(client: TestClient, run_id: str = "r") -> dict[str, Any]:
    """The run's detail."""
    return ok(client.get(f"{B}/run/{run_id}"))


def ids(response: Response) -> list[str]:
    """The ids of a list of runs."""
    return [item["run_id"] for item in ok(response)]


def problem(response: Response, status: int, *fields: str) -> dict[str, Any]:
    """The problem document of an error; for 422 each of the fields must be named."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    for name in ("type", "title", "detail"):
        assert isinstance(body[name], str)
        assert body[name]
    assert set(body) == {"type", "title", "status", "detail"} | ({"errors"} if status == 422 else set())
    if status == 422:
        assert body["errors"]
        assert all(set(error) == {"field", "message"} and error["message"] for error in body["errors"])
        named = [error["field"] for error in body["errors"]]
        assert set(fields) <= set(named), named
    return body  # type: ignore[no-any-return]


def every(client: TestClient, url: str) -> list[list[dict[str, Any]]]:
    """The pages from the URL to the end, each reached by the link of the one before."""
    pages = []
    following: str | None = url
    while following is not None:
        response = client.get(following)
        pages.append(ok(response))
        following = response.links["next"]["url"] if "next" in response.links else None
    return pages


def rows(client: TestClient) -> dict[str, int]:
    """How many rows each table has."""
    with client.app.state.database.engine.connect() as connection:  # type: ignore[attr-defined]
        return {table: len(found) for table, found in contents(connection).items()}
