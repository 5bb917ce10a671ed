"""Batches: reading, membership, and the status that follows from the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.orm import Session

from app.db.bulk import among, insert_many
from app.db.functions import count_if
from app.db.types import utcnow
from app.errors import Conflict, NotFound
from app.models import BatchTestRun, TestRun, TestRunBatch, TestRunResult, new_id
from app.schemas.batches import BatchDetail, BatchQuery, BatchRun, BatchSummary
from app.schemas.common import build, is_id
from app.schemas.documents import BatchDocument
from app.services.paging import Page, newest_first
from app.services.runs import fields
from app.vocabulary import FAILED, TERMINAL, BatchStatus, RunStatus

_COLUMNS = [column.key for column in BatchTestRun.__table__.columns]
_MADE = "made_batches"
"""In a session's info: the batches that its unit of work has made, whose runs may come in portions."""
_SUMS = [name for name in BatchSummary.model_fields if name not in _COLUMNS]


def require_batch(session: Session, batch_id: str, *, for_update: bool = False) -> BatchTestRun:
    """The batch; raises NotFound."""
    batch = (
        session.get(BatchTestRun, batch_id, with_for_update=for_update or None) if is_id(batch_id) else None
    )
    if batch is None:
        raise NotFound(f"There is no batch {batch_id!r}.")
    return batch


def list_batches(session: Session, query: BatchQuery) -> Page[BatchSummary]:
    """One page of batches, newest first."""
    where = []
    if query.status is not None:
        where.append(BatchTestRun.status == query.status)
    if query.since is not None:
        where.append(BatchTestRun.started_at >= query.since)
    if query.until is not None:
        where.append(BatchTestRun.started_at < query.until)
    batches, next_cursor = newest_first(
        session,
        select(*BatchTestRun.__table__.columns).where(*where),
        BatchTestRun.started_at,
        BatchTestRun.batch_id,
        cursor=query.cursor,
        limit=query.limit,
    )
    total = None
    if query.count:
        total = session.scalar(select(func.count()).select_from(BatchTestRun).where(*where))
    return Page(summarize(session, batches), next_cursor, total)


def summarize(session: Session, batches: Sequence[Any]) -> list[BatchSummary]:
    """The batches with the sums over their runs."""
    sums = _sums(session, [batch.batch_id for batch in batches])
    return [build(BatchSummary, **_columns(batch), **sums[batch.batch_id]) for batch in batches]


def get_batch(session: Session, batch_id: str) -> BatchDetail:
    """A batch with its runs, newest first; raises NotFound."""
    batch = require_batch(session, batch_id)
    runs = session.execute(
        select(
            *(getattr(TestRun, name) for name in BatchRun.model_fields if hasattr(TestRun, name)),
            func.coalesce(TestRunResult.tests_passed, 0).label("tests_passed"),
            func.coalesce(TestRunResult.tests_failed, 0).label("tests_failed"),
            func.coalesce(TestRunResult.tests_skipped, 0).label("tests_skipped"),
        )
        .join(TestRunBatch, TestRunBatch.run_id == TestRun.run_id)
        .outerjoin(TestRunResult, TestRunResult.run_id == TestRun.run_id)
        .where(TestRunBatch.batch_id == batch_id)
        .order_by(TestRun.started_at.desc(), TestRun.run_id)
    )
    return build(
        BatchDetail,
        **_columns(batch),
        **_sums(session, [batch_id])[batch_id],
        runs=[build(BatchRun, **fields(run, BatchRun)) for run in runs],
    )


def create_batch(session: Session, document: BatchDocument) -> BatchDetail:
    """Stores a batch and links its runs; raises Conflict for a known id, NotFound for an unknown run."""
    batch_id = document.batch_id or new_id()
    if session.get(BatchTestRun, batch_id) is not None:
        raise Conflict(f"A batch {batch_id!r} exists already; choose another id.")
    session.add(BatchTestRun(batch_id=batch_id, description=document.description, creator=document.creator))
    session.flush()
    if document.run_ids:
        return add_runs(session, batch_id, document.run_ids)
    return get_batch(session, batch_id)


def add_runs(session: Session, batch_id: str, run_ids: Sequence[str]) -> BatchDetail:
    """Links runs to a batch; a run already in it stays once. Raises NotFound and links nothing."""
    batch = require_batch(session, batch_id, for_update=True)
    wanted = list(dict.fromkeys(run_ids))
    found = set(session.scalars(select(TestRun.run_id).where(among(TestRun.run_id, wanted))))
    unknown = [run_id for run_id in wanted if run_id not in found]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise NotFound(f"There is no run {unknown[0]!r}{more}; nothing was linked.")
    link(session, [Link(run_id, batch_id) for run_id in wanted])
    session.refresh(batch)
    return get_batch(session, batch_id)


def complete_batch(session: Session, batch_id: str) -> BatchDetail:
    """Derives status, completed_at and duration from the runs as they are now; raises NotFound."""
    derive_status(session, require_batch(session, batch_id, for_update=True))
    return get_batch(session, batch_id)


def runs_ended(session: Session, run_ids: Sequence[str]) -> None:
    """Keeps the batches of runs true after these ended: those with no live run left are over."""
    batch_ids = sorted({batch_id for _run_id, batch_id in existing_links(session, run_ids)})
    batches = session.scalars(
        select(BatchTestRun)
        .where(among(BatchTestRun.batch_id, batch_ids))
        .order_by(BatchTestRun.batch_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    for batch in batches.all():
        derive_status(session, batch)


def derive_status(session: Session, batch: BatchTestRun) -> None:
    """Sets the status that the runs amount to, and the end of the last of them."""
    statuses: dict[str, int] = {}
    last: datetime | None = None
    rows = session.execute(
        select(TestRun.status, func.count(), func.max(TestRun.completed_at))
        .join(TestRunBatch, TestRunBatch.run_id == TestRun.run_id)
        .where(TestRunBatch.batch_id == batch.batch_id)
        .group_by(TestRun.status)
    )
    for status, count, completed_at in rows:
        statuses[status] = count
        last = max(filter(None, (last, completed_at)), default=None)
    batch.status = status_of(statuses)
    if BatchStatus(batch.status).terminal:
        batch.completed_at = max(last or batch.completed_at or utcnow(), batch.started_at)
        batch.duration = (batch.completed_at - batch.started_at).total_seconds()
    else:
        batch.completed_at = batch.duration = None
    session.flush()


def status_of(statuses: Mapping[str, int]) -> BatchStatus:
    """The status of a batch from how many of its runs have which status."""
    if not statuses:
        return BatchStatus.ERROR
    if set(statuses) - TERMINAL:
        return BatchStatus.RUNNING
    if set(statuses) == {RunStatus.CANCELLED}:
        return BatchStatus.CANCELLED
    if set(statuses) == {RunStatus.COMPLETED}:
        return BatchStatus.COMPLETED
    return BatchStatus.PARTIAL if RunStatus.COMPLETED in statuses else BatchStatus.ERROR


@dataclass(frozen=True)
class Link:
    """A run's wish to be in a batch; the batch is made, started at that time, when it does not exist."""

    run_id: str
    batch_id: str
    started_at: datetime | None = None


def link(session: Session, links: Collection[Link]) -> None:
    """Stores the memberships that are not there yet; `run_count` grows by the new ones."""
    if not links:
        return
    _make_missing(session, links)
    known = existing_links(session, sorted({item.run_id for item in links}))
    new = {(item.run_id, item.batch_id) for item in links} - known
    insert_many(session, TestRunBatch, [{"run_id": run, "batch_id": batch} for run, batch in sorted(new)])
    for batch_id, count in sorted(Counter(batch for _run, batch in new).items()):
        session.execute(
            update(BatchTestRun)
            .where(BatchTestRun.batch_id == batch_id)
            .values(run_count=BatchTestRun.run_count + count)
        )
        batch = session.get_one(BatchTestRun, batch_id, populate_existing=True)
        if batch.status == BatchStatus.INITIALIZING:
            batch.status = BatchStatus.RUNNING
        elif batch.status != BatchStatus.RUNNING:
            derive_status(session, batch)
    session.flush()


def unlink(session: Session, pairs: Collection[tuple[str, str]]) -> None:
    """Removes memberships, given as (run_id, batch_id); `run_count` shrinks with them."""
    if not pairs:
        return
    session.execute(delete(TestRunBatch).where(tuple_(TestRunBatch.run_id, TestRunBatch.batch_id).in_(pairs)))
    for batch_id, count in sorted(Counter(batch for _run, batch in pairs).items()):
        session.execute(
            update(BatchTestRun)
            .where(BatchTestRun.batch_id == batch_id)
            .values(run_count=BatchTestRun.run_count - count)
        )


def count_members(session: Session, batch_ids: Sequence[str]) -> dict[str, int]:
    """How many runs are in each of the batches that have any."""
    counted = (
        select(TestRunBatch.batch_id, func.count())
        .where(among(TestRunBatch.batch_id, batch_ids))
        .group_by(TestRunBatch.batch_id)
    )
    return dict(session.execute(counted).all())


def existing_links(session: Session, run_ids: Sequence[str]) -> set[tuple[str, str]]:
    """The (run_id, batch_id) pairs of the runs."""
    rows = session.execute(
        select(TestRunBatch.run_id, TestRunBatch.batch_id).where(among(TestRunBatch.run_id, run_ids))
    )
    return {(run_id, batch_id) for run_id, batch_id in rows}


def _make_missing(session: Session, links: Collection[Link]) -> None:
    starts: dict[str, datetime] = {}
    for item in links:
        start = item.started_at or utcnow()
        starts[item.batch_id] = min(starts.get(item.batch_id, start), start)
    ids = sorted(starts)
    known = set(session.scalars(select(BatchTestRun.batch_id).where(among(BatchTestRun.batch_id, ids))))
    missing = set(ids) - known
    session.add_all(
        BatchTestRun(batch_id=batch_id, started_at=starts[batch_id]) for batch_id in sorted(missing)
    )
    session.flush()
    made: set[str] = session.info.setdefault(_MADE, set())
    for batch_id in sorted(known & made):
        earlier = BatchTestRun.started_at > starts[batch_id]
        session.execute(
            update(BatchTestRun)
            .where(BatchTestRun.batch_id == batch_id, earlier)
            .values(started_at=starts[batch_id])
        )
    made |= missing


def _columns(batch: Any) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in _COLUMNS}


def _sums(session: Session, batch_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    rows = session.execute(
        select(
            TestRunBatch.batch_id,
            func.count().label("actual_run_count"),
            count_if(TestRun.status == RunStatus.COMPLETED).label("completed_runs"),
            count_if(TestRun.status.in_(FAILED)).label("failed_runs"),
            count_if(TestRun.status == RunStatus.CANCELLED).label("cancelled_runs"),
            func.coalesce(func.sum(TestRunResult.tests_passed), 0).label("total_tests_passed"),
            func.coalesce(func.sum(TestRunResult.tests_failed), 0).label("total_tests_failed"),
            func.coalesce(func.sum(TestRunResult.tests_skipped), 0).label("total_tests_skipped"),
        )
        .join(TestRun, TestRun.run_id == TestRunBatch.run_id)
        .outerjoin(TestRunResult, TestRunResult.run_id == TestRun.run_id)
        .where(among(TestRunBatch.batch_id, batch_ids))
        .group_by(TestRunBatch.batch_id)
    )
    found = {row.batch_id: {name: int(getattr(row, name)) for name in row._fields[1:]} for row in rows}
    none = dict.fromkeys(_SUMS, 0)
    return {batch_id: found.get(batch_id, none) for batch_id in batch_ids}
