"""Who commits, who waits for whom, and what is tried again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC

import pytest
from sqlalchemy import Engine, event, exc, func, insert, select, text
from sqlalchemy.orm import Session

from app.db import Database, make_engine
from app.db.bulk import insert_many
from app.db.database import ATTEMPTS
from app.db.engine import embedded_file
from app.errors import Conflict, Unavailable
from app.models import BatchTestRun, TestRun, TestRunTag
from tests.factories import rows
from tests.marks import ON_DUCKDB, ON_POSTGRESQL
from tests.server import PATIENCE

THREADS = 8


def add_run(session: Session, run_id: str = "r") -> TestRun:
    run = TestRun(run_id=run_id, model_name="m")
    session.add(run)
    session.flush()
    return run


def run_ids(session: Session) -> list[str]:
    return list(session.scalars(select(TestRun.run_id).order_by(TestRun.run_id)))


def commits_of(engine: Engine) -> list[object]:
    seen: list[object] = []
    event.listen(engine, "commit", seen.append)
    return seen


def elsewhere(database: Database, statement: object) -> None:
    """Another writer, that does not wait for its turn."""
    with database.engine.begin() as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def test_a_write_commits_once_and_gives_the_result(database: Database) -> None:
    commits = commits_of(database.engine)
    assert database.write(add_run, run_id="a").run_id == "a"
    assert len(commits) == 1
    assert database.read(run_ids) == ["a"]


def test_a_transaction_commits_at_the_end_of_the_block(database: Database) -> None:
    with database.transaction() as session:
        add_run(session)
        assert database.read(run_ids) == []
    assert database.read(run_ids) == ["r"]


def test_an_error_of_the_work_rolls_everything_back_and_is_not_tried_again(database: Database) -> None:
    calls: list[int] = []

    def work(session: Session) -> None:
        calls.append(1)
        add_run(session)
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        database.write(work)
    with pytest.raises(LookupError, match="on purpose"), database.transaction() as session:
        work(session)
    assert len(calls) == 2
    assert database.read(run_ids) == []
    database.write(add_run)
    assert database.read(run_ids) == ["r"]


def test_what_a_unit_returns_stays_readable(database: Database) -> None:
    run = database.write(add_run)
    assert (run.model_name, run.status) == ("m", "initializing")
    run = database.read(lambda session: session.get_one(TestRun, "r"))
    assert run.created_at.tzinfo is UTC


def test_a_read_sees_one_moment(database: Database) -> None:
    def twice(session: Session) -> tuple[list[str], list[str]]:
        before = run_ids(session)
        database.write(add_run)
        session.expire_all()
        return before, run_ids(session)

    assert database.read(twice) == ([], [])
    assert database.read(run_ids) == ["r"]


def test_a_read_cannot_write(database: Database) -> None:
    database.write(add_run, "kept")
    for _ in range(2):  # the connection goes back to the pool and is a writer's afterwards
        with pytest.raises((Unavailable, exc.InternalError), match="read-only"):
            database.read(add_run)
    database.write(add_run, "later")
    assert database.read(run_ids) == ["kept", "later"]


def test_concurrent_increments_lose_nothing(database: Database) -> None:
    database.write(lambda session: session.add(BatchTestRun(batch_id="b", run_count=0)))
    start = threading.Barrier(THREADS)

    def increment(session: Session) -> None:
        batch = session.scalars(select(BatchTestRun).with_for_update()).one()
        batch.run_count += 1

    def work() -> None:
        start.wait(30)
        for _ in range(5):
            database.write(increment)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work) for _ in range(THREADS)]:
            done.result(60)
    assert database.read(lambda session: session.scalar(select(BatchTestRun.run_count))) == THREADS * 5


def test_concurrent_inserts_of_one_key_make_one_row(database: Database) -> None:
    start = threading.Barrier(THREADS)

    def get_or_add(session: Session) -> bool:
        if session.get(TestRun, "r"):
            return False
        add_run(session)
        return True

    def work() -> bool:
        start.wait(30)
        return database.write(get_or_add)

    with ThreadPoolExecutor(THREADS) as pool:
        made = [done.result(60) for done in [pool.submit(work) for _ in range(THREADS)]]
    assert made.count(True) == 1
    assert database.read(run_ids) == ["r"]


@pytest.mark.parametrize("many", [False, True], ids=["a row", "many rows"])
def test_a_unit_that_loses_a_key_to_another_is_run_again_and_sees_it(database: Database, many: bool) -> None:
    given = rows(TestRun, range(50 if many else 1))
    seen: list[int] = []

    def work(session: Session) -> None:
        seen.append(session.scalar(select(func.count()).select_from(TestRun)) or 0)
        if seen[-1] == 0:
            elsewhere(database, insert(TestRun).values(given[0]))
            insert_many(session, TestRun, given)

    database.write(work)
    assert seen == [0, 1]


@ON_DUCKDB  # PostgreSQL's second insert waits for the end of the first
def test_a_key_lost_as_late_as_at_the_commit_is_a_conflict_too(database: Database) -> None:
    seen: list[list[str]] = []

    def work(session: Session) -> None:
        seen.append(run_ids(session))
        if not seen[-1]:
            add_run(session)
            elsewhere(database, insert(TestRun).values(run_id="r", model_name="other"))

    database.write(work)
    assert seen == [[], ["r"]]


@ON_POSTGRESQL  # on DuckDB writers take turns, so nobody deletes the row
def test_a_unit_whose_row_was_deleted_is_run_again(database: Database) -> None:
    database.write(add_run)
    seen: list[bool] = []

    def work(session: Session) -> None:
        run = session.get(TestRun, "r")
        seen.append(run is not None)
        if run is not None:
            elsewhere(database, text("DELETE FROM test_runs"))
            run.status = "running"
            session.flush()

    database.write(work)
    assert seen == [True, False]


@ON_POSTGRESQL  # without row locks there are no deadlocks
def test_a_deadlock_ends_with_both_units_done(database: Database) -> None:
    database.write(insert_many, BatchTestRun, [{"batch_id": name, "run_count": 0} for name in "ab"])
    both_hold_one = threading.Barrier(2)
    tries: list[str] = []

    def work(session: Session, order: str) -> None:
        tries.append(order)
        for name in order:
            session.get_one(BatchTestRun, name, with_for_update=True).run_count += 1
            session.flush()
            if name == order[0] and tries.count(order) == 1:
                both_hold_one.wait(30)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(database.write, work, order) for order in ("ab", "ba")]:
            done.result(60)
    assert len(tries) == 3
    assert database.read(lambda session: session.scalars(select(BatchTestRun.run_count)).all()) == [2, 2]


def test_a_conflict_that_never_ends_is_told_after_some_tries(database: Database) -> None:
    tries: list[int] = []

    def work(session: Session) -> None:
        tries.append(1)
        session.scalars(select(TestRun)).all()
        elsewhere(database, insert(TestRun).values(run_id=f"r{len(tries)}", model_name="m"))
        add_run(session, f"r{len(tries)}")

    with pytest.raises(Conflict, match="try again"):
        database.write(work)
    assert len(tries) == ATTEMPTS


def test_a_transaction_says_the_same_of_a_conflict(database: Database) -> None:
    database.write(add_run)
    with pytest.raises(Conflict, match="try again"), database.transaction() as session:
        add_run(session)


def test_a_row_that_can_never_be_stored_is_neither_tried_again_nor_a_conflict(database: Database) -> None:
    tries: list[int] = []

    def work(session: Session) -> None:
        tries.append(1)
        # Words in the row must not make it look like a conflict.
        session.execute(
            insert(TestRunTag).values(run_id="conflict", tag_name="duplicate key", tag_value=None)
        )

    with pytest.raises(exc.IntegrityError, match=r"(?i)not.null"):
        database.write(work)
    assert len(tries) == 1


def test_a_session_serves_after_a_rolled_back_statement(database: Database) -> None:
    with pytest.raises(exc.ProgrammingError):
        database.write(lambda session: session.execute(text("SELECT nonsense")))
    with pytest.raises(exc.ProgrammingError):
        database.read(lambda session: session.execute(text("SELECT nonsense")))
    database.write(add_run)
    assert database.read(run_ids) == ["r"]


@ON_DUCKDB
def test_writers_of_a_file_take_turns_and_do_not_wait_for_ever(url: str) -> None:
    database = Database(url, write_timeout=0.05)
    with database.transaction() as session:
        with pytest.raises(Unavailable, match=r"0\.05 seconds"), ThreadPoolExecutor(1) as pool:
            pool.submit(database.write, add_run).result(30)
        assert database.read(run_ids) == []  # readers never wait
        add_run(session, "first")
    database.write(add_run, "second")
    assert database.read(run_ids) == ["first", "second"]
    database.close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/nothing")
    for use in (database.ping, lambda: database.write(run_ids), lambda: database.read(run_ids)):
        with pytest.raises(Unavailable, match="does not answer"):
            use()
    with pytest.raises(Unavailable, match="does not answer"), database.transaction() as session:
        run_ids(session)
    database.close()


def test_ping_answers(database: Database) -> None:
    database.ping()


@ON_DUCKDB
def test_closing_folds_the_log_into_the_file(url: str) -> None:
    file = embedded_file(url)
    assert file is not None
    log = file.with_name(f"{file.name}.wal")
    database = Database(url)
    database.write(add_run)
    database.read(run_ids)
    assert log.exists()
    database.close()
    assert not log.exists()
    engine = make_engine(url)
    with Session(engine) as session:
        assert run_ids(session) == ["r"]
    engine.dispose()


@ON_POSTGRESQL
def test_units_that_met_a_conflict_are_tried_again_one_after_the_other(database: Database) -> None:
    """Those that wait for each other in a circle would do so again."""
    met = threading.Barrier(THREADS, timeout=PATIENCE)
    entered, most = [0] * THREADS, 0
    inside: set[int] = set()

    def work(session: Session, number: int) -> None:
        nonlocal most
        entered[number] += 1
        add_run(session, f"{number}-{entered[number]}")
        if entered[number] == 1:
            met.wait()
            session.execute(insert(TestRun).values(run_id=f"{number}-1", model_name="m"))
        inside.add(number)
        most = max(most, len(inside))
        time.sleep(0.02)
        inside.remove(number)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda number: database.write(work, number), range(THREADS)))
    assert (entered, most) == ([2] * THREADS, 1)
    assert database.read(run_ids) == [f"{number}-2" for number in range(THREADS)]
