"""Clients that write, and what each of their requests leaves in the eight tables: all of it, or nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

import httpx2
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.server import PATIENCE

API = "/api/test/db"

Rows = dict[tuple[str, str], tuple[object, ...]]
"""The rows of a run or a batch: by table and what else is in the key, the values that do not tell times."""

State = dict[str, Rows]
"""Runs and batches by their names; one that was deleted has no rows."""

TABLES = {
    "test_runs": "run_id, '', status, progress, current_step, error, result_file, completed_at IS NOT NULL",
    "test_run_results": "run_id, '', tests_passed, tests_failed, tests_skipped",
    "test_run_steps": "run_id, step_name, status, completed_at IS NOT NULL",
    "test_run_metrics": "run_id, metric_name, count(*), count(DISTINCT metric_value)",
    "test_run_tags": "run_id, tag_name, tag_value",
    "test_run_batch": "run_id, batch_id",
    "test_run_artifacts": "run_id, artifact_path, artifact_type",
    "batch_test_runs": "batch_id, '', status, description, run_count",
}
RUN, RESULT, BATCH = ("test_runs", ""), ("test_run_results", ""), ("batch_test_runs", "")
LIVE, POINTS = 4, 4


def found(session: Session) -> State:
    """What a database holds. A run has the name of its model: who imports JUnit XML does not choose ids."""
    names = dict(map(tuple, session.execute(text("SELECT run_id, model_name FROM test_runs"))))
    state: State = {}
    for table, columns in TABLES.items():
        grouped = "GROUP BY 1, 2" if "count(" in columns else ""
        for key, rest, *values in session.execute(text(f"SELECT {columns} FROM {table} {grouped}")):
            state.setdefault(names.get(key, key), {})[table, rest] = tuple(values)
    return state


@dataclass
class Ledger:
    """All that was acknowledged, and whatever was found to differ from it."""

    state: State = field(default_factory=dict)
    answered: int = 0
    unanswered: int = 0
    """Requests that were under way when something was killed."""
    wrong: list[str] = field(default_factory=list)

    def take_over(self, writer: Writer, held: State) -> None:
        """Adds what a writer did; the last, without an answer, is whole in what is held, or not at all."""
        self.state |= writer.state
        self.answered += writer.answered
        self.wrong += writer.wrong
        if writer.under_way:
            self.unanswered += 1
            if all(held.get(name, {}) == rows for name, rows in writer.under_way.items()):
                self.state |= writer.under_way

    def compare(self, held: State) -> None:
        for name in self.state.keys() | held.keys():
            wanted, there = self.state.get(name, {}), held.get(name, {})
            self.wrong += [
                f"{name} {' '.join(key)}: {wanted.get(key)} was acknowledged, {there.get(key)} is there"
                for key in sorted(wanted.keys() | there.keys())
                if wanted.get(key) != there.get(key)
            ]


@dataclass(frozen=True)
class Request:
    """A request, and what the runs and batches that it touches look like afterwards."""

    method: str
    path: str
    after: State
    body: dict[str, Any] = field(default_factory=dict)


class Writer:
    """A client that writes one request after the other, on runs of its own, until nobody answers."""

    def __init__(self, name: str, chance: random.Random, away: Set[int]) -> None:
        """`away`: the statuses that say that the database does not answer."""
        self._name, self._chance, self._away = name, chance, away
        self.state: State = {}
        self.under_way: State = {}
        self.answered = 0
        self.wrong: list[str] = []

    def write(self, url: str) -> None:
        with httpx2.Client(base_url=url + API, timeout=PATIENCE) as client:
            for number in itertools.count():
                request = self._next(f"{self._name}-{number}")
                self.under_way = request.after
                try:
                    answer = client.request(request.method, request.path, **request.body)
                except httpx2.TransportError:
                    return
                if answer.status_code in self._away:
                    return
                if not answer.is_success:
                    self.wrong.append(f"{request.method} {request.path}: {answer.status_code} {answer.text}")
                    return
                self.state |= request.after
                self.under_way = {}
                self.answered += 1

    def _next(self, name: str) -> Request:
        if len(self._live()) < LIVE or not self._batches():
            return self._ingest(name)
        acts = {
            self._import: 2,
            self._steps: 4,
            self._metrics: 4,
            self._artifacts: 2,
            self._tags: 4,
            self._results: 2,
            self._patch: 6,
            self._complete: 3,
            self._error: 2,
            self._new_batch: 2,
            self._add_to_batch: 3,
            self._delete_run: 1,
            self._delete_batch: 1,
        }
        (act,) = self._chance.choices(list(acts), weights=list(acts.values()))
        return act(name)

    def _live(self) -> list[str]:
        return [name for name, rows in self.state.items() if RUN in rows and rows[RUN][0] == "running"]

    def _batches(self) -> list[str]:
        return [name for name, rows in self.state.items() if BATCH in rows]

    def _run(self) -> str:
        return self._chance.choice(self._live())

    def _batch(self) -> str:
        return self._chance.choice(self._batches())

    def _more(self, name: str, rows: Rows) -> State:
        return {name: self.state[name] | rows}

    def _ingest(self, name: str) -> Request:
        runs = [f"{name}.{number}" for number in range(LIVE)]
        document = {
            "status": "running",
            "batch_id": name,
            "tags": {"t": name},
            "steps": [{"step_name": "s", "status": "passed"}],
            "metrics": [{"metric_name": "m", "value": 1}],
            "results": {"tests_passed": 1, "tests_failed": 2, "tests_skipped": 3},
            "artifacts": [{"artifact_path": "a", "artifact_type": "log"}],
        }
        rows: Rows = {
            RUN: ("running", 0.0, None, None, None, False),
            RESULT: (1, 2, 3),
            ("test_run_steps", "s"): ("passed", False),
            ("test_run_metrics", "m"): (1, 1),
            ("test_run_tags", "t"): (name,),
            ("test_run_batch", name): (),
            ("test_run_artifacts", "a"): ("log",),
        }
        batch: Rows = {BATCH: ("running", None, len(runs))}
        body = [document | {"run_id": run, "model_name": run} for run in runs]
        return Request("POST", "/ingest", dict.fromkeys(runs, rows) | {name: batch}, {"json": body})

    def _import(self, name: str) -> Request:
        runs = [f"{name}.{number}" for number in range(LIVE)]
        suites = "".join(f'<testsuite name="{run}"><testcase name="t"/></testsuite>' for run in runs)
        rows: Rows = {
            RUN: ("completed", 1.0, None, None, None, False),
            RESULT: (1, 0, 0),
            ("test_run_steps", "t"): ("passed", False),
            ("test_run_tags", "t"): (name,),
        }
        body = {
            "params": {"per": "suite", "tag": f"t={name}"},
            "content": f"<testsuites>{suites}</testsuites>",
        }
        return Request("POST", "/import", dict.fromkeys(runs, rows), body)

    def _steps(self, name: str) -> Request:
        run, names = self._run(), [f"{name}/{number}" for number in range(LIVE)]
        after = self._more(run, {("test_run_steps", step): ("passed", True) for step in names})
        body = [{"step_name": step, "status": "passed"} for step in names]
        return Request("POST", f"/run/{run}/steps", after, {"json": body})

    def _metrics(self, name: str) -> Request:
        run = self._run()
        after = self._more(run, {("test_run_metrics", name): (POINTS, POINTS)})
        body = [{"metric_name": name, "value": value} for value in range(POINTS)]
        return Request("POST", f"/run/{run}/metrics", after, {"json": body})

    def _artifacts(self, name: str) -> Request:
        run = self._run()
        after = self._more(
            run, {("test_run_artifacts", name): ("file",), ("test_run_artifacts", "a"): (name,)}
        )
        body = [{"artifact_path": name}, {"artifact_path": "a", "artifact_type": name}]
        return Request("POST", f"/run/{run}/artifacts", after, {"json": body})

    def _tags(self, name: str) -> Request:
        """Sets a tag that is there, adds one, and removes one."""
        run = self._run()
        rows = self._more(run, {("test_run_tags", "t"): (name,), ("test_run_tags", name): ("new",)})[run]
        gone = self._chance.choice([key for key in self.state[run] if key[0] == "test_run_tags"])
        if gone[1] != "t":
            del rows[gone]
        tags = {"t": name, name: "new"} | ({gone[1]: None} if gone not in rows else {})
        return Request("PUT", f"/run/{run}/tags", {run: rows}, {"json": tags})

    def _results(self, _name: str) -> Request:
        run, passed = self._run(), self._chance.randrange(100)
        body = {"tests_passed": passed, "tests_failed": 0, "tests_skipped": 0}
        return Request(
            "PUT", f"/run/{run}/results", self._more(run, {RESULT: (passed, 0, 0)}), {"json": body}
        )

    def _patch(self, name: str) -> Request:
        run, progress = self._run(), self._chance.random()
        rows = self._ended(run, "completed") | {
            RUN: ("running", progress, name, None, None, False),
            ("test_run_steps", name): ("running", False),
        }
        body = {"current_step": name, "progress": progress}
        return Request("PATCH", f"/run/{run}", self._more(run, rows), {"json": body})

    def _complete(self, name: str) -> Request:
        run = self._run()
        rows = self._ended(run, "completed") | {
            RUN: ("completed", 1.0, "Completed", None, name, True),
            RESULT: (0, 1, 0),
            ("test_run_steps", "Completed"): ("completed", True),
            ("test_run_metrics", "cpu.latency"): (1, 1),
            ("test_run_metrics", "duration"): (1, 1),
            ("test_run_artifacts", name): ("result",),
        }
        body = {
            "results": {"test_details": [{"method": "t", "status": "failed"}]},
            "performance_metrics": {"cpu": {"latency": 1.5}},
            "result_file": name,
        }
        return Request("POST", f"/run/{run}/complete", self._more(run, rows), {"json": body})

    def _error(self, name: str) -> Request:
        run = self._run()
        progress = self.state[run][RUN][1]
        rows = self._ended(run, "error") | {
            RUN: ("error", progress, "Error", name, None, True),
            ("test_run_steps", "Error"): ("error", True),
        }
        return Request("POST", f"/run/{run}/error", self._more(run, rows), {"json": {"error": name}})

    def _ended(self, run: str, status: str) -> Rows:
        """The steps that are running, after another began or the run ended."""
        return {
            key: (status, True)
            for key, values in self.state[run].items()
            if key[0] == "test_run_steps" and values[0] == "running"
        }

    def _new_batch(self, name: str) -> Request:
        runs = sorted({self._run(), self._run()})
        after = {name: {BATCH: ("running", "d", len(runs))}}
        for run in runs:
            after |= self._more(run, {("test_run_batch", name): ()})
        body = {"batch_id": name, "description": "d", "run_ids": runs}
        return Request("POST", "/batches", after, {"json": body})

    def _add_to_batch(self, _name: str) -> Request:
        batch, runs = self._batch(), sorted({self._run(), self._run()})
        status, description, count = self.state[batch][BATCH]
        new = [run for run in runs if ("test_run_batch", batch) not in self.state[run]]
        after: State = {batch: {BATCH: (status, description, int(str(count)) + len(new))}}
        for run in new:
            after |= self._more(run, {("test_run_batch", batch): ()})
        return Request("POST", f"/batch/{batch}/runs", after, {"json": {"run_ids": runs}})

    def _delete_run(self, _name: str) -> Request:
        run = self._run()
        return Request("DELETE", f"/run/{run}", {run: {}})

    def _delete_batch(self, _name: str) -> Request:
        batch = self._batch()
        runs = [name for name, rows in self.state.items() if ("test_run_batch", batch) in rows]
        after: State = {name: {} for name in [batch, *runs]}
        return Request("DELETE", f"/batch/{batch}", after, {"params": {"delete_runs": True}})
