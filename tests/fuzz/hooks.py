"""Loaded by schemathesis: bodies of the media types that it does not know."""

from __future__ import annotations

import json

import pyarrow
import schemathesis
from hypothesis import strategies as st

texts = st.text(max_size=10)
rows = st.dictionaries(
    st.sampled_from(["model_name", "run_id", "metric_name", "value", "event", "name", "status"]) | texts,
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(texts, max_size=2),
    max_size=5,
)
lines = st.lists(rows.map(json.dumps) | texts, max_size=5).map(lambda found: "\n".join(found).encode())


def _arrow(values: list[float]) -> bytes:
    table = pyarrow.table({"metric_name": [str(value) for value in values], "value": values})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


streams = st.lists(st.floats(), max_size=5).map(_arrow) | st.binary(max_size=50)

for media_type, bodies in [
    ("application/x-ndjson", lines),
    ("application/vnd.apache.arrow.stream", streams),
    ("application/xml", st.sampled_from([b"<testsuite/>", b'<testsuite><testcase name="t"/></testsuite>'])),
]:
    schemathesis.openapi.media_type(media_type, bodies)


@schemathesis.serializer("application/x-ndjson", "application/vnd.apache.arrow.stream", "application/xml")
def as_it_is(_context: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
