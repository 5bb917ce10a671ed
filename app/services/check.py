"""Finding broken rows: what the keys and the vocabulary promise, but a script could have violated.

Times are not compared: they are the clients', whose clocks may disagree.
"""

from __future__ import annotations

from sqlalchemy import Select, Table, Text, cast, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.models import Base, BatchTestRun, TestRun, TestRunBatch, TestRunMetric, TestRunStep
from app.schemas.check import Finding
from app.vocabulary import BatchStatus, RunStatus, StepStatus

EXAMPLES = 5


def find_broken(session: Session) -> list[Finding]:
    """Every kind of broken row that there is, with examples; an empty list is good news.

    Each value of each table is read, so that a damaged file is noticed: it raises.
    """
    for table in Base.metadata.sorted_tables:
        session.execute(select(*(func.sum(func.length(cast(column, Text))) for column in table.c)))
    findings = [
        *(_orphans(session, table) for table in Base.metadata.sorted_tables if _is_child(table)),
        _find(
            session,
            "test_run_batch",
            "membership in a batch that does not exist",
            select(TestRunBatch.batch_id).where(
                ~exists().where(BatchTestRun.batch_id == TestRunBatch.batch_id)
            ),
        ),
        _find(
            session,
            "test_run_metrics",
            "two points with the same id",
            select(TestRunMetric.run_id)
            .group_by(TestRunMetric.run_id, TestRunMetric.id)
            .having(func.count() > 1),
        ),
        _unknown_status(session, "test_runs", TestRun.run_id, TestRun.status, RunStatus),
        _unknown_status(session, "test_run_steps", TestRunStep.run_id, TestRunStep.status, StepStatus),
        _unknown_status(session, "batch_test_runs", BatchTestRun.batch_id, BatchTestRun.status, BatchStatus),
        _find(
            session,
            "test_runs",
            "progress outside 0 to 1",
            select(TestRun.run_id).where(~TestRun.progress.between(0, 1)),
        ),
    ]
    return [finding for finding in findings if finding is not None]


def _is_child(table: Table) -> bool:
    return "run_id" in table.c and table is not TestRun.__table__


def _orphans(session: Session, table: Table) -> Finding | None:
    orphans = select(table.c.run_id).where(~exists().where(TestRun.run_id == table.c.run_id))
    return _find(session, table.name, "belongs to a run that does not exist", orphans)


def _unknown_status(
    session: Session,
    table: str,
    key: InstrumentedAttribute[str],
    status: InstrumentedAttribute[str],
    known: type[RunStatus] | type[StepStatus] | type[BatchStatus],
) -> Finding | None:
    return _find(
        session, table, "status that is not in the vocabulary", select(key).where(status.not_in(list(known)))
    )


def _find(session: Session, table: str, problem: str, keys: Select[str]) -> Finding | None:
    rows = keys.subquery()
    count = session.scalar(select(func.count()).select_from(rows)) or 0
    if not count:
        return None
    key = next(iter(rows.c))
    examples = session.scalars(select(key).distinct().order_by(key).limit(EXAMPLES)).all()
    return Finding(table=table, problem=problem, rows=count, examples=list(examples))
