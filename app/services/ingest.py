"""Ingest: many RunDocuments in one transaction, as a JSON array or one a line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import msgspec
from pydantic import TypeAdapter, ValidationError

from app.errors import Invalid
from app.schemas.arrow import ARROW_STREAM, read_table
from app.schemas.common import MAX_ITEMS
from app.schemas.documents import RunDocument
from app.schemas.plain import PlainRun, Reader
from app.schemas.validation import few_values, invalid
from app.services import json_stream
from app.services.documents import AnyRun

_ARRAY: TypeAdapter[list[RunDocument]] = TypeAdapter(list[RunDocument])
_PLAIN_ARRAY, _PLAIN_RUN, _ITEMS = Reader(list[PlainRun]), Reader(PlainRun), Reader(list[msgspec.Raw])


AT_ONCE = 16 << 20
"""Bytes that are read before the first run is stored, which others need not wait for."""


def read_runs(stream: BinaryIO, media_type: str) -> Iterable[AnyRun]:
    """The documents of a body, which can be gone through again. Raises Invalid with the index of the bad
    item, TooLarge for too many values, where the body is large only while they are gone through."""
    if media_type == ARROW_STREAM:
        return _from_arrow(stream)
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if media_type.endswith("ndjson"):
        found = _Documents(stream, _lines)
        return list(found) if size <= AT_ONCE else found
    return _from_array(stream.read()) if size <= AT_ONCE else _Documents(stream, _items)


class _Documents:
    """Documents of which one at a time is in memory."""

    def __init__(self, stream: BinaryIO, texts: Callable[[BinaryIO], Iterable[bytes]]) -> None:
        self._stream = stream
        self._texts = texts

    def __iter__(self) -> Iterator[AnyRun]:
        self._stream.seek(0)
        for index, text in enumerate(self._texts(self._stream)):
            _require_few(index + 1)
            try:
                yield _PLAIN_RUN.read(few_values(text)) or RunDocument.model_validate_json(text)
            except ValidationError as error:
                raise invalid(error, f"[{index}]") from error


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    return (line for line in stream if line.strip())


def _items(stream: BinaryIO) -> Iterator[bytes]:
    try:
        for text in json_stream.texts(stream):
            yield text.encode()
    except json_stream.NotAList as error:
        raise _not_an_array() from error
    except ValueError as error:
        raise Invalid.of("body", f"is not valid JSON: {error}") from error


def _from_arrow(stream: BinaryIO) -> Sequence[AnyRun]:
    """A run a row: columns have the names of a RunDocument's fields, parts are lists of structures."""
    found = []
    table = read_table(stream)
    _require_few(table.num_rows)
    for index, row in enumerate(table.to_pylist(maps_as_pydicts="strict")):
        try:
            # A null is what a row has for a field that it does not give.
            found.append(RunDocument.model_validate({k: v for k, v in row.items() if v is not None}))
        except ValidationError as error:
            raise invalid(error, f"[{index}]") from error
    return found


def _from_array(body: bytes) -> Sequence[AnyRun]:
    if not body.lstrip().startswith(b"["):
        raise _not_an_array()
    _require_few(len(_ITEMS.read(few_values(body)) or ()))
    try:
        return _PLAIN_ARRAY.read(body) or _ARRAY.validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error


def _not_an_array() -> Invalid:
    return Invalid.of("body", "must be a JSON array of runs; for one a line say application/x-ndjson")


def _require_few(runs: int) -> None:
    if runs > MAX_ITEMS:
        raise Invalid.of("body", f"must hold at most {MAX_ITEMS} runs; send the rest in another request")
