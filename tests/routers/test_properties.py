"""Any runs, against plain models of what lists, searches, statistics and series must answer.

Each example has a name of its own that its requests filter by, so that the tables need not be emptied.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import nanoarrow
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.properties import examples
from tests.routers import history, test_performance
from tests.routers.helpers import B, ids, ok
from tests.routers.test_points import send, series, stream

numbers = count()
names = st.text("aB-_:.Z09", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
moments = st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00.000001Z",
     "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
)  # fmt: skip
arrivals = st.dictionaries(names, moments, max_size=8)


def place(run: tuple[str, str]) -> tuple[Any, str]:
    """Where a run stands in a list: newest first, ties by id."""
    return datetime.max.replace(tzinfo=UTC) - datetime.fromisoformat(run[1]), run[0]


@examples(20)
@given(
    first=arrivals,
    later=st.lists(arrivals, min_size=1, max_size=4),
    limit=st.integers(1, 5),
    searched=st.booleans(),
)
def test_no_page_skips_or_repeats_a_run_whatever_arrives(
    api: TestClient, first: dict[str, str], later: list[dict[str, str]], limit: int, searched: bool
) -> None:
    model = f"paged{next(numbers)}"
    known: dict[str, str] = {}

    def arrive(runs: dict[str, str]) -> None:
        new = {f"{model}{name}": time for name, time in runs.items() if f"{model}{name}" not in known}
        known.update(new)
        documents = [
            {"run_id": run_id, "model_name": model, "started_at": time} for run_id, time in new.items()
        ]
        ok(api.post(f"{B}/ingest", json=documents))

    arrive(first)
    url: str | None = f"{B}/search" if searched else f"{B}/runs?model_name={model}&limit={limit}"
    last = None
    while url is not None:
        if searched:
            response = api.post(url, json={"query": "paged", "model_name": model, "limit": limit})
        else:
            response = api.get(url)
        following = sorted(run for run in map(place, known.items()) if last is None or run > last)
        assert ids(response) == [run_id for _, run_id in following[:limit]]
        assert ("next" in response.links) == (len(following) > limit)
        url = response.links["next"]["url"] if "next" in response.links else None
        last = following[:limit][-1] if following else None
        if later:
            arrive(later.pop())


# Their cases are the same to both engines and to Python.
letters = st.text("aAbÄäΓγ漢%_\\'\"(.*1 \t", max_size=5)
words = letters.filter(lambda text: text.split() != [])
found_in = st.fixed_dictionaries(
    {},
    optional={
        "hardware": st.lists(letters.filter(bool), max_size=2, unique=True),
        "current_step": letters,
        "error": letters | st.just("a\n\nb"),
        "creator": letters,
        "tags": st.dictionaries(letters.filter(bool), letters, max_size=3),
        "result_file": letters,
    },
)


@examples(20)
@given(runs=st.lists(found_in, min_size=1, max_size=4), queries=st.lists(words, min_size=1, max_size=4))
@example(runs=[{"error": "\\%_"}, {"error": "x"}], queries=["\\", "%", "_", "\\%", "a b A B ä Ä γ %"])
def test_a_search_finds_what_has_every_word(
    api: TestClient, runs: list[dict[str, Any]], queries: list[str]
) -> None:
    kind = f"kind{next(numbers)}"
    documents = [
        {"run_id": f"{kind}-{n}", "model_name": "m", "test_type": kind, **run} for n, run in enumerate(runs)
    ]
    ok(api.post(f"{B}/ingest", json=documents))

    def texts(run: dict[str, Any]) -> list[str]:
        of_run = [run["run_id"], "m", kind, "initializing", *run.get("hardware", [])]
        of_run += [run[name] for name in ("current_step", "error", "creator") if name in run]
        return of_run + [part for tag in run.get("tags", {}).items() for part in tag]

    def has(run: dict[str, Any], word: str) -> bool:
        return any(word.lower() in text.lower() for text in texts(run))

    for query in queries:
        answer = api.post(f"{B}/search", json={"query": query, "test_type": kind})
        wanted = {run["run_id"] for run in documents if all(has(run, word) for word in query.split())}
        assert set(ids(answer)) == wanted, query


platforms = st.lists(
    st.sampled_from(["cpu", "CPU", "cuda", "ä'\"{},", "NULL", "\\"]), max_size=3, unique=True
)
values = st.floats(-1e9, 1e9) | st.sampled_from([0.0, 7, 1e-300, *history.NOT_FINITE])
lengths = st.floats(0, 1e9) | st.sampled_from([None, 0, 60, "NaN", "Infinity"])
ran = st.fixed_dictionaries(
    {
        "hardware": platforms,
        "status": st.sampled_from([*history.TERMINAL, "completed", "running", "initializing"]),
        "hours": st.integers(0, 27 * 24),
        "duration": lengths,
        "metrics": st.lists(
            st.fixed_dictionaries(
                {
                    "metric_name": st.sampled_from(["latency", "Latency", "ß"]),
                    "value": values,
                    "unit": st.sampled_from(["", "ms", "s"]),
                }
            ),
            max_size=5,
        ),
    },
    optional={
        "results": st.fixed_dictionaries(
            {f"tests_{name}": st.integers(0, 2**31 - 1) for name in ("passed", "failed", "skipped")}
        )
    },
)


@examples(15)
@given(drawn=st.lists(ran, min_size=1, max_size=7))
def test_statistics_are_what_a_plain_computation_says(api: TestClient, drawn: list[history.Run]) -> None:
    name = f"counted{next(numbers)}"
    now = datetime.now(UTC) - timedelta(minutes=1)
    runs = [
        {
            **{key: value for key, value in run.items() if key != "hours"},
            "run_id": f"{name}-{n}",
            "model_name": name,
            "test_type": name,
            "started_at": (now - timedelta(hours=run["hours"], microseconds=n)).isoformat(),
        }
        for n, run in enumerate(drawn)
    ]
    ok(api.post(f"{B}/ingest", json=runs))
    models = ok(api.get(f"{B}/models/stats?test_type={name}"))
    assert models == history.close(history.by_model(runs))
    by_platform = ok(api.get(f"{B}/hardware/stats?test_type={name}"))
    assert by_platform == history.close(history.by_platform(runs))

    report = ok(api.get(f"{B}/performance?model_name={name}"))
    assert (report["model_stats"], report["hardware_stats"]) == (models, by_platform)
    assert report["daily_stats"] == history.close(test_performance.daily(runs))
    newest = [run["run_id"] for run in history.newest_first(runs)]
    assert [run["run_id"] for run in report["latest_runs"]] == newest

    def key(group: dict[str, Any]) -> tuple[Any, ...]:
        return group["hardware"], group["metric_name"], group["metric_unit"]

    groups = sorted(test_performance.groups(runs), key=key)
    assert sorted(report["metric_summary"], key=key) == history.close(groups)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6)
points = st.fixed_dictionaries(
    {
        "metric_name": texts.filter(bool) | st.just("loss"),
        "value": st.floats(),
        "unit": texts,
        "timestamp": st.datetimes() | st.sampled_from([datetime.min, datetime.max, datetime(1970, 1, 1)]),
    }
)


def told(value: float) -> float | str:
    """As JSON says a number that it does not know."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else f"{'-' * (value < 0)}Infinity"


@examples(20)
@given(found=st.lists(points, min_size=1, max_size=6), limit=st.integers(1, 4))
def test_a_series_is_the_same_in_json_in_arrow_and_page_by_page(
    api: TestClient, found: list[dict[str, Any]], limit: int
) -> None:
    run_id = f"series{next(numbers)}"
    runs = [f"{run_id}-{kind}" for kind in ("json", "arrow")]
    ok(api.post(f"{B}/ingest", json=[{"run_id": run, "model_name": "m"} for run in runs]))
    microseconds = [
        (point["timestamp"] - datetime(1970, 1, 1)) // timedelta(microseconds=1) for point in found
    ]
    table = {
        "metric_name": (nanoarrow.string(), [point["metric_name"] for point in found]),
        "value": (nanoarrow.float64(), [point["value"] for point in found]),
        "unit": (nanoarrow.string(), [point["unit"] for point in found]),
        "timestamp": (nanoarrow.timestamp("us", timezone="UTC"), microseconds),
    }
    ok(send(api, runs[1], stream(table)))
    plain = [
        {**point, "value": told(point["value"]), "timestamp": f"{point['timestamp'].isoformat()}Z"}
        for point in found
    ]
    ok(api.post(f"{B}/run/{runs[0]}/metrics", json=plain))
    of_json, of_arrow = (series(api, run) for run in runs)
    assert repr(of_arrow) == repr(of_json)  # where -0.0 is not 0.0
    assert [
        {**point, "timestamp": f"{datetime.fromisoformat(point['timestamp'][:-1]).isoformat()}Z"}
        for point in of_json
    ] == plain
    pages, url = [], f"{B}/run/{runs[0]}/metrics?limit={limit}"
    while url:
        response = api.get(url)
        pages.append(ok(response))
        url = response.links["next"]["url"] if "next" in response.links else ""
    assert [point for page in pages for point in page] == of_json
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
