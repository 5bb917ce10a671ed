"""Arrow IPC streams that clients send."""

from __future__ import annotations

from struct import unpack_from
from typing import Any, BinaryIO

from app.errors import Invalid

ARROW_STREAM = "application/vnd.apache.arrow.stream"


def read_table(stream: BinaryIO) -> Any:
    """The table (a pyarrow.Table) of an Arrow IPC stream. Raises Invalid.

    Read by pyarrow, which stands whatever bytes it is given; smaller readers crash.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise Invalid.of(
            "body", "is an Arrow stream, for which this server lacks test-suite-db[arrow]; send JSON"
        ) from error
    try:
        # A few bytes of compressed columns may be any number in memory, whatever the size of the body.
        if any(map(_is_compressed, pyarrow.ipc.MessageReader.open_stream(stream))):
            raise Invalid.of("body", "has compressed columns; send them plain, and the whole as gzip")
        stream.seek(0)
        table = pyarrow.ipc.open_stream(stream).read_all()
        table.validate(full=True)
        names = table.column_names  # which need not be UTF-8
    except Invalid:
        raise
    except Exception as error:  # of many classes, whatever the bytes lead the reader to
        raise Invalid.of("body", "is not an Arrow IPC stream of a table") from error
    if len(set(names)) < len(names):
        raise Invalid.of("body", "has two columns of one name")
    return table


def _is_compressed(message: Any) -> bool:
    """Whether the header of an IPC message, which pyarrow has verified, names a compression."""
    header = message.metadata.to_pybytes()
    batch = _table(header, _field(header, _table(header, 0), 2))
    if message.type == "dictionary":
        batch = _table(header, _field(header, batch, 1))
    return message.type in ("dictionary", "record batch") and _field(header, batch, 3) > 0


def _table(buffer: bytes, place: int) -> int:
    """Where the table of a flatbuffer is that `place` refers to."""
    return place + int(unpack_from("<I", buffer, place)[0])


def _field(buffer: bytes, table: int, index: int) -> int:
    """Where a field of a flatbuffer's table is; 0 for one that it does not have."""
    fields = table - int(unpack_from("<i", buffer, table)[0])
    if 4 + 2 * index >= unpack_from("<H", buffer, fields)[0]:
        return 0
    offset = int(unpack_from("<H", buffer, fields + 4 + 2 * index)[0])
    return table + offset if offset else 0
