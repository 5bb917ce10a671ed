"""What the tests of the commands have in common: running one, and a history to ask about."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from app.cli import main
from app.db import Database
from app.db.bulk import insert_many
from app.db.engine import embedded_file
from app.models import (
    BatchTestRun,
    TestRun,
    TestRunArtifact,
    TestRunBatch,
    TestRunMetric,
    TestRunResult,
    TestRunStep,
    TestRunTag,
)
from app.vocabulary import TERMINAL, RunStatus

Way = tuple[str, str]


@dataclass(frozen=True)
class Twins:
    """Options that lead a command straight to a database, and through a server to one with the same rows."""

    urls: tuple[str, str]
    """The databases; a server has the second."""

    server: str

    @property
    def direct(self) -> Way:
        return options_of(self.urls[0])

    @property
    def remote(self) -> Way:
        return "--url", self.server

    @property
    def held(self) -> Way:
        """The options that lead straight to the database that the server has."""
        return options_of(self.urls[1])

    @property
    def ways(self) -> tuple[Way, Way]:
        return self.direct, self.remote


def options_of(url: str) -> Way:
    """The option that leads to a database: a path where it is a file."""
    file = embedded_file(url)
    return ("--db-path", str(file)) if file else ("--database-url", url)


START = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = 1500
"""So many runs that a server needs several pages for them."""

LONG = "r" * 200
AWKWARD = ["a:x:b", ":smile:", "awkward.nan", LONG]
STATUSES = [status.value for status in RunStatus]
HARDWARE = [["cpu"], ["cuda"], ["cpu", "cuda"], []]
MANY = [f"platform-{number:02}" for number in range(40)]


def invoke(*args: str, given: str | None = None, env: dict[str, str] | None = None) -> Result:
    """Runs a command in this process; a fault of the product is raised."""
    root, runner = logging.getLogger(), CliRunner()
    handlers, level = root.handlers[:], root.level  # a server that does not start has set up its own
    try:
        return runner.invoke(main, args, input=given, env=env, prog_name="testdb", catch_exceptions=False)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def answer(*args: str, code: int = 0, **kwargs: Any) -> Any:
    """The JSON that a command prints; nothing else may stand there, or on stderr."""
    result = invoke(*args, "--json", **kwargs)
    assert result.exit_code == code, result.output
    assert result.stderr == ""
    return loads(result.stdout)


def loads(text: str) -> Any:
    """Strict JSON: without NaN and infinities."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def same(ways: Sequence[Way], *args: str, **kwargs: Any) -> Any:
    """The JSON that a command prints, which must be the same each way."""
    first, *others = [answer(*args[:1], *way, *args[1:], **kwargs) for way in ways]
    assert all(other == first for other in others)
    return first


def same_refusal(ways: Sequence[Way], *args: str, **kwargs: Any) -> str:
    """What a command says that fails, which must be the same each way."""
    first, *others = [refused(*args[:1], *way, *args[1:], **kwargs) for way in ways]
    assert others == [first] * len(others)
    return first


def names(found: list[dict[str, Any]]) -> list[str]:
    """The ids of listed runs."""
    return [item["run_id"] for item in found]


def without(value: Any, *keys: str) -> Any:
    """The value without these keys, wherever they are."""
    if isinstance(value, dict):
        return {name: without(item, *keys) for name, item in value.items() if name not in keys}
    return [without(item, *keys) for item in value] if isinstance(value, list) else value


def refused(*args: str, code: int = 1, **kwargs: Any) -> str:
    """What a command says that fails: on stderr alone, and in one sentence unless the usage was wrong."""
    result = invoke(*args, **kwargs)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("Error: "), result.stderr
    assert len(lines) == 1 or code == 2, result.stderr
    return lines[-1].removeprefix("Error: ")


def run_row(n: int) -> dict[str, Any]:
    """The n-th plain run; three start at the same time."""
    status = STATUSES[n % len(STATUSES)]
    started_at = START + timedelta(seconds=n // 3)
    over = RunStatus(status) in TERMINAL
    return {
        "run_id": f"run-{n:04}",
        "model_name": f"model {n % 7}",
        "hardware": HARDWARE[n % len(HARDWARE)],
        "test_type": "basic" if n % 3 else "comprehensive",
        "timeout": 300.0,
        "save_results": True,
        "status": status,
        "progress": 1.0 if over else 0.25,
        "current_step": None,
        "started_at": started_at,
        "completed_at": started_at + timedelta(milliseconds=n) if over else None,
        "duration": n / 1000 if over else None,
        "error": "out of memory" if status == "error" else None,
        "result_file": None,
        "creator": "ci",
        "created_at": started_at,
    }


def awkward_row(run_id: str) -> dict[str, Any]:
    return run_row(2) | {
        "run_id": run_id,
        "model_name": "naïve 漢字 🚀 [red]not red[/red] :x:\x1b[31m\x07\nsecond line",
        "hardware": MANY,
        "test_type": "[/]",
        "status": "completed",
        "duration": math.nan,
        "error": "first line\nsecond line \x1b[2J",
        "started_at": START + timedelta(days=1),
        "completed_at": START + timedelta(days=2),
    }


RUNS = [*map(run_row, range(PLAIN)), *map(awkward_row, AWKWARD)]
TAGS = {
    run["run_id"]: {"branch": "main" if n % 2 else "größe=1", "nightly": ""}
    for n, run in enumerate(RUNS)
    if n % 5 == 0
}
BATCHES = {
    "batch-a": [f"run-{n:04}" for n in range(10)],
    "batch-b": [f"run-{n:04}" for n in range(0, 1500, 50)],
}


def ids(**conditions: Any) -> list[str]:
    """The ids of the runs with these values in their columns, newest first."""
    found = [run for run in RUNS if all(run[name] == value for name, value in conditions.items())]
    return [run["run_id"] for run in newest_first(found)]


def newest_first(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(
        sorted(runs, key=lambda run: run["run_id"]), key=lambda run: run["started_at"], reverse=True
    )


def fill(url: str) -> None:
    """Stores the history in a migrated database."""
    database = Database(url)
    try:
        database.write(_store)
    finally:
        database.close()


def _store(session: Session) -> None:
    insert_many(session, TestRun, RUNS)
    insert_many(
        session,
        TestRunTag,
        [
            {"run_id": run_id, "tag_name": name, "tag_value": value}
            for run_id, tags in TAGS.items()
            for name, value in tags.items()
        ],
    )
    insert_many(
        session,
        BatchTestRun,
        [
            {
                "batch_id": batch_id,
                "description": "ünïcode",
                "run_count": len(members),
                "started_at": START,
                "status": "running",
                "created_at": START,
            }
            for batch_id, members in BATCHES.items()
        ],
    )
    insert_many(
        session,
        TestRunBatch,
        [
            {"run_id": run_id, "batch_id": batch_id}
            for batch_id, members in BATCHES.items()
            for run_id in members
        ],
    )
    insert_many(
        session,
        TestRunResult,
        [
            {
                "run_id": run_id,
                "tests_passed": 1,
                "tests_failed": 2,
                "tests_skipped": 3,
                "result_data": {"ü": [1]},
            }
            for run_id in AWKWARD
        ],
    )
    insert_many(
        session,
        TestRunStep,
        [
            {
                "run_id": run_id,
                "step_name": f"test_{number}[漢字-\x1b]",
                "status": status,
                "progress": 1.0,
                "started_at": START,
                "duration": duration,
                "error": "boom\nat line 2",
            }
            for run_id in AWKWARD
            for number, (status, duration) in enumerate(
                [("passed", math.inf), ("failed", 0.5), ("skipped", None)]
            )
        ],
    )
    values = [1.5, math.nan, math.inf, -math.inf, 2.5]
    insert_many(
        session,
        TestRunMetric,
        [
            {
                "run_id": run_id,
                "id": 10 * place + number,
                "metric_name": name,
                "metric_value": value,
                "metric_unit": "µs",
                "timestamp": START,
            }
            for run_id in AWKWARD
            for place, (name, series) in enumerate([("mixed", values), ("nan", [math.nan])])
            for number, value in enumerate(series)
        ],
    )
    insert_many(
        session,
        TestRunArtifact,
        [
            {
                "run_id": run_id,
                "artifact_path": "out/größe.log",
                "artifact_type": "log",
                "description": None,
                "created_at": START,
            }
            for run_id in AWKWARD
        ],
    )
