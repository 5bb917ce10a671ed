"""Search: every word must occur somewhere in a run."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.routers.helpers import B, add, ids, problem


def search(client: TestClient, query: str, **filters: Any) -> str:
    """The last characters of the ids that were found, in their order."""
    return "".join(run_id[-1] for run_id in ids(client.post(f"{B}/search", json={"query": query, **filters})))


@pytest.fixture
def shelf(api: TestClient) -> TestClient:
    runs: list[dict[str, Any]] = [
        {"model_name": "BERT-base", "hardware": ["cpu", "NVIDIA A100"], "test_type": "comprehensive"},
        {"model_name": "t5", "status": "error", "error": "100% of CUDA memory\nwas used: C:\\temp\\x_1"},
        {"model_name": "gpt", "creator": "Zoë Ärger", "tags": {"Branch": "feature/ΑΒΓ-漢字", "empty": ""}},
        {"model_name": "llama", "current_step": "Loading weights", "tags": {"nightly": "1", "owner": "ci"}},
        {
            "model_name": "plain",
            "results": {"secret": 1},
            "steps": [{"name": "hidden"}],
            "result_file": "file",
        },
    ]
    for n, run in enumerate(runs):
        add(api, f"Run-{n}", started_at=f"2026-01-0{5 - n}T00:00:00Z", **run)
    return api


FOUND = [
    # each column, in any case
    ("run-3", "3"), ("RUN-", "01234"), ("bert", "0"), ("base", "0"), ("a100", "0"), ("Nvidia", "0"),
    ("COMPREHENSIVE", "0"), ("basic", "1234"), ("ERROR", "1"), ("initializing", "0234"), ("zoË", "2"),
    ("LOADING", "3"), ("cuda", "1"),
    # tags: names and values
    ("branch", "2"), ("FEATURE/", "2"), ("nightly", "3"), ("CI", "3"),
    # words over several columns, tags and rows, in any order
    ("bert cpu comprehensive", "0"), ("cpu bert", "0"), ("bert cuda", ""), ("ci llama weights nightly", "3"),
    ("nightly owner ci 1", "3"), ("branch nightly", ""), ("  bert \t\n cpu  ", "0"), ("bert bert BERT", "0"),
    ("run llama ci weights loading nightly owner 1 basic", "3"),
    ("run bert base cpu nvidia a100 nightly", ""),
    ("r u n - 0 b e t a s", "01"),
    # no character is special
    ("%", "1"), ("100%", "1"), ("10%0", ""), ("_", "1"), ("x_1", "1"), ("r_n", ""), ("\\", "1"),
    ("\\temp\\", "1"),
    ("C:\\TEMP", "1"), (".", ""), ("*", ""), ("^run", ""), ("'", ""), ('"', ""), ("--", ""), ("$1", ""),
    (":", "1"),
    ("%s", ""), ("(", ""), ("NULL", ""),
    # other alphabets
    ("ärger", "2"), ("ÄRGER", "2"), ("αβγ", "2"), ("漢字", "2"), ("字漢", ""), ("zoe", ""),
    # a word does not go from one column, or platform, into the next
    ("cpunvidia", ""), ("comprehensiveinitializing", ""), ("cpu\u00a0nvidia", "0"), ("nightly1", ""),
    # what is not searched
    ("secret", ""), ("hidden", ""), ("file", ""), ("true", ""), ("2026", ""), ("none", ""),
]  # fmt: skip


def test_every_word_must_occur(shelf: TestClient) -> None:
    for query, found in FOUND:
        assert search(shelf, query) == found, query


def test_a_search_among_filtered_runs(shelf: TestClient) -> None:
    assert search(shelf, "run", status="failed") == "1"
    assert search(shelf, "run", hardware="cpu", model_name="BERT-base") == "0"
    assert search(shelf, "cuda", hardware="cpu") == ""
    assert search(shelf, "run", tag=["nightly=1", "owner"]) == "3"
    assert search(shelf, "run", since="2026-01-02T00:00:00Z", until="2026-01-04T00:00:00Z") == "23"
    assert search(shelf, "run", limit=2) == "01"
    assert search(shelf, "run", batch_id="nope") == ""


def test_a_query_has_one_to_a_thousand_characters(shelf: TestClient) -> None:
    assert search(shelf, "b") != ""
    assert search(shelf, "x" * 1000) == ""
    assert search(shelf, "ä" * 1000) == ""
    assert search(shelf, "run " * 250) == "01234"
    assert search(shelf, f"{' ' * 998}t5") == "1"
    problem(shelf.post(f"{B}/search", json={"query": "x" * 1001}), 422, "query")


def test_hundreds_of_words_do_not_take_long(shelf: TestClient) -> None:
    start = time.monotonic()
    assert search(shelf, " ".join(chr(0x4E00 + n) for n in range(500))) == ""
    assert search(shelf, " ".join(["run", *"initalzng"] * 40)) == "0234"
    assert time.monotonic() - start < 15


def test_a_query_must_have_a_word(shelf: TestClient) -> None:
    for query in ["", " ", "\t\n", "\u00a0", "\x1c", "\u2003\u2029"]:
        problem(shelf.post(f"{B}/search", json={"query": query}), 422, "query")


def test_wrong_searches(shelf: TestClient) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "query"),
        ({"query": None}, "query"),
        ({"query": 5}, "query"),
        ({"query": ["bert"]}, "query"),
        ({"query": "a\x00b"}, "query"),
        ({"query": "run", "limit": 0}, "limit"),
        ({"query": "run", "limit": 1001}, "limit"),
        ({"query": "run", "limit": "many"}, "limit"),
        ({"query": "run", "status": "done"}, "status"),
        ({"query": "run", "tag": [""]}, "tag[0]"),
        ({"query": "run", "tag": {"a": "b"}}, "tag"),
        ({"query": "run", "since": 1700000000}, "since"),
        ({"query": "run", "model": "bert"}, "model"),
        ({"query": "run", "cursor": "x"}, "cursor"),
        ({"query": "run", "batch_id": "a b"}, "batch_id"),
    ]
    for body, field in wrong:
        problem(shelf.post(f"{B}/search", json=body), 422, field)
    half = shelf.post(
        f"{B}/search", content='{"query": "\\ud800"}', headers={"content-type": "application/json"}
    )
    problem(half, 422, "query")
