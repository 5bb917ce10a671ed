"""Pruning: runs that ended long ago go, in portions, between which other writers get their turn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, Table, delete, func, select
from sqlalchemy.orm import Session

from app.db.bulk import among, lock_each
from app.db.database import Database, note_deletion
from app.db.types import utcnow
from app.models import BatchTestRun, TestRun, TestRunBatch
from app.schemas.common import duration
from app.schemas.retention import PruneRequest
from app.schemas.runs import Deleted
from app.services.deletion import TABLES, answer, delete_rows
from app.services.runs import has_tag
from app.vocabulary import TERMINAL, BatchStatus, number_of

PORTION = 500
"""Runs that go in one transaction."""
LONGEST_BREATH = 1.0  # seconds

Breathe = Callable[[float, Mapping[str, int]], object]
"""Called between two portions with the seconds to wait, and the rows by table that are gone so far."""

_RUNS = TestRun.__tablename__
_BATCHES = BatchTestRun.__tablename__
_ENDED = [status for status in BatchStatus if status.terminal]


@dataclass(frozen=True)
class Expired:
    """The runs that go: those that ended, started before the time, and have none of the tags."""

    before: datetime
    keep_tags: Sequence[str]

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        kept = [~has_tag(tag) for tag in self.keep_tags]
        return [TestRun.status.in_(sorted(TERMINAL)), TestRun.started_at < self.before, *kept]


def _sleep(seconds: float, _deleted: Mapping[str, int]) -> None:
    time.sleep(seconds)


def prune(database: Database, request: PruneRequest, breathe: Breathe = _sleep) -> Deleted:
    """Deletes the runs, and the batches that are empty by it, or with `dry_run` only counts.

    Each portion is a transaction. What is gone stays gone when `breathe` raises. Raises Unavailable.
    """
    expired = Expired(utcnow() - duration(request.older_than), request.keep_tags)
    if request.dry_run:
        deleted = database.read(count_expired, expired)
    else:
        deleted = _in_portions(database, expired, breathe)
    what = f"{number_of(deleted[_RUNS], 'run')} older than {request.older_than}"
    return answer(what, deleted, dry_run=request.dry_run)


def _in_portions(database: Database, expired: Expired, breathe: Breathe) -> dict[str, int]:
    deleted: Counter[str] = Counter()
    since: datetime | None = None
    while True:
        start = time.monotonic()
        portion, since = database.write(prune_portion, expired, since)
        deleted.update(portion)
        if since is None:
            return dict(deleted)
        # As long as it took: half of the time belongs to others.
        breathe(min(time.monotonic() - start, LONGEST_BREATH), deleted)


def prune_portion(
    session: Session, expired: Expired, since: datetime | None
) -> tuple[dict[str, int], datetime | None]:
    """Deletes some of the runs, the oldest first, none that started before `since`.

    Returns the rows that went, by table, and since when to look for more; None when there are none.
    """
    later = [] if since is None else [TestRun.started_at >= since]
    found = session.execute(
        select(TestRun.run_id, TestRun.started_at)
        .where(*expired.conditions, *later)
        .order_by(TestRun.started_at)
        .limit(PORTION)
    ).all()
    ids = [run.run_id for run in found]
    lock_each(session, TestRun.run_id, ids)
    # Before they were locked, one may have been tagged, or begun anew.
    ids = list(session.scalars(select(TestRun.run_id).where(among(TestRun.run_id, ids), *expired.conditions)))
    note_deletion(session, *ids)
    links = select(TestRunBatch.batch_id).where(among(TestRunBatch.run_id, ids)).distinct()
    batch_ids = session.scalars(links).all()
    deleted = delete_rows(session, {table: among(table.c.run_id, ids) for table in TABLES}, dry_run=False)
    deleted[_BATCHES] = _delete_empty(session, batch_ids, expired)
    return deleted, found[-1].started_at if len(found) == PORTION else None


def _delete_empty(session: Session, batch_ids: Sequence[str], expired: Expired) -> int:
    """How many of the batches went: those that ended, began before the time, and have no runs."""
    locked = _old(batch_ids, expired).order_by(BatchTestRun.batch_id).with_for_update()
    old = session.scalars(locked).all()
    links = select(TestRunBatch.batch_id).where(among(TestRunBatch.batch_id, old)).distinct()
    empty = list(set(old) - set(session.scalars(links)))
    session.execute(delete(BatchTestRun).where(among(BatchTestRun.batch_id, empty)))
    return len(empty)


def count_expired(session: Session, expired: Expired) -> dict[str, int]:
    """The rows, by table, that would go."""
    runs = select(TestRun.run_id).where(*expired.conditions)
    which: dict[Table, ColumnElement[bool]] = {table: table.c.run_id.in_(runs) for table in TABLES}
    deleted = delete_rows(session, which, dry_run=True)
    counts = select(TestRunBatch.batch_id, func.count()).group_by(TestRunBatch.batch_id)
    losing = dict(session.execute(counts.where(TestRunBatch.run_id.in_(runs))).all())
    having = session.execute(counts.where(among(TestRunBatch.batch_id, list(losing))))
    empty = [batch for batch, count in having if count == losing[batch]]
    deleted[_BATCHES] = len(session.scalars(_old(empty, expired)).all())
    return deleted


def _old(batch_ids: Sequence[str], expired: Expired) -> Select[str]:
    return select(BatchTestRun.batch_id).where(
        among(BatchTestRun.batch_id, batch_ids),
        BatchTestRun.started_at < expired.before,
        BatchTestRun.status.in_(_ENDED),
    )
