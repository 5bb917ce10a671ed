"""Deletion: children first, set-based, all or nothing."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Table, delete, func, literal, select, union_all
from sqlalchemy.orm import Session

from app.db.bulk import among, lock_each
from app.db.database import note_deletion
from app.db.types import utcnow
from app.models import Base, TestRun
from app.schemas.runs import Deleted
from app.services.batches import require_batch
from app.services.runs import lock_run
from app.vocabulary import number_of

TABLES: list[Table] = [table for table in reversed(Base.metadata.sorted_tables) if "run_id" in table.c]
"""The tables that hold rows of a run, children before parents."""


def delete_run(session: Session, run_id: str, *, dry_run: bool = False) -> Deleted:
    """Removes a run and all rows of it; raises NotFound. `dry_run` only counts."""
    lock_run(session, run_id)
    deleted = delete_rows(session, {table: table.c.run_id == run_id for table in TABLES}, dry_run=dry_run)
    if not dry_run:
        note_deletion(session, run_id)
    return answer(f"run {run_id!r}", deleted, dry_run=dry_run)


def delete_batch(
    session: Session, batch_id: str, *, delete_runs: bool = False, dry_run: bool = False
) -> Deleted:
    """Removes a batch, and with `delete_runs` its runs, also those that are in other batches too."""
    require_batch(session, batch_id)
    links, batches = Base.metadata.tables["test_run_batch"], Base.metadata.tables["batch_test_runs"]
    which = {links: links.c.batch_id == batch_id}
    members = select(links.c.run_id).where(which[links])
    if delete_runs and not dry_run:
        # Runs before their batches, as those do who store them.
        lock_each(session, TestRun.run_id, session.scalars(members).all())
    require_batch(session, batch_id, for_update=True)
    if delete_runs:
        ids = session.scalars(members).all()
        which = {table: among(table.c.run_id, ids) for table in TABLES}
        if not dry_run:
            note_deletion(session, *ids)
    which[batches] = batches.c.batch_id == batch_id
    return answer(f"batch {batch_id!r}", delete_rows(session, which, dry_run=dry_run), dry_run=dry_run)


def delete_rows(
    session: Session, which: dict[Table, ColumnElement[bool]], *, dry_run: bool
) -> dict[str, int]:
    """How many rows of each table went, or would go. Counted first: not every driver tells how many were
    deleted."""
    counts = union_all(
        *(
            select(literal(place).label("place"), func.count()).select_from(table).where(condition)
            for place, (table, condition) in enumerate(which.items())
        )
    )
    tables = list(which)
    deleted = {tables[place].name: count for place, count in sorted(map(tuple, session.execute(counts)))}
    if not dry_run:
        for table, condition in which.items():
            if deleted[table.name]:
                session.execute(delete(table).where(condition))
    return deleted


def answer(what: str, deleted: dict[str, int], *, dry_run: bool) -> Deleted:
    """The answer to a deletion of `what`, by the rows of each table."""
    rows = number_of(sum(deleted.values()), "row")
    verb = "Would delete" if dry_run else "Deleted"
    return Deleted(message=f"{verb} {what}: {rows}.", timestamp=utcnow(), deleted=deleted)
