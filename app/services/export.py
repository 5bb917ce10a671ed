"""The export file: one JSON object with every run and batch, written with flat memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic_core import to_json
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db.types import utcnow
from app.models import BatchTestRun, TestRun
from app.schemas.batches import BatchQuery
from app.services.batches import list_batches
from app.services.export_text import (
    Part,
    artifact_texts,
    batch_texts,
    parts,
    result_texts,
    run_texts,
    series_in_pieces,
    series_texts,
    step_texts,
    summary_texts,
    tag_texts,
)
from app.services.paging import newest_first

FORMAT = "test-suite-db"
VERSION = 1
PAGE = 50_000
"""Runs whose ids are held at a time."""
BATCHES = 1000
"""Batches that are held at a time."""


KEYS: tuple[Any, ...] = (TestRun.run_id, TestRun.started_at)


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
    cursor, separator = None, "\n"
    while True:
        keys: Select[Any] = select(*KEYS)
        page, cursor = newest_first(
            session, keys, TestRun.started_at, TestRun.run_id, cursor=cursor, limit=PAGE
        )
        for part in parts(session, [run.run_id for run in page]):
            for piece in _part(session, part, with_metrics=with_metrics, with_batches=with_batches):
                yield (separator + piece).encode()
                separator = ""
            separator = ",\n"
            progress.runs += len(part.run_ids)
        if cursor is None:
            return


def _part(session: Session, part: Part, *, with_metrics: bool, with_batches: bool) -> Iterator[str]:
    """The runs of the part, with commas between them."""
    runs, results = run_texts(session, part), result_texts(session, part)
    steps, artifacts, tags = (
        step_texts(session, part),
        artifact_texts(session, part),
        tag_texts(session, part),
    )
    batches = batch_texts(session, part) if with_batches else {}
    summaries = summary_texts(session, part) if with_metrics else {}
    series = series_texts(session, part) if with_metrics and not part.too_long else {}
    separator = ""
    for run_id in part.run_ids:
        batch_ids = batches.get(run_id, "")
        yield (
            f'{separator}{{{runs[run_id]},"results":{results.get(run_id, "null")},'
            f'"steps":[{steps.get(run_id, "")}],"metrics":{{{summaries.get(run_id, "")}}},'
            f'"tags":{{{tags.get(run_id, "")}}},"artifacts":[{artifacts.get(run_id, "")}],'
            f'"batch_id":{batch_ids.partition(",")[0] or "null"},"batch_ids":[{batch_ids}],'
            f'"metric_series":[{series.get(run_id, "")}'
        )
        if with_metrics and part.too_long:
            yield from series_in_pieces(session, part)
        yield "]}"
        separator = ",\n"


def _batches(session: Session, progress: Progress) -> Generator[bytes]:
    cursor, separator = None, b"\n"
    while True:
        page = list_batches(session, BatchQuery(limit=BATCHES, cursor=cursor))
        for batch in page.items:
            yield separator + batch.model_dump_json().encode()
            separator = b",\n"
            progress.batches += 1
        cursor = page.next_cursor
        if cursor is None:
            return
