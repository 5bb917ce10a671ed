"""Ingest: many RunDocuments in one transaction, as a JSON array or one a line."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from app.errors import Invalid
from app.schemas.arrow import ARROW_STREAM, read_table
from app.schemas.documents import RunDocument
from app.schemas.plain import PlainRun, Reader
from app.schemas.validation import invalid
from app.services.documents import AnyRun

_ARRAY: TypeAdapter[list[RunDocument]] = TypeAdapter(list[RunDocument])
_PLAIN_ARRAY, _PLAIN_LINE = Reader(list[PlainRun]), Reader(PlainRun)


AT_ONCE = 16 << 20
"""Bytes of lines that are read before the first run is stored, which others need not wait for."""


def read_runs(stream: BinaryIO, media_type: str) -> Iterable[AnyRun]:
    """The documents of a body, which can be gone through again. Raises Invalid with the index of the bad
    item, where the body is large only while they are gone through."""
    if media_type == ARROW_STREAM:
        return _from_arrow(stream)
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if not media_type.endswith("ndjson"):
        return _from_array(stream.read())
    found = _Lines(stream)
    return list(found) if size <= AT_ONCE else found


class _Lines:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[AnyRun]:
        self._stream.seek(0)
        for index, line in enumerate(line for line in self._stream if line.strip()):
            try:
                yield _PLAIN_LINE.read(line) or RunDocument.model_validate_json(line)
            except ValidationError as error:
                raise invalid(error, f"[{index}]") from error


def _from_arrow(stream: BinaryIO) -> Sequence[AnyRun]:
    """A run a row: columns have the names of a RunDocument's fields, parts are lists of structures."""
    found = []
    for index, row in enumerate(read_table(stream).to_pylist(maps_as_pydicts="strict")):
        try:
            # A null is what a row has for a field that it does not give.
            found.append(RunDocument.model_validate({k: v for k, v in row.items() if v is not None}))
        except ValidationError as error:
            raise invalid(error, f"[{index}]") from error
    return found


def _from_array(body: bytes) -> Sequence[AnyRun]:
    if not body.lstrip().startswith(b"["):
        raise Invalid.of("body", "must be a JSON array of runs; for one a line say application/x-ndjson")
    try:
        return _PLAIN_ARRAY.read(body) or _ARRAY.validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error
