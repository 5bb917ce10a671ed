"""Reading JSON item by item: the same values as from the whole text, wherever a read of the file ends."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.services import json_stream
from app.services.json_stream import NotAList, items, members

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@pytest.fixture(params=[1, 2, 5, 64, 1 << 16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is read at first."""
    monkeypatch.setattr(json_stream, "CHUNK", request.param)


def stream(text: str | bytes) -> io.BytesIO:
    return io.BytesIO(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    runs=st.lists(values, max_size=5),
    head=st.dictionaries(st.text().filter(lambda name: name != "runs"), values, max_size=3),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
@example(runs=[10**300, -1, 12.5e-7, '\U0001f600\\"\u2028'], head={"a": [[]]}, indent=None, ascii_only=True)
@example(runs=[True, False, None, -0.0, 1e308], head={"": {}}, indent=2, ascii_only=False)
def test_the_values_are_those_of_the_whole_text(
    chunk: None, runs: list[Any], head: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    for order in ({**head, "runs": runs}, {"runs": runs, **head}):
        text = json.dumps(order, indent=indent, ensure_ascii=ascii_only)
        assert list(items(stream(text), "runs")) == runs
        assert list(items(stream("\ufeff \r\n" + text + "\n "), "runs")) == runs
        assert members(stream(text), list(head)) == head
        assert list(items(stream(text), "nothing of the kind")) == []


def test_a_text_that_was_cut_off(chunk: None) -> None:
    text = json.dumps({"a": {"b": [1, -2.5e3, True]}, "runs": [{"x": "é\n\\\U0001f600"}, [None, "y"], 17]})
    whole = text.encode()
    assert len(list(items(stream(whole), "runs"))) == 3
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"\w"):
            list(items(stream(whole[:end]), "runs"))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "[]", "1", "null", '"runs"', "{", "}", "{]", '{"a"}', '{"a":}', '{"a":1,}', "{,}", "{1:2}",
        '{"a" 1}', '{"a":1 "b":2}', '{"runs":[1,]}', '{"runs":[,1]}', '{"runs":[1 2]}', '{"runs":[1}',
        '{"runs":[1]]', '{"runs":[01]}', '{"runs":[1.]}', '{"runs":[+1]}', '{"runs":[NaN]}',
        '{"runs":[-Infinity]}', '{"runs":["\t"]}', '{"runs":["\\x"]}', "{'runs':[]}", '{"runs":[tru]}',
        '{"runs":[]}{}', '{"runs":[]} x', '{"runs":[]}\x00', '{"runs":[/**/]}', "{\"runs\":[\"\\u12\"]}",
        '{"a":[1,2', '{"runs":["x]}', '{"runs":[' + "9" * 5000 + "]}", '{"runs":[' + "[" * 5000,
        '{"a":' + '{"a":' * 5000 + "1" + "}" * 5001, b'{"runs":["\xff"]}', b'{"runs":["\xc3',
        "{\"runs\":[]}".encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_not_json(chunk: None, text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        list(items(stream(text), "runs"))


@pytest.mark.parametrize("value", ["{}", '{"x": []}', '"x"', "1", "null", "true"])
def test_a_member_that_is_no_list(value: str) -> None:
    with pytest.raises(NotAList):
        list(items(stream(f'{{"a": 1, "runs": {value}}}'), "runs"))


def test_names_that_stand_first_are_found_without_reading_on() -> None:
    class Unread(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert self.tell() < 1 << 18
            return super().read(size)

    text = '{"format": "f", "version": 1, "runs": [' + "1, " * 1_000_000 + "1]}"
    assert members(Unread(text.encode()), ("version", "format")) == {"format": "f", "version": 1}


def test_memory_is_for_one_item() -> None:
    item = json.dumps({"text": "x" * 1000})
    file = stream(
        '{"other": [' + ",".join([item] * 20_000) + '], "runs": [' + ",".join([item] * 20_000) + "]}"
    )
    tracemalloc.start()
    assert sum(1 for _ in items(file, "runs")) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
