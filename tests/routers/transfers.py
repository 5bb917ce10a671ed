"""Exports and imports from beginning to end."""

from __future__ import annotations

import time
from typing import Any

from httpx2 import Response
from starlette.testclient import TestClient

from tests.routers.helpers import B, ok

STATE = {"export_id", "status", "filename", "runs", "batches", "bytes", "error"}


def start(client: TestClient, **body: Any) -> dict[str, Any]:
    """Begins an export."""
    return ok(client.post(f"{B}/export", json=body), 202)


def ended(client: TestClient, export_id: str) -> dict[str, Any]:
    """The state of an export, once it is over."""
    for _ in range(6000):
        state: dict[str, Any] = ok(client.get(f"{B}/exports/{export_id}"))
        assert set(state) == STATE
        if state["status"] != "started":
            return state
        time.sleep(0.005)
    raise AssertionError("the export does not end")


def file_of(client: TestClient, **body: Any) -> bytes:
    """The file of a new export."""
    state = ended(client, start(client, **body)["export_id"])
    assert state["status"] == "completed", state
    return client.get(f"{B}/exports/{state['export_id']}/file").content


def send(client: TestClient, content: bytes | str, query: str = "", **headers: str) -> Response:
    """Imports a file that is the body of the request."""
    return client.post(f"{B}/import?{query}", content=content, headers=headers)
