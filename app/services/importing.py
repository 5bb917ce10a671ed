"""Imports: an export file, JUnit XML or a spool becomes runs, in the session's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session

from app.db.bulk import upsert_many
from app.db.types import utcnow
from app.errors import Invalid
from app.models import BatchTestRun, new_id
from app.schemas.documents import BatchRecord, RunRecord
from app.schemas.transfer import Imported, ImportOptions
from app.schemas.validation import invalid
from app.services import json_stream
from app.services.batches import count_members, runs_ended
from app.services.documents import chunks, store_runs
from app.services.export import FORMAT, VERSION
from app.services.junit import parse as parse_junit
from app.services.spool import SPOOL, Report, import_spool, unused
from app.vocabulary import SERVER, TERMINAL, RunStatus, StepStatus, number_of

LEFT = "not over when it was exported"

Record = TypeVar("Record", bound=BaseModel)


def import_file(
    session: Session, stream: BinaryIO, options: ImportOptions, report: Report = lambda position: None
) -> Imported:
    """Stores what a seekable file holds; raises Invalid, naming the place, for anything it cannot be."""
    stream.seek(0)
    start = stream.read(4096).lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")
    if SPOOL.match(start):
        return import_spool(session, stream, options, report)
    if start.startswith(b"{"):
        return _import_export(session, stream, options, report)
    if start.startswith(b"<"):
        return _import_junit(session, stream, options)
    raise Invalid.of("body", "is neither JUnit XML nor an export or spool file of this product")


def _import_junit(session: Session, stream: BinaryIO, options: ImportOptions) -> Imported:
    stream.seek(0)
    digest = hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()
    stream.seek(0)
    try:
        parsed = parse_junit(stream, options, digest=digest, now=utcnow())
    except ValidationError as error:
        raise invalid(error) from error
    stored = store_runs(session, parsed.runs)
    return Imported(format="junit", runs=stored.runs, warnings=parsed.warnings)


def _import_export(session: Session, stream: BinaryIO, options: ImportOptions, report: Report) -> Imported:
    _check_header(stream)
    left: set[str] = set()
    stored = store_runs(session, _run_records(stream, options, report, left))
    for records in chunks(_records(stream, "batches", BatchRecord), 500):
        members = count_members(session, [record.batch_id for record in records])
        rows = [_batch_row(record, members.get(record.batch_id, 0)) for record in records]
        upsert_many(session, BatchTestRun, rows)
    runs_ended(session, sorted(left))
    warnings = unused(options, "an export file")
    if left:
        runs = number_of(len(left), "run")
        warnings.append(f"stored as an error, since not over when exported: {runs} of the exporting server")
    return Imported(format="export", runs=stored.runs, warnings=warnings)


def _check_header(stream: BinaryIO) -> None:
    """Refuses a file that says it is something else, before anything of it is stored."""
    with _json_errors():
        seen = json_stream.members(stream, ("format", "version"))
    if seen.get("format") != FORMAT:
        raise Invalid.of("format", f"must be {FORMAT!r}: this is not an export file of this product")
    if seen.get("version") != VERSION:
        raise Invalid.of(
            "version", f"must be {VERSION}; the file may come from a newer version of this product"
        )


def _run_records(
    stream: BinaryIO, options: ImportOptions, report: Report, left: set[str]
) -> Iterator[RunRecord]:
    """The runs; the ids of those that the exporting server had not ended are added to `left`."""
    for record in _records(stream, "runs", RunRecord):
        if record.creator == SERVER and record.status not in TERMINAL:
            _end(record)
            record.run_id = record.run_id or new_id()
            left.add(record.run_id)
        record.tags |= options.tags
        if options.batch_id is not None:
            record.batch_ids = list(dict.fromkeys([*(record.batch_ids or ()), options.batch_id]))
        yield record
        report(stream.tell())


def _records(stream: BinaryIO, key: str, model: type[Record]) -> Iterator[Record]:
    with _json_errors():
        try:
            for index, item in enumerate(json_stream.items(stream, key)):
                try:
                    yield model.model_validate(item)
                except ValidationError as error:
                    raise invalid(error, f"{key}[{index}]") from error
        except json_stream.NotAList as error:
            raise Invalid.of(key, "must be a list") from error


def _end(record: RunRecord) -> None:
    """Ends a run of another server, which this one would take for its own and execute."""
    record.status, record.error = RunStatus.ERROR, LEFT
    for step in record.steps:
        if step.status is not None and step.status.live:
            step.status = StepStatus.ERROR


@contextmanager
def _json_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Invalid.of("body", f"is not valid JSON: {str(error)[:200]}") from error


def _batch_row(record: BatchRecord, members: int) -> dict[str, Any]:
    """The row of a batch that now has so many runs; those that the file does not know of are counted, too."""
    now = utcnow()
    known = record.run_count if record.actual_run_count is None else record.actual_run_count
    return {
        **record.model_dump(exclude={"actual_run_count"}),
        "run_count": record.run_count + max(0, members - known),
        "started_at": record.started_at or now,
        "created_at": record.created_at or record.started_at or now,
    }
