"""The models as anyone's script uses them, and the tables as the engine keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, exc, func, inspect, make_url, select, text
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, session_factory
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
    new_metric_ids,
)
from tests.factories import ARRAYS, DOCUMENTS, FLOATS, TEXTS, TIMES, comparable
from tests.marks import ON_DUCKDB, ON_POSTGRESQL

TABLES = {
    "test_runs": "run_id model_name hardware test_type timeout save_results status progress current_step "
    "started_at completed_at duration error result_file creator created_at",
    "test_run_results": "run_id tests_passed tests_failed tests_skipped result_data",
    "test_run_steps": "run_id step_name status progress started_at completed_at duration error",
    "test_run_metrics": "run_id id metric_name metric_value metric_unit timestamp",
    "test_run_tags": "run_id tag_name tag_value",
    "batch_test_runs": "batch_id description run_count started_at completed_at duration status creator "
    "created_at",
    "test_run_batch": "run_id batch_id",
    "test_run_artifacts": "run_id artifact_path artifact_type description created_at",
}
KEYS = {
    "test_runs": ["run_id"],
    "test_run_results": ["run_id"],
    "test_run_steps": ["run_id", "step_name"],
    "test_run_metrics": ["run_id", "id"],
    "test_run_tags": ["run_id", "tag_name"],
    "batch_test_runs": ["batch_id"],
    "test_run_batch": ["run_id", "batch_id"],
    "test_run_artifacts": ["run_id", "artifact_path"],
}


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return session_factory(engine)


def full_run(run_id: str, batch: BatchTestRun) -> TestRun:
    return TestRun(
        run_id=run_id,
        model_name="bert",
        hardware=["cpu", "cuda"],
        batches=[batch],
        results=TestRunResult(tests_passed=3, tests_failed=1, result_data={"all": DOCUMENTS}),
        steps=[TestRunStep(step_name=name, status="passed", started_at=TIMES[0]) for name in TEXTS],
        metrics=[TestRunMetric(metric_name="loss", metric_value=value) for value in FLOATS],
        tags=[TestRunTag(tag_name=name, tag_value=name) for name in TEXTS],
        artifacts=[TestRunArtifact(artifact_path=f"/tmp/{name}", description=name) for name in TEXTS],
    )


def counts(session: Session) -> dict[str, int]:
    return {
        table.name: session.scalar(select(func.count()).select_from(table)) or 0
        for table in Base.metadata.sorted_tables
    }


def test_a_run_and_all_its_parts_come_back_as_they_were_given(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(full_run("r", BatchTestRun(batch_id="b", description=TEXTS[4])))
    with sessions() as session:
        run = session.get_one(TestRun, "r")
        assert (run.model_name, run.hardware, run.test_type) == ("bert", ["cpu", "cuda"], "basic")
        assert (run.status, run.progress, run.save_results) == ("initializing", 0.0, True)
        assert (run.timeout, run.error, run.completed_at) == (None, None, None)
        assert run.results is not None
        assert (run.results.tests_passed, run.results.tests_failed, run.results.tests_skipped) == (3, 1, 0)
        assert run.results.result_data == {"all": DOCUMENTS}
        assert [step.step_name for step in run.steps] == sorted(TEXTS)  # at one time: by name
        assert {step.started_at for step in run.steps} == {TIMES[0]}
        assert [comparable(metric.metric_value) for metric in run.metrics] == list(map(comparable, FLOATS))
        assert [metric.id for metric in run.metrics] == sorted({metric.id for metric in run.metrics})
        assert [(tag.tag_name, tag.tag_value) for tag in run.tags] == [(name, name) for name in sorted(TEXTS)]
        assert [artifact.description for artifact in run.artifacts] == sorted(TEXTS)
        assert [(batch.batch_id, batch.description) for batch in run.batches] == [("b", TEXTS[4])]


def test_a_plain_script_needs_no_more_than_an_address(url: str) -> None:
    sessions = session_factory(url)
    with sessions.begin() as session:
        run = TestRun(model_name="bert", hardware="cpu")
        session.add(run)
    assert run.hardware == ["cpu"]
    assert str(UUID(run.run_id)) == run.run_id
    with sessions() as session:
        assert session.scalars(select(TestRun)).one().run_id == run.run_id
    bind: Any = sessions.kw["bind"]
    bind.dispose()


@pytest.mark.parametrize("hardware", ARRAYS)
def test_hardware_is_a_list_of_texts(sessions: sessionmaker[Session], hardware: list[str]) -> None:
    with sessions.begin() as session:
        session.add(TestRun(run_id="r", model_name="m", hardware=hardware))
    with sessions() as session:
        assert session.get_one(TestRun, "r").hardware == hardware


def test_times_are_utc_whatever_zone_they_were_given_in(sessions: sessionmaker[Session]) -> None:
    naive = datetime(2026, 7, 1, 12, 0, 0, 1)
    india = datetime(2026, 7, 1, 2, 0, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with sessions.begin() as session:
        session.add(TestRun(run_id="r", model_name="m", started_at=naive, completed_at=india))
    with sessions() as session:
        run = session.get_one(TestRun, "r")
        assert run.started_at == naive.replace(tzinfo=UTC)
        assert run.completed_at == datetime(2026, 6, 30, 20, 30, tzinfo=UTC)
        assert run.started_at.tzinfo is run.completed_at.tzinfo is UTC
        assert abs(datetime.now(UTC) - run.created_at) < timedelta(minutes=5)
        assert session.scalars(select(TestRun.run_id).where(TestRun.completed_at == india)).all() == ["r"]
        assert session.scalars(select(TestRun.run_id).where(TestRun.started_at > naive)).all() == []


def test_every_column_of_a_run_can_be_changed(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(full_run("r", BatchTestRun(batch_id="b")))
    with sessions.begin() as session:
        run = session.get_one(TestRun, "r")
        run.model_name, run.hardware, run.status = "other", ["rocm", "qnn"], "running"
        run.completed_at, run.duration, run.error = TIMES[1], 1.5, TEXTS[3]
        assert run.results is not None
        run.results.result_data = {"n": 2**70}
        run.tags[0].tag_value = "changed"
        session.flush()
        run.hardware = ["mps"]
    with sessions() as session:
        run = session.get_one(TestRun, "r")
        assert (run.model_name, run.hardware, run.status) == ("other", ["mps"], "running")
        assert (run.completed_at, run.duration, run.error) == (TIMES[1], 1.5, TEXTS[3])
        assert run.results is not None
        assert run.results.result_data == {"n": 2**70}
        assert run.tags[0].tag_value == "changed"


def test_a_run_can_be_replaced_under_its_own_id(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(full_run("r", BatchTestRun(batch_id="b")))
    with sessions.begin() as session:
        session.delete(session.get_one(TestRun, "r"))
        session.flush()
        session.add(full_run("r", session.get_one(BatchTestRun, "b")))
    with sessions() as session:
        assert counts(session)["test_runs"] == counts(session)["test_run_batch"] == 1
        assert counts(session)["test_run_tags"] == len(TEXTS)


def test_deleting_a_run_removes_its_rows_and_no_others(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        batch = BatchTestRun(batch_id="b")
        session.add_all([full_run("kept", batch)])
    with sessions() as session:
        before = counts(session)
    with sessions.begin() as session:
        session.add(full_run("gone", session.get_one(BatchTestRun, "b")))
    with sessions() as session:
        assert counts(session) == {
            name: count * (1 if name == "batch_test_runs" else 2) for name, count in before.items()
        }
        session.delete(session.get_one(TestRun, "gone"))
        session.flush()
        assert counts(session) == before
        with sessions() as other:
            assert counts(other)["test_runs"] == 2  # nothing is committed yet
        session.commit()
    with sessions() as session:
        assert counts(session) == before
        assert [run.run_id for run in session.get_one(BatchTestRun, "b").runs] == ["kept"]


def test_a_deletion_that_is_rolled_back_leaves_everything(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(full_run("r", BatchTestRun(batch_id="b")))
    with sessions() as session:
        before = counts(session)
        session.delete(session.get_one(TestRun, "r"))
        session.flush()
        session.rollback()
        assert counts(session) == before
    with sessions() as session:
        assert counts(session) == before
        assert len(session.get_one(TestRun, "r").tags) == len(TEXTS)


def test_deleting_a_batch_leaves_its_runs(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        batch = BatchTestRun(batch_id="b", runs=[TestRun(run_id=name, model_name="m") for name in "xyz"])
        session.add(batch)
    with sessions.begin() as session:
        session.delete(session.get_one(BatchTestRun, "b"))
    with sessions() as session:
        found = counts(session)
        assert (found["test_runs"], found["batch_test_runs"], found["test_run_batch"]) == (3, 0, 0)
        assert session.get_one(TestRun, "x").batches == []


def test_a_part_that_leaves_its_run_is_removed(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(full_run("r", BatchTestRun(batch_id="b")))
    with sessions.begin() as session:
        run = session.get_one(TestRun, "r")
        run.results = None
        run.tags = run.tags[:1]
        run.batches.clear()
    with sessions() as session:
        found = counts(session)
        assert (found["test_run_results"], found["test_run_tags"], found["test_run_batch"]) == (0, 1, 0)
        assert found["batch_test_runs"] == 1


def test_membership_can_be_stored_by_its_own_model(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add_all([TestRun(run_id="r", model_name="m"), BatchTestRun(batch_id="b")])
        session.flush()
        session.add(TestRunBatch(run_id="r", batch_id="b"))
    with sessions() as session:
        assert [batch.batch_id for batch in session.get_one(TestRun, "r").batches] == ["b"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_is_never_what_json_is_not(sessions: sessionmaker[Session], value: float) -> None:
    with sessions() as session:
        session.add(TestRun(run_id="r", model_name="m", results=TestRunResult(result_data={"x": value})))
        with pytest.raises((ValueError, exc.StatementError), match="not JSON compliant"):
            session.flush()


@pytest.mark.parametrize("given", [{}, {"result_data": None}])
def test_a_result_without_an_object_has_an_empty_one(
    sessions: sessionmaker[Session], given: dict[str, Any]
) -> None:
    with sessions.begin() as session:
        session.add(TestRun(run_id="r", model_name="m", results=TestRunResult(**given)))
    with sessions() as session:
        assert session.get_one(TestRunResult, "r").result_data == {}


@pytest.mark.parametrize("table", list(TABLES))
def test_keys_are_unique(sessions: sessionmaker[Session], table: str) -> None:
    with sessions.begin() as session:
        session.add(full_run("r", BatchTestRun(batch_id="b")))
    with sessions() as session:
        again = text(f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1")
        if table == "test_run_metrics" and session.get_bind().dialect.name == "duckdb":
            session.execute(again)  # only appended to, with ids that the application makes
        else:
            with pytest.raises(exc.IntegrityError):
                session.execute(again)


def test_ids_of_metrics_grow_and_stay_positive_64_bit_numbers() -> None:
    first, second = new_metric_ids(3), new_metric_ids(2)
    assert len(first) == 3
    assert first[-1] < second[0]
    assert 2**60 < first[0] < second[-1] < 2**63


def test_there_are_exactly_the_eight_tables(engine: Engine) -> None:
    found = inspect(engine)
    assert sorted(found.get_table_names()) == sorted([*TABLES, "alembic_version"])
    for table, columns in TABLES.items():
        assert [column["name"] for column in found.get_columns(table)] == columns.split()
        assert [column.name for column in Base.metadata.tables[table].columns] == columns.split()
        for column in found.get_columns(table):
            assert column["nullable"] == Base.metadata.tables[table].columns[column["name"]].nullable
            assert column["default"] is None
    assert Base.metadata.tables.keys() == TABLES.keys()
    assert found.get_sequence_names() == []
    assert found.get_view_names() == []


def test_every_key_is_the_id_of_the_run_or_starts_with_it(engine: Engine) -> None:
    found = inspect(engine)
    keys = {table: found.get_pk_constraint(table)["constrained_columns"] for table in TABLES}
    if engine.dialect.name == "duckdb":
        assert keys.pop("test_run_metrics") == []  # see NO_PHYSICAL_KEY
    assert keys == {table: KEYS[table] for table in keys}
    assert {
        name: list(table.primary_key.columns.keys()) for name, table in Base.metadata.tables.items()
    } == KEYS


@ON_POSTGRESQL
def test_the_server_removes_the_rows_of_a_run_by_itself(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(full_run("r", BatchTestRun(batch_id="b")))
    with sessions.begin() as session:
        session.execute(text("DELETE FROM test_runs"))
    with sessions() as session:
        assert {name for name, count in counts(session).items() if count} == {"batch_test_runs"}
        with pytest.raises(exc.IntegrityError):
            session.execute(text("INSERT INTO test_run_tags VALUES ('nobody', 'a', 'b')"))


@ON_POSTGRESQL
def test_keys_are_compared_by_code_point_in_any_locale(engine: Engine) -> None:
    with engine.connect() as connection:
        collations = connection.execute(
            text(
                "SELECT DISTINCT collation_name FROM information_schema.columns"
                " WHERE table_schema = 'public' AND data_type = 'character varying'"
                " AND column_name IN ('run_id', 'batch_id', 'step_name', 'tag_name', 'artifact_path')"
            )
        ).scalars()
        assert list(collations) == ["C"]


def test_keys_are_in_the_order_of_python(sessions: sessionmaker[Session]) -> None:
    ids = ["a", "B", "ä", "b", "Z", "_", "-", "10", "9", "é", "漢", "🚀", ""]
    with sessions.begin() as session:
        session.add_all([TestRun(run_id=run_id, model_name="m") for run_id in ids])
    with sessions() as session:
        assert session.scalars(select(TestRun.run_id).order_by(TestRun.run_id)).all() == sorted(ids)


@ON_DUCKDB
def test_a_file_never_makes_the_engine_load_code(engine: Engine) -> None:
    with engine.connect() as connection:
        for setting in (
            "autoinstall_known_extensions",
            "autoload_known_extensions",
            "allow_community_extensions",
        ):
            assert connection.scalar(text(f"SELECT current_setting('{setting}')")) is False


@ON_POSTGRESQL
def test_a_session_on_a_server_runs_in_utc_beside_what_its_address_says(url: str) -> None:
    address = make_url(url).update_query_dict({"options": "-c search_path=elsewhere,public"})
    engine = make_engine(address)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW timezone")).lower() == "utc"
        assert connection.scalar(text("SHOW search_path")) == "elsewhere,public"
    engine.dispose()
