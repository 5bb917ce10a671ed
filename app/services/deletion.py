"""Deletion: children first, set-based, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Table, delete, func, select
from sqlalchemy.orm import Session

from app.db.bulk import among
from app.db.database import note_change
from app.db.types import utcnow
from app.models import Base, BatchTestRun, TestRunBatch
from app.schemas.runs import Deleted
from app.services.batches import require_batch
from app.services.runs import require_run

TABLES: list[Table] = [table for table in reversed(Base.metadata.sorted_tables) if "run_id" in table.c]
"""The tables that hold rows of a run, children before parents."""


def delete_run(session: Session, run_id: str, *, dry_run: bool = False) -> Deleted:
    """Removes a run and everything of it; raises NotFound. `dry_run` only counts."""
    require_run(session, run_id, for_update=True)
    deleted = _delete_runs(session, [run_id], dry_run=dry_run)
    return _answer(f"run {run_id!r}", deleted, dry_run=dry_run)


def delete_batch(
    session: Session, batch_id: str, *, delete_runs: bool = False, dry_run: bool = False
) -> Deleted:
    """Removes a batch, and with `delete_runs` its runs, also those that are in other batches too."""
    require_batch(session, batch_id, for_update=True)
    deleted: dict[str, int] = {}
    if delete_runs:
        ids = session.scalars(select(TestRunBatch.run_id).where(TestRunBatch.batch_id == batch_id)).all()
        deleted = _delete_runs(session, ids, dry_run=dry_run)
    else:
        links = Base.metadata.tables[TestRunBatch.__tablename__]
        deleted[links.name] = _delete(session, links, links.c.batch_id == batch_id, dry_run=dry_run)
    batches = Base.metadata.tables[BatchTestRun.__tablename__]
    deleted[batches.name] = _delete(session, batches, batches.c.batch_id == batch_id, dry_run=dry_run)
    return _answer(f"batch {batch_id!r}", deleted, dry_run=dry_run)


def _delete_runs(session: Session, run_ids: Sequence[str], *, dry_run: bool) -> dict[str, int]:
    if not dry_run:
        note_change(session, *run_ids)
    return {
        table.name: _delete(session, table, among(table.c.run_id, run_ids), dry_run=dry_run)
        for table in TABLES
    }


def _delete(session: Session, table: Table, condition: ColumnElement[bool], *, dry_run: bool) -> int:
    """How many rows went, or would go. Counted first: not every driver tells how many were deleted."""
    count = session.scalar(select(func.count()).select_from(table).where(condition)) or 0
    if count and not dry_run:
        session.execute(delete(table).where(condition))
    return count


def _answer(what: str, deleted: dict[str, int], *, dry_run: bool) -> Deleted:
    rows = sum(deleted.values())
    verb = "Would delete" if dry_run else "Deleted"
    return Deleted(
        message=f"{verb} {what}: {rows} row{'' if rows == 1 else 's'}.", timestamp=utcnow(), deleted=deleted
    )
