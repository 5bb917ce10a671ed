"""Results stay whole while other statements run on the same connection."""

from __future__ import annotations

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.db import Database
from app.models import TestRun, TestRunTag
from tests.factories import fill


def test_a_result_outlives_the_next_statement(database: Database) -> None:
    with database.engine.begin() as connection:
        fill(connection, 6)
        expected = connection.execute(text("SELECT run_id FROM test_runs ORDER BY run_id")).scalars().all()
        for statement in (text("SELECT run_id FROM test_runs ORDER BY run_id"), select(TestRun.run_id)):
            pending = connection.execute(statement)
            assert connection.execute(text("SELECT 1")).scalar() == 1
            assert sorted(pending.scalars()) == sorted(expected)
        changed = connection.execute(
            TestRun.__table__.update().values(creator="x").returning(TestRun.run_id)  # type: ignore[attr-defined]
        )
        assert connection.execute(text("SELECT 1")).scalar() == 1
        assert sorted(changed.scalars()) == sorted(expected)


def test_statements_between_the_rows_of_a_result(database: Database) -> None:
    with database.engine.begin() as connection:
        fill(connection, 6)

    def nested(session: Session) -> dict[str, int]:
        rows = session.execute(select(TestRun.run_id))
        tags = select(TestRunTag.tag_name)
        return {
            row.run_id: len(session.scalars(tags.where(TestRunTag.run_id == row.run_id)).all())
            for row in rows
        }

    found = database.read(nested)
    assert len(found) == 6
    assert set(found.values()) == {1}
