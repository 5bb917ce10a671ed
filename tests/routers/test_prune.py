"""Pruning over HTTP: what is old and over goes with all of its rows, while others go on writing."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from starlette.testclient import TestClient

from app.config import Settings
from app.db import Database
from app.db.bulk import insert_many
from app.models import BatchTestRun, TestRun, TestRunStep
from app.services import pruning, retention
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.routers.conftest import serving as application
from tests.routers.helpers import B, add, ids, ok, problem, rows, run
from tests.routers.test_deletion import EVERYTHING, document
from tests.server import PATIENCE

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


def fill(database: Database, count: int) -> None:
    """So many old runs, each with a step."""
    same = {"model_name": "m", "status": "completed", "started_at": NOW - timedelta(days=100)}
    database.write(insert_many, TestRun, [{"run_id": f"old-{n}", **same} for n in range(count)])
    steps = [{"run_id": f"old-{n}", "step_name": "s", "status": "passed"} for n in range(count)]
    database.write(insert_many, TestRunStep, steps)


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


@ON_DUCKDB
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
    fill(api.app.state.database, MANY)  # type: ignore[attr-defined]
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


# --- by itself


def until(client: Any, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What is told of the last time, as soon as it is as wanted."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        last: dict[str, Any] | None = ok(client.get(f"{B}/retention"))["last"]
        if last is not None and wanted(last):
            return last
        time.sleep(0.05)
    raise AssertionError(last)


def test_a_server_without_retention_deletes_nothing(api: TestClient) -> None:
    assert ok(api.get(f"{B}/retention")) == {"retention": None, "keep_tags": [], "every": "1d", "last": None}
    assert "testdb_retention" not in api.get("/metrics").text


def test_a_server_prunes_by_itself(
    settings: Settings, openapi: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK", 0.05)
    with application(settings, openapi) as client:
        documents = [old("gone"), old("young", started_at=YOUNG), old("kept", tags={"release": "1"})]
        ok(client.post(f"{B}/ingest", json=documents))
        assert ok(client.get(f"{B}/retention"))["last"] is None
    given = {"retention": "90d", "retention_keep_tags": ["release"]}
    settings = settings.model_copy(update=given)
    with application(settings, openapi) as client:
        first = until(client, lambda last: last["runs"] == 1)
        assert left(client) == {"young", "kept"}
        assert set(first) == {"at", "runs", "seconds", "error"}
        assert first["error"] is None
        assert NOW <= datetime.fromisoformat(first["at"]) <= datetime.now(UTC)
        told = client.get("/metrics").text
        assert "\ntestdb_retention_last_deleted_runs 1\n" in told
        assert "\ntestdb_retention_last_failed 0\n" in told
    with application(settings, openapi) as client:
        ok(client.post(f"{B}/ingest", json=[old("later")]))
        time.sleep(0.3)
        assert ok(client.get(f"{B}/retention"))["last"] == first, "a start is no reason to do it again"
    with application(settings.model_copy(update={"retention_every": "1s"}), openapi) as client:
        until(client, lambda last: last["at"] > first["at"])
        assert left(client) == {"young", "kept"}
        database = client.app.state.database  # type: ignore[attr-defined]
        database.write(lambda session: session.execute(text("DROP TABLE test_run_artifacts")))
        told = (
            "fault of the server" if settings.sqlalchemy_url.startswith("duckdb") else "run `testdb migrate`"
        )
        assert told in until(client, lambda last: last["error"])["error"]
        assert "\ntestdb_retention_last_failed 1\n" in client.get("/metrics").text


@ON_POSTGRESQL
def test_one_of_several_servers_prunes(
    settings: Settings,
    database: Database,
    openapi: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(retention, "LOOK", 0.05)
    caplog.set_level("INFO", "testdb.retention")
    fill(database, 600)
    settings = settings.model_copy(update={"retention": "90d"})
    with ExitStack() as stack:
        with database.engine.begin() as connection:
            # Whoever prunes gets no further than to here until all have looked.
            connection.execute(text("LOCK TABLE test_run_steps IN ACCESS EXCLUSIVE MODE"))
            servers = [stack.enter_context(application(settings, openapi)) for _ in range(3)]
            time.sleep(0.5)
            assert [ok(server.get(f"{B}/retention"))["last"] for server in servers] == [None] * 3
        told = [until(server, lambda last: True) for server in servers]
        time.sleep(0.5)
        assert [ok(server.get(f"{B}/retention"))["last"] for server in servers] == told == told[:1] * 3
        assert (told[0]["runs"], told[0]["error"]) == (600, None)
        assert left(servers[0]) == set()
    assert [record.args[0] for record in caplog.records if record.args] == [600]


@ON_DUCKDB
def test_where_the_last_time_cannot_be_stored_it_is_told_and_waited_for_all_the_same(
    settings: Settings, openapi: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(retention, "LOOK", 0.05)
    monkeypatch.setattr(retention, "atomic_file", full)
    settings.results_dir.mkdir()
    before = {"at": OLD, "runs": 7, "seconds": 1, "error": None}
    (settings.results_dir / retention.LAST).write_text(json.dumps(before))
    with application(settings.model_copy(update={"retention": "90d"}), openapi) as client:
        first = until(client, lambda last: last["runs"] == 0)
        ok(client.post(f"{B}/ingest", json=[old("later")]))
        time.sleep(0.3)
        assert ok(client.get(f"{B}/retention"))["last"] == first
        assert left(client) == {"later"}
