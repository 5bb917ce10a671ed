"""Ingest: many RunDocuments in one transaction, as a JSON array or one a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.schemas.documents import RunDocument
from app.schemas.runs import Stored
from app.schemas.validation import invalid
from app.services.documents import store_runs

_ARRAY: TypeAdapter[list[RunDocument]] = TypeAdapter(list[RunDocument])


def ingest(session: Session, stream: BinaryIO, *, lines: bool) -> Stored:
    """Stores the documents; ids that exist are replaced. Raises Invalid with the index of the bad item."""
    stream.seek(0)
    return store_runs(session, _from_lines(stream) if lines else _from_array(stream.read()))


def _from_lines(stream: BinaryIO) -> Iterator[RunDocument]:
    index = 0
    for line in stream:
        if not line.strip():
            continue
        try:
            yield RunDocument.model_validate_json(line)
        except ValidationError as error:
            raise invalid(error, f"[{index}]") from error
        index += 1


def _from_array(body: bytes) -> list[RunDocument]:
    if not body.lstrip().startswith(b"["):
        raise Invalid.of("body", "must be a JSON array of runs; for one a line say application/x-ndjson")
    try:
        return _ARRAY.validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error
