"""Many rows at once: on both sides of the switch from a plain INSERT to the engine's fast path."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from sqlalchemy import exc, func, select
from sqlalchemy.orm import DeclarativeBase, Session

from app.db import Database, utcnow
from app.db.bulk import FEW, FEW_KEYS, among, insert_many, upsert_many
from app.models import BatchTestRun, TestRun, TestRunMetric, TestRunResult, TestRunStep, TestRunTag
from tests.factories import FAMILIES, MODELS, TEXTS, comparable, row, rows

SIZES = {1: range(1), FEW: range(1, 21), FEW + 1: range(21, 42), 5000: range(42, 5042)}
"""Numbers of the rows of each size, none twice, so that one database serves all sizes."""

EACH_SIDE = {size: SIZES[size] for size in (1, FEW, FEW + 1)}

EVERY_MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__tablename__)
EVERY_KEYED_MODEL = pytest.mark.parametrize(
    "model", [m for m in MODELS if m is not TestRunMetric], ids=lambda model: model.__tablename__
)
EITHER = pytest.mark.parametrize("store", [insert_many, upsert_many])

Store = Callable[[Session, type[DeclarativeBase], list[dict[str, Any]]], int]


def stored(session: Session, model: type[DeclarativeBase]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The table's rows by their keys."""
    found = [dict(values) for values in session.execute(select(model.__table__)).mappings()]
    by_key = keyed(model, found)
    assert len(by_key) == len(found)
    return by_key


def keyed(model: type[DeclarativeBase], given: list[dict[str, Any]]) -> dict[tuple[Any, ...], Any]:
    names = [column.name for column in model.__table__.primary_key]
    return {tuple(values[name] for name in names): comparable(values) for values in given}


def add_parents(session: Session, model: type[DeclarativeBase]) -> None:
    runs = 5042 if model is TestRunResult else FAMILIES
    for parent, numbers in ((TestRun, range(runs)), (BatchTestRun, range(5042 // FAMILIES + 1))):
        if model not in (TestRun, BatchTestRun):
            insert_many(session, parent, all_rows(parent)[: len(numbers)])


def count(session: Session, model: type[DeclarativeBase]) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


@cache
def all_rows(model: type[DeclarativeBase], variant: int = 0) -> list[dict[str, Any]]:
    return rows(model, range(5042), variant)


@cache
def all_keyed(model: type[DeclarativeBase], variant: int = 0) -> dict[tuple[Any, ...], Any]:
    return keyed(model, all_rows(model, variant))


@EVERY_MODEL
def test_insert_many_stores_every_value_of_every_row(
    database: Database, model: type[DeclarativeBase]
) -> None:
    given = all_rows(model)
    with database.transaction() as session:
        add_parents(session, model)
        for size, numbers in SIZES.items():
            assert insert_many(session, model, [given[n] for n in numbers]) == size
    assert database.read(stored, model) == all_keyed(model)


@EVERY_KEYED_MODEL
def test_upsert_many_inserts_new_rows_and_replaces_the_others(
    database: Database, model: type[DeclarativeBase]
) -> None:
    before, after = all_rows(model), all_rows(model, variant=1)
    with database.transaction() as session:
        add_parents(session, model)
        for size, numbers in SIZES.items():
            half = numbers[: (size + 1) // 2]
            assert upsert_many(session, model, [before[n] for n in half]) == len(half)
            assert upsert_many(session, model, [after[n] for n in numbers]) == size
    assert database.read(stored, model) == all_keyed(model, variant=1)


def test_the_last_row_of_a_key_wins(database: Database) -> None:
    database.write(insert_many, TestRun, rows(TestRun, range(FAMILIES)))
    for size, numbers in EACH_SIDE.items():
        given = [row(TestRunTag, n) | {"tag_value": value} for n in numbers for value in ("old", "new")]
        assert database.write(upsert_many, TestRunTag, given) == 2 * size
    assert {tag["tag_value"] for tag in database.read(stored, TestRunTag).values()} == {"new"}


def test_an_upsert_leaves_the_columns_that_are_not_given(database: Database) -> None:
    given = rows(TestRunStep, range(42))
    database.write(insert_many, TestRun, rows(TestRun, range(FAMILIES)))
    database.write(insert_many, TestRunStep, given)
    for numbers in EACH_SIDE.values():
        short = [{name: given[n][name] for name in ("run_id", "step_name")} for n in numbers]
        database.write(upsert_many, TestRunStep, [step | {"status": "changed"} for step in short])
    assert database.read(stored, TestRunStep) == keyed(
        TestRunStep, [step | {"status": "changed"} for step in given]
    )


@EITHER
def test_columns_left_out_get_the_defaults_of_the_model(database: Database, store: Store) -> None:
    for size, numbers in EACH_SIDE.items():
        runs = [{"run_id": f"r{n}", "model_name": "m"} for n in numbers]
        assert database.write(store, TestRun, runs) == size
    found = database.read(stored, TestRun).values()
    assert len(found) == 42
    for run in found:
        assert run["hardware"] == []
        assert (run["test_type"], run["status"], run["save_results"]) == ("basic", "initializing", True)
        assert abs(utcnow() - run["started_at"]) < timedelta(minutes=5)
        assert run["timeout"] is None


def test_ids_left_out_are_made_for_each_row(database: Database) -> None:
    metric = {"run_id": "r", "metric_name": "loss", "metric_value": 1.0}
    database.write(insert_many, TestRun, [{"run_id": "r", "model_name": "m"}])
    for size in EACH_SIDE:
        database.write(insert_many, TestRun, [{"model_name": "m"} for _ in range(size)])
        database.write(insert_many, TestRunMetric, [metric] * size)
    assert len(database.read(stored, TestRun)) == 42 + 1
    assert len(database.read(stored, TestRunMetric)) == 42


@EITHER
def test_rows_that_do_not_fit_are_refused(database: Database, store: Store) -> None:
    for size in EACH_SIDE:
        runs: list[dict[str, Any]] = [{"run_id": f"r{n}", "model_name": "m"} for n in range(size)]
        with pytest.raises(ValueError, match="same columns"):
            database.write(store, TestRun, [*runs, {"run_id": "r", "model_name": "m", "creator": "me"}])
        with pytest.raises(ValueError, match="no column nonsense"):
            database.write(store, TestRun, [run | {"nonsense": 1} for run in runs])
    assert database.read(count, TestRun) == 0


@EITHER
def test_a_parent_that_waits_in_the_session_is_stored_first(database: Database, store: Store) -> None:
    for size in EACH_SIDE:
        with database.transaction() as session:
            session.add(TestRun(run_id=f"run of {size}", model_name="m"))
            tags = [{"run_id": f"run of {size}", "tag_name": f"t{n}", "tag_value": ""} for n in range(size)]
            store(session, TestRunTag, tags)
    assert (database.read(count, TestRun), database.read(count, TestRunTag)) == (3, 42)


@EITHER
def test_nothing_stays_of_a_unit_that_fails(database: Database, store: Store) -> None:
    database.write(insert_many, TestRun, rows(TestRun, range(1)))
    before = database.read(stored, TestRun)

    def work(session: Session, numbers: range) -> None:
        store(session, BatchTestRun, [all_rows(BatchTestRun)[n] for n in numbers])
        store(session, TestRun, [all_rows(TestRun)[n or 1] for n in numbers])
        upsert_many(session, TestRun, rows(TestRun, range(1), variant=1))
        raise KeyError("on purpose")

    for numbers in SIZES.values():
        with pytest.raises(KeyError, match="on purpose"):
            database.write(work, numbers)
        assert database.read(stored, TestRun) == before
        assert database.read(count, BatchTestRun) == 0


def test_a_key_that_exists_is_an_integrity_error(database: Database) -> None:
    database.write(insert_many, TestRun, rows(TestRun, range(42)))
    for numbers in EACH_SIDE.values():
        with Session(database.engine) as session, pytest.raises(exc.IntegrityError):
            insert_many(session, TestRun, rows(TestRun, numbers))


def test_a_table_that_is_only_appended_to_is_not_upserted(database: Database) -> None:
    with pytest.raises(TypeError, match="append-only"):
        database.write(upsert_many, TestRunMetric, rows(TestRunMetric, range(1)))


@EITHER
def test_no_rows_are_no_work(database: Database, store: Store) -> None:
    assert database.write(store, TestRun, []) == 0


def test_among_finds_exactly_the_values(database: Database) -> None:
    database.write(insert_many, TestRun, rows(TestRun, range(1500)))

    def found(session: Session, column: Any, wanted: list[str]) -> set[str]:
        return set(session.scalars(select(TestRun.run_id).where(among(column, wanted))))

    for size in (0, 1, FEW_KEYS, FEW_KEYS + 1):
        wanted = {n: row(TestRun, n)["run_id"] for n in range(0, 2 * size, 2)}
        known = {run_id for n, run_id in wanted.items() if n < 1500}
        for column in (TestRun.run_id, TestRun.__table__.c.run_id):
            assert database.read(found, column, list(wanted.values())) == known


def test_among_takes_every_text_for_itself(database: Database) -> None:
    tags = [{"run_id": "r", "tag_name": f"t{n}", "tag_value": value} for n, value in enumerate(TEXTS)]
    database.write(insert_many, TestRun, [{"run_id": "r", "model_name": "m"}])
    database.write(insert_many, TestRunTag, tags)

    def named(session: Session, values: list[str]) -> list[str]:
        return list(session.scalars(select(TestRunTag.tag_name).where(among(TestRunTag.tag_value, values))))

    others = [f"not there {n}" for n in range(FEW_KEYS)]
    for tag in tags:
        assert database.read(named, [tag["tag_value"]]) == [tag["tag_name"]]
        assert database.read(named, [tag["tag_value"], *others]) == [tag["tag_name"]]
