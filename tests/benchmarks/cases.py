"""The operations that are compared, and how many of each make a round."""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks.contest import Case

CASES = (
    Case("run-detail", 50),
    Case("list", 20),
    Case("list-filtered", 20),
    Case("search", 10),
    Case("stats-models", 5),
    Case("stats-hardware", 5),
    Case("performance", 2),
    Case("export", 1),
    Case("create-run", 50),
    Case("log-metric", 50),
    Case("finish-run", 50),
    Case("metrics-json-1000", 20),
    Case("metrics-json-10000", 5),
    Case("metrics-arrow-10000", 5),
    Case("ingest", 2),
    Case("ingest-8-clients", 8, clients=8),
    Case("delete-run", 50),
    Case("delete-batch", 1, observed=True),
)
"""Those that read come first, on the history as it was made."""

GROWING = (
    "metrics-json-1000",
    "create-run",
    "log-metric",
    "finish-run",
    "run-detail",
    "list",
    "list-filtered",
    "search",
    "delete-run",
    "delete-batch",
    "stats-models",
    "stats-hardware",
    "performance",
)
"""The cases whose cost is compared between a large and a small history."""

GROWTH, START = "growth", "start"
NAMES = (*(case.name for case in CASES), GROWTH, START)


def chosen(names: tuple[str, ...], *, quick: bool) -> list[Case]:
    """The cases with these names, all if there are none; `quick` does each thing once."""
    cases = [case for case in CASES if case.name in names or not names]
    return [replace(case, count=case.clients) for case in cases] if quick else cases
