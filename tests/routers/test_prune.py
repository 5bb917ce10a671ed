"""Pruning over HTTP: what is old and over goes with all of its rows, while others go on writing."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.models import BatchTestRun
from app.services import pruning
from tests.routers.helpers import B, add, ids, ok, problem, rows, run
from tests.routers.test_deletion import EVERYTHING, document

NOW = datetime.now(UTC)
OLD = (NOW - timedelta(days=100)).isoformat()
YOUNG = (NOW - timedelta(days=80)).isoformat()


def old(run_id: str, **fields: Any) -> dict[str, Any]:
    """A run that ended, with rows in every table, except for what the fields say."""
    return document(run_id) | {"status": "completed", "started_at": OLD, "tags": {}} | fields


def prune(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = ok(client.post(f"{B}/prune", json={"older_than": "90d", **fields}))
    assert set(answer) == {"status", "message", "timestamp", "deleted"}
    return answer


def left(client: TestClient) -> set[str]:
    return set(ids(client.get(f"{B}/runs?limit=1000")))


def test_what_is_old_and_over_goes_with_all_of_its_rows(api: TestClient) -> None:
    ok(
        api.post(
            f"{B}/ingest", json=[old("gone", tags=dict.fromkeys("abcd", "v")), old("r", started_at=YOUNG)]
        )
    )
    before, neighbour = rows(api), run(api, "r")
    rehearsed = prune(api, dry_run=True)
    assert rehearsed["message"].startswith("Would delete 1 run older than 90d: ")
    assert rows(api) == before
    done = prune(api)
    assert done["deleted"] == rehearsed["deleted"] == {**EVERYTHING, "batch_test_runs": 0}
    assert done["message"].startswith("Deleted 1 run older than 90d: ")
    assert rows(api) == {table: count - EVERYTHING.get(table, 0) for table, count in before.items()}
    assert run(api, "r") == neighbour
    assert set(prune(api)["deleted"].values()) == {0}
    assert ok(api.get(f"{B}/check")) == []


def test_what_lives_or_has_a_kept_tag_stays(api: TestClient) -> None:
    statuses = ["initializing", "running", "completed", "error", "timeout", "cancelled"]
    tags = {"named": {"release": "1"}, "valued": {"branch": "main"}, "other": {"branch": "dev"}}
    documents = [old(status, status=status) for status in statuses]
    documents += [old(name, tags=given) for name, given in tags.items()]
    ok(api.post(f"{B}/ingest", json=documents))
    kept = {"keep_tags": ["release", "branch=main"]}
    assert prune(api, dry_run=True, **kept)["deleted"]["test_runs"] == 5
    assert prune(api, **kept)["deleted"]["test_runs"] == 5
    assert left(api) == {"initializing", "running", "named", "valued"}
    assert prune(api)["deleted"]["test_runs"] == 2


def test_a_batch_goes_with_the_last_of_its_runs(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "PORTION", 2)
    batches = {"whole": [OLD] * 5, "partly": [OLD, YOUNG], "live": [OLD], "young": [OLD]}
    documents = [
        old(f"{batch}{n}", batch_id=batch, started_at=started_at)
        for batch, starts in batches.items()
        for n, started_at in enumerate(starts)
    ]
    ok(api.post(f"{B}/ingest", json=documents))
    ok(api.post(f"{B}/batches", json={"batch_id": "empty"}), 201)
    for batch in (*batches, "empty"):
        values = {
            "status": "running" if batch == "live" else "completed",
            "started_at": datetime.fromisoformat(YOUNG if batch == "young" else OLD),
        }
        change = update(BatchTestRun).where(BatchTestRun.batch_id == batch).values(values)
        api.app.state.database.write(lambda session, change=change: session.execute(change))  # type: ignore[attr-defined]
    expected = prune(api, dry_run=True)["deleted"]
    assert (expected["test_runs"], expected["batch_test_runs"]) == (8, 1)
    assert prune(api)["deleted"] == expected
    found = {batch["batch_id"] for batch in ok(api.get(f"{B}/batches"))}
    assert found == {"partly", "live", "young", "empty"}
    assert left(api) == {"partly1"}


@pytest.mark.parametrize(
    "age", ["90", "90 d", "1w", "0d", "-1d", "1.5h", "36501d", "d", "", "９0d", 90, None]
)
def test_an_age_that_is_none(api: TestClient, age: Any) -> None:
    problem(api.post(f"{B}/prune", json={"older_than": age}), 422, "older_than")


def test_ages_in_every_unit(api: TestClient) -> None:
    starts = {"s": timedelta(seconds=90), "m": timedelta(minutes=90), "h": timedelta(hours=90)}
    documents = [old(unit, started_at=(NOW - age).isoformat()) for unit, age in starts.items()]
    ok(api.post(f"{B}/ingest", json=documents))
    found = [prune(api, older_than=f"80{unit}", dry_run=True)["deleted"]["test_runs"] for unit in "smhd"]
    assert found == [3, 2, 1, 0]


MANY = 5000


def test_a_writer_is_not_held_up(api: TestClient) -> None:
    documents = [
        {
            "run_id": f"many-{n}",
            "model_name": "m",
            "status": "completed",
            "started_at": OLD,
            "tags": {"n": str(n)},
            "steps": [{"name": f"s{step}", "status": "passed"} for step in range(2)],
            "metrics": [{"name": "x", "value": n}] * 2,
        }
        for n in range(MANY)
    ]
    ok(api.post(f"{B}/ingest", json=documents))
    answers: list[dict[str, Any]] = []
    pruning_now = threading.Thread(target=lambda: answers.append(prune(api)))
    waits = []
    start = time.monotonic()
    pruning_now.start()
    while pruning_now.is_alive():
        begun = time.monotonic()
        add(api, f"new-{len(waits)}")
        waits.append(time.monotonic() - begun)
    took = time.monotonic() - start
    assert answers[0]["deleted"]["test_runs"] == MANY
    assert len(waits) > 10
    assert max(waits) < max(1.0, took / 3)
    assert len(left(api)) == min(1000, len(waits))
