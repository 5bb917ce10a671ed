"""The export file: one JSON object with every run and batch, written with flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic_core import to_json
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db.types import utcnow
from app.models import BatchTestRun, TestRun
from app.schemas.batches import BatchQuery
from app.services.batches import list_batches
from app.services.export_text import MEMBERS, SERIES, STEPS, Part, in_pieces, parts, run_texts
from app.services.paging import newest_first

FORMAT = "test-suite-db"
VERSION = 1
PAGE = 20_000
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
    for piece in _pieces(session, progress, include_runs, include_metrics, include_batches):
        progress.bytes += stream.write(piece)
        report(progress)
    return progress


def _pieces(
    session: Session, progress: Progress, runs: bool, metrics: bool, batches: bool
) -> Iterator[bytes]:
    yield b',\n"runs": ['
    if runs:
        yield from _runs(session, progress, with_metrics=metrics, with_batches=batches)
    yield b'],\n"batches": ['
    if batches:
        yield from _batches(session, progress)
    yield b"]\n}\n"


def _runs(session: Session, progress: Progress, *, with_metrics: bool, with_batches: bool) -> Iterator[bytes]:
    left_out = set() if with_metrics else {"metrics", SERIES}
    left_out |= set() if with_batches else {"batch_ids"}
    members = [name for name in MEMBERS if name not in left_out]
    cursor, separator = None, "\n"
    while True:
        keys: Select[Any] = select(*KEYS)
        page, cursor = newest_first(
            session, keys, TestRun.started_at, TestRun.run_id, cursor=cursor, limit=PAGE
        )
        for part in parts(session, [run.run_id for run in page]):
            for text in _part(session, part, members):
                yield (separator + text).encode()
                separator = ""
            separator = ",\n"
            progress.runs += len(part.run_ids)
        if cursor is None:
            return


def _part(session: Session, part: Part, members: list[str]) -> Iterator[str]:
    """The runs of the part with commas between them; one that is too long comes in pieces."""
    separator = ""
    if part.too_long:
        short = [name for name in members if name not in (STEPS, SERIES)]
        for text, _steps, _series in run_texts(session, part, short):
            yield f'{{{text},"steps":['
            yield from in_pieces(session, part, STEPS)
            yield '],"metric_series":['
            if SERIES in members:
                yield from in_pieces(session, part, SERIES)
            yield "]}"
        return
    for text, steps, series in run_texts(session, part, members):
        yield f'{separator}{{{text},"steps":[{steps}],"metric_series":[{series}]}}'
        separator = ",\n"


def _batches(session: Session, progress: Progress) -> Iterator[bytes]:
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
