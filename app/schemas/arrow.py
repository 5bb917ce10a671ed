"""Arrow IPC streams that clients send."""

from __future__ import annotations

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
        table = pyarrow.ipc.open_stream(stream).read_all()
        table.validate(full=True)
        names = table.column_names  # which need not be UTF-8
    except Exception as error:  # of many classes, whatever the bytes lead the reader to
        raise Invalid.of("body", "is not an Arrow IPC stream of a table") from error
    if len(set(names)) < len(names):
        raise Invalid.of("body", "has two columns of one name")
    return table
