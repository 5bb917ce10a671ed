"""The export file: one JSON object with every run and batch, written with flat memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic_core import to_json
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.bulk import among
from app.db.types import utcnow
from app.models import BatchTestRun, TestRun, TestRunMetric, TestRunResult, TestRunStep
from app.schemas.batches import BatchQuery
from app.schemas.runs import RunDetail
from app.services.batches import list_batches
from app.services.paging import newest_first
from app.services.runs import COLUMNS, details, metric_point

FORMAT = "test-suite-db"
VERSION = 1
PAGE = 100
HEAVY = 10_000
"""Steps and tests of the runs that are held at a time."""
STREAMED = 5000
"""Metric rows fetched at a time."""


@dataclass
class Progress:
    """How far an export is, and how far it has to go."""

    runs: int = 0
    batches: int = 0
    bytes: int = 0
    total: int = 0


def write_export(
    session: Session,
    stream: BinaryIO,
    *,
    include_runs: bool = True,
    include_metrics: bool = True,
    include_batches: bool = True,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Writes the file; `report` is called after each page. The session sees one moment of the database."""
    progress = Progress()
    if include_runs:
        progress.total += session.scalar(select(func.count()).select_from(TestRun)) or 0
    if include_batches:
        progress.total += session.scalar(select(func.count()).select_from(BatchTestRun)) or 0
    head = {"format": FORMAT, "version": VERSION, "exported_at": utcnow()}
    progress.bytes += stream.write(to_json(head)[:-1])
    with closing(_pieces(session, progress, include_runs, include_metrics, include_batches)) as pieces:
        for piece in pieces:
            progress.bytes += stream.write(piece)
            report(progress)
    return progress


def _pieces(
    session: Session, progress: Progress, runs: bool, metrics: bool, batches: bool
) -> Generator[bytes]:
    yield b',\n"runs": ['
    if runs:
        yield from _runs(session, progress, with_metrics=metrics, with_batches=batches)
    yield b'],\n"batches": ['
    if batches:
        yield from _batches(session, progress)
    yield b"]\n}\n"


def _runs(
    session: Session, progress: Progress, *, with_metrics: bool, with_batches: bool
) -> Generator[bytes]:
    cursor, separator = None, b"\n"
    while True:
        page, cursor = newest_first(
            session, select(*COLUMNS), TestRun.started_at, TestRun.run_id, cursor=cursor, limit=PAGE
        )
        for part in _parts(session, page):
            found = details(session, part)
            # Closed also when the export is given up: a cursor of the server would stay open.
            with closing(_series(session, [run.run_id for run in part] if with_metrics else [])) as points:
                point = next(points, None)
                for run in found:
                    if not with_batches:
                        run.batch_id, run.batch_ids = None, []
                    yield separator + _without_series(run, keep_metrics=with_metrics)
                    comma = b""
                    while point is not None and point.run_id == run.run_id:
                        yield comma + metric_point(point).model_dump_json().encode()
                        comma, point = b",", next(points, None)
                    yield b"]}"
                    separator = b",\n"
                    progress.runs += 1
        if cursor is None:
            return


def _parts(session: Session, page: Sequence[Any]) -> Iterator[list[Any]]:
    """The runs of a page, so many at a time as fit into memory: one may have a hundred thousand tests."""
    ids = [run.run_id for run in page]
    steps, results = TestRunStep.__table__.c, TestRunResult.__table__.c
    weights: Counter[str] = Counter(
        dict(
            session.execute(
                select(steps.run_id, func.count()).where(among(steps.run_id, ids)).group_by(steps.run_id)
            ).all()
        )
    )
    tests = select(results.run_id, results.tests_passed, results.tests_failed, results.tests_skipped)
    for run_id, *numbers in session.execute(tests.where(among(results.run_id, ids))):
        weights[run_id] += sum(numbers)
    part: list[Any] = []
    weight = 0
    for run in page:
        part.append(run)
        weight += weights[run.run_id]
        if weight >= HEAVY:
            yield part
            part, weight = [], 0
    if part:
        yield part


def _without_series(run: RunDetail, *, keep_metrics: bool) -> bytes:
    if not keep_metrics:
        run.metrics = {}
    return run.model_dump_json().encode()[:-1] + b',"metric_series":['


def _series(session: Session, run_ids: list[str]) -> Generator[Any]:
    """The points of all runs of a page, in the page's order, without holding them all."""
    if not run_ids:
        return
    table = TestRunMetric.__table__.c
    points = (
        select(table.run_id, table.metric_name, table.metric_value, table.metric_unit, table.timestamp)
        .join(TestRun, TestRun.run_id == table.run_id)
        .where(among(table.run_id, run_ids))
        .order_by(TestRun.started_at.desc(), table.run_id, table.id)
        .execution_options(yield_per=STREAMED)
    )
    with session.execute(points) as rows:
        yield from rows


def _batches(session: Session, progress: Progress) -> Generator[bytes]:
    cursor, separator = None, b"\n"
    while True:
        page = list_batches(session, BatchQuery(limit=PAGE, cursor=cursor))
        for batch in page.items:
            yield separator + batch.model_dump_json().encode()
            separator = b",\n"
            progress.batches += 1
        cursor = page.next_cursor
        if cursor is None:
            return
