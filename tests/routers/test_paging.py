"""Newest first, page by page: nothing is skipped or repeated, whatever arrives meanwhile."""

from __future__ import annotations

import base64
import json
import re
import threading
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.services import paging
from tests.routers.helpers import B, add, every, ids, ok, problem

TIMES = [
    "2026-01-01T00:00:00Z",
    "2026-01-02T00:00:00.000001Z",
    "2026-01-02T00:00:00Z",
    "0001-01-01T00:00:00Z",
]


@pytest.fixture
def many(api: TestClient) -> TestClient:
    """Two dozen runs, six of each start, whose ids no language sorts as they are sorted here."""
    runs = [
        {"run_id": f"{'aB-_:.Z'[n % 7]}{n}", "model_name": f"m{n % 2}", "started_at": TIMES[n % 4]}
        for n in range(24)
    ]
    assert ok(api.post(f"{B}/ingest", json=runs))["runs"] == 24
    return api


def newest_first(runs: list[dict[str, Any]]) -> list[str]:
    by_id = sorted(runs, key=lambda run: run["run_id"])
    return [
        run["run_id"]
        for run in sorted(by_id, key=lambda run: datetime.fromisoformat(run["started_at"]), reverse=True)
    ]


def test_the_pages_together_are_the_list(many: TestClient) -> None:
    whole = ok(many.get(f"{B}/runs"))
    assert len(whole) == 24
    assert [run["run_id"] for run in whole] == newest_first(whole)
    for limit in (1, 5, 6, 23, 24, 25):
        pages = every(many, f"{B}/runs?limit={limit}")
        assert [run for page in pages for run in page] == whole
        assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        assert len(pages) == -(-24 // limit)


def test_conditions_select_the_same_among_recent_runs_and_all(
    many: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [run["run_id"] for run in ok(many.get(f"{B}/runs?model_name=m1"))]
    assert len(whole) == 12
    for recent in (3, 4, 7, 13, 23, 24):  # among the starts of several runs, and beyond them
        monkeypatch.setattr(paging, "RECENT", recent)
        for limit in (1, 2, 5, 12):
            pages = every(many, f"{B}/runs?model_name=m1&limit={limit}")
            assert [run["run_id"] for page in pages for run in page] == whole, (recent, limit)


def test_a_page_has_a_hundred_runs_unless_told_otherwise(api: TestClient) -> None:
    assert ok(api.post(f"{B}/ingest", json=[{"model_name": "m"}] * 101))["runs"] == 101
    assert [len(page) for page in every(api, f"{B}/runs")] == [100, 1]
    assert [len(page) for page in every(api, f"{B}/runs?limit=1000")] == [101]
    assert len(ok(api.post(f"{B}/search", json={"query": "m"}))) == 100


def test_the_link_is_followed_as_it_is(many: TestClient) -> None:
    first = many.get(f"{B}/runs?limit=2&model_name=m1&count=true&until=2026-01-02T02:00:00%2B02:00")
    assert re.fullmatch(r'<http://testserver/api/test/db/runs\?\S+>; rel="next"', first.headers["link"])
    assert first.headers["x-total-count"] == "6"
    seen, response = ids(first), first
    while "next" in response.links:
        response = many.get(response.links["next"]["url"])
        assert response.headers["x-total-count"] == "6"
        seen += ids(response)
    assert len(seen) == 6
    assert seen == ids(many.get(f"{B}/runs?model_name=m1&until=2026-01-02T00:00:00Z"))


def test_the_link_keeps_awkward_filters(api: TestClient) -> None:
    tags = {"a=b&c": "d+e %26 #?", "ä": "🚀"}
    for n in range(5):
        add(api, f"r{n}", tags=tags, hardware=['a "b" <c>;,'])
    filters = {"tag": ["a=b&c=d+e %26 #?", "ä=🚀"], "hardware": 'a "b" <c>;,', "limit": 2}
    response = api.get(f"{B}/runs", params=filters)
    pages = [
        ids(response),
        *([run["run_id"] for run in page] for page in every(api, response.links["next"]["url"])),
    ]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(run_id for page in pages for run_id in page) == [f"r{n}" for n in range(5)]


def test_the_pages_of_a_search_are_reached_by_the_same_body(many: TestClient) -> None:
    body = {"query": "M1", "limit": 4, "until": "2026-01-02T00:00:00Z"}
    url: str | None = f"{B}/search?count=true"
    found = []
    while url:
        response = many.post(url, json=body)
        found += ids(response)
        assert response.headers["x-total-count"] == "6"
        url = response.links["next"]["url"] if "next" in response.links else None
    assert found == ids(many.post(f"{B}/search", json=body | {"limit": 1000}))
    assert len(set(found)) == 6
    problem(many.post(f"{B}/search?cursor=nonsense", json=body), 422, "cursor")
    problem(many.post(f"{B}/search?limit=5", json=body), 422, "limit")


def test_nothing_is_skipped_or_repeated_while_new_runs_arrive(many: TestClient) -> None:
    whole = ids(many.get(f"{B}/runs"))
    stop, arrived = threading.Event(), []

    def keep_inserting() -> None:
        while not stop.is_set():
            arrived.append(add(many, f"new{len(arrived)}")["run_id"])

    thread = threading.Thread(target=keep_inserting)
    thread.start()
    try:
        pages = every(many, f"{B}/runs?limit=2")
    finally:
        stop.set()
        thread.join()
    seen = [run["run_id"] for page in pages for run in page]
    assert len(seen) == len(set(seen))
    assert [run_id for run_id in seen if not run_id.startswith("new")] == whole
    assert len(arrived) > 3


def test_runs_that_vanish_or_change_do_not_disturb_the_pages(many: TestClient) -> None:
    whole = ids(many.get(f"{B}/runs"))
    response = many.get(f"{B}/runs?limit=5")
    for run_id in whole[:5]:
        ok(many.delete(f"{B}/run/{run_id}"))
    ok(many.patch(f"{B}/run/{whole[9]}", json={"status": "running"}))
    rest = [run["run_id"] for page in every(many, response.links["next"]["url"]) for run in page]
    assert rest == whole[5:]


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


TIME = "2026-01-01T00:00:00+00:00"
FORGED = [
    "",
    "x",
    "%00",
    "%ff",
    "ä",
    "====",
    "a" * 10_000,
    *map(encoded, [None, 5, "text", {}, [], [TIME, "a"], [["run_id"], TIME, "a"], [5]]),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    base64.urlsafe_b64encode(b"[" * 1000).decode(),
]  # fmt: skip
FORGED_KEYS: list[list[Any]] = [
    [], [TIME], [TIME, "a", "b"], ["a", TIME], [TIME, 5], [TIME, None], [TIME, True],
    [5, "a"], [None, "a"], [[TIME], "a"], ["yesterday", "a"], ["0001-01-01T00:00:00+01:00", "a"],
    [TIME, "a\x00b"], [TIME, "\ud800"], ["2026-01-01T00:00:00+99:00", "a"], [1.5], [True], [2**63],
]  # fmt: skip


def test_a_forged_cursor_is_refused(many: TestClient) -> None:
    def forged(of: str, *keys: list[Any]) -> list[str]:
        return FORGED + [encoded([of, *key]) for key in (*FORGED_KEYS, *keys)]

    for cursor in forged("run_id"):
        problem(many.get(f"{B}/runs?cursor={cursor}"), 422, "cursor")
        problem(many.post(f"{B}/search?cursor={cursor}", json={"query": "m"}), 422, "cursor")
    for cursor in forged("batch_id"):
        problem(many.get(f"{B}/batches?cursor={cursor}"), 422, "cursor")
    run_id = ids(many.get(f"{B}/runs?limit=1"))[0]
    for cursor in forged(run_id, [TIME, "a"], ["5"]):
        problem(many.get(f"{B}/run/{run_id}/metrics?cursor={cursor}"), 422, "cursor")


def test_a_cursor_of_another_list_is_refused(api: TestClient) -> None:
    for run_id in "ab":
        add(api, run_id, batch_id=run_id, metrics=[{"metric_name": "m", "value": n} for n in range(3)])
    lists = {
        "/runs": "&status=initializing",
        "/batches": "",
        "/run/a/metrics": "&name=m",
        "/run/b/metrics": "",
    }
    cursors = {
        path: api.get(f"{B}{path}?limit=1").links["next"]["url"].partition("cursor=")[2] for path in lists
    }
    for path, filters in lists.items():
        for origin, cursor in cursors.items():
            answer = api.get(f"{B}{path}?cursor={cursor}{filters}")
            if origin == path:
                ok(answer)
            else:
                problem(answer, 422, "cursor")


def test_a_cursor_with_a_changed_character_is_refused_or_leads_somewhere(many: TestClient) -> None:
    url = many.get(f"{B}/runs?limit=5").links["next"]["url"]
    start, _, cursor = url.partition("cursor=")
    whole = ids(many.get(f"{B}/runs"))
    for place in range(0, len(cursor), 5):
        for character in "A~":
            response = many.get(f"{start}cursor={cursor[:place]}{character}{cursor[place + 1 :]}")
            if response.status_code != 422:
                found = ids(response)
                assert all(whole.index(one) < whole.index(other) for one, other in pairwise(found))
            else:
                problem(response, 422, "cursor")


def test_a_cursor_at_the_edges_of_time(many: TestClient) -> None:
    last, first = "9999-12-31T23:59:59.999999+00:00", "0001-01-01T00:00:00+00:00"
    assert len(ok(many.get(f"{B}/runs?cursor={encoded(['run_id', last, 'a'])}"))) == 24
    assert len(ok(many.get(f"{B}/runs?cursor={encoded(['run_id', first, ''])}"))) == 6
    assert ok(many.get(f"{B}/runs?cursor={encoded(['run_id', first, 'zzz'])}")) == []
