"""The fast reader of plain documents against the models: what it accepts means the same to them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from app.schemas.documents import RunDocument
from app.schemas.plain import PlainRun, Reader
from tests.properties import examples

READER = Reader(PlainRun)


def lists(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, max_size=3).map(lambda found: f"[{', '.join(found)}]")


def braced(members: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in members) + "}"


# Texts of JSON, in the ways that it can be written.
strings = st.builds(
    json.dumps, st.text(st.characters(codec=None), max_size=8), ensure_ascii=st.booleans()
) | st.sampled_from(
    [
        '""', '" "', '"a\\/b"', '"\\u0000"', '"\\\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"\x7f"',
        '"a\tb"', '"\ufeff"', '"."', '".."', '"a\\n"', '"running"', '"failed"', '"NaN"',
        *(json.dumps(character * size) for character in "aä\U0001f600" for size in (200, 325, 601, 1001)),
    ]
)  # fmt: skip
numbers = (
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.floats(0, 1).map(repr)
    | st.integers(-(2**70), 2**70).map(str)
    | st.sampled_from(
        [
            "0", "-0", "-0.0", "1", "1E5", "1e+5", "1e-400", "1e400", "9007199254740993", "2147483648",
            "18446744073709551616", "9223372036854775809.5", "2.4703282292062327e-324", "1" * 309, "1" * 400,
            "1.7976931348623159e308", "0.1000000000000000055511151231257827021181583404541015625", "NaN",
            "-Infinity", "01", "true",
        ]
    )
)  # fmt: skip
zones = st.sampled_from(["Z", "z", "+00:00", "-00:00", "+0000", "+00", "+01:00", ""])
fractions = st.sampled_from(["", ".", ",5", ".5", ".000001", ".123456", ".1234567", ".999999999"])
moments = st.datetimes().map(lambda time: time.replace(microsecond=0))
times = st.builds(
    lambda moment, separator, fraction, zone: json.dumps(moment.isoformat(separator) + fraction + zone),
    moments | st.sampled_from([datetime.min, datetime.max.replace(microsecond=0)]),
    st.sampled_from("TTTt _"),
    fractions,
    zones | st.just("Z"),
) | st.sampled_from(
    [
        "1769860800",
        '"2026-01-31"',
        '"2026-01-31T24:00:00Z"',
        '"2026-01-31T23:59:60Z"',
        '" 2026-01-31T12:00:00Z"',
    ]
)
values = st.recursive(
    strings | numbers | st.sampled_from(["null", "true", "false"]),
    lambda inner: lists(inner) | st.lists(st.tuples(strings, inner), max_size=3).map(braced),
    max_leaves=6,
)


def objects(needed: dict[str, Any], **others: Any) -> st.SearchStrategy[str]:
    """An object with what it needs and a few of the others, which may stand in it twice."""
    null = st.just("null")
    some = [st.tuples(st.just(f'"{name}"'), one | null) for name, one in others.items()]
    always = st.tuples(*(st.tuples(st.just(f'"{name}"'), one) for name, one in needed.items()))
    return st.builds(
        lambda first, rest: braced([*first, *rest]), always, st.lists(st.one_of(some), max_size=4)
    )


ids = st.from_regex(r"[A-Za-z0-9._:\-]{1,5}", fullmatch=True).map(json.dumps) | strings
words = st.sampled_from(['"a"', '"ä\\u00e4"']) | strings
statuses = st.sampled_from(['"completed"', '"running"', '"failed"', '"passed"', '"Passed"', "1"])
steps = objects(
    {"step_name": words},
    status=statuses, progress=numbers, started_at=times, completed_at=times, duration=numbers, error=strings,
    name=words,
)  # fmt: skip
metrics = objects({"metric_name": words, "value": numbers}, unit=strings, timestamp=times)
artifacts = objects({"artifact_path": words}, artifact_type=words, description=strings, created_at=times)
results = objects(
    {},
    tests_passed=numbers | st.just("2"),
    test_details=lists(objects({"status": statuses}, method=values)),
    other=values,
    more=values,
)
documents = objects(
    {"model_name": words},
    run_id=ids, hardware=lists(words) | words, test_type=words, timeout=numbers,
    save_results=st.sampled_from(["true", "false", "1", '"yes"']), status=statuses, progress=numbers,
    current_step=strings, started_at=times, completed_at=times, duration=numbers, error=strings,
    result_file=strings, creator=strings,
    tags=st.lists(st.tuples(words, strings | st.just("null")), max_size=3).map(braced), batch_id=ids,
    results=results, steps=lists(steps), metrics=lists(metrics), artifacts=lists(artifacts),
)  # fmt: skip


def told(structure: Any) -> Any:
    """What a plain structure says, as `model_dump` would."""
    if isinstance(structure, msgspec.Struct):
        return {name: told(getattr(structure, name)) for name in structure.__struct_fields__}
    return [told(item) for item in structure] if isinstance(structure, list) else structure


def test_what_is_plain_means_the_same_to_the_models() -> None:
    plain = odd = 0

    @examples(800)
    @given(documents)
    @example('{"model_name": "m", "results": ' + '{"x": ' * 101 + "1" + "}" * 102)
    @example('{"model_name": "m", "results": ' + '{"x": ' * 100 + "1" + "}" * 101)
    @example('{"model_name": "m", "model_name": "n", "tags": {"a": "1", "b": "2", "a": "3"}}')
    @example('{"model_name": "m", "steps": [{"step_name": "a"}, {"step_name": "\\u0061"}]}')
    @example('{"model_name": "m", "hardware": ["b", "a", "\\u0062"]}')
    def check(document: str) -> None:
        nonlocal plain, odd
        body = document.encode("utf-8", "surrogatepass")
        found = READER.read(body)
        if found is None:
            odd += 1
            return
        plain += 1
        # The text tells -0.0 from 0.0 and 1 from 1.0.
        assert repr(told(found)) == repr(RunDocument.model_validate_json(body).model_dump())

    check()
    assert plain > 100
    assert odd > 100
