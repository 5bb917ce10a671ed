"""Clients of every kind: each is a thread that does one act after the other, with a pause between them."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from app.models import new_id
from tests.benchmarks import payloads
from tests.benchmarks.client import ARROW, JSON, NDJSON, Client, Refused

TESTS = "/api/test"
DB = f"{TESTS}/db"
KEPT = 60
"""Seconds that a run stays: the database is level after that."""
BUSY = 503
"""The documented answer of a server that has too much to do."""
BROKEN = 0
"""Stands for the status of an answer that did not come."""
WAITS = "run to its end", "run cancelled"
"""What lasts as long as a run does, whatever the server's speed."""
REFUSALS = {
    ("detail", 404),  # of a run that was deleted since it was heard of
    ("series", 404),
    ("delete", 404),
}
"""Answers of 400 and above that are right."""


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent and how long it took, in seconds, and what came back."""

    kind: str
    at: float
    seconds: float
    status: int
    said: str = ""

    @property
    def wrong(self) -> bool:
        return self.status != 200 and self.status != BUSY and (self.kind, self.status) not in REFUSALS


class Load:
    """What the clients share."""

    def __init__(self, url: str) -> None:
        self.answers: list[Answered] = []
        self.heard_of: deque[str] = deque(["unknown"], maxlen=500)
        """Ids of runs, of which some are gone by now."""
        self.ended: deque[str] = deque(["unknown"], maxlen=500)
        """Those that nobody writes any more."""
        self._client = Client(url)
        self._start = time.monotonic()

    def send(
        self, kind: str, method: str, path: str, body: bytes | None = None, content: str = JSON
    ) -> bytes:
        """The body of the answer, which is noted. Raises Refused, OSError, HTTPException."""
        sent = time.monotonic()
        status, said = 200, ""
        try:
            return self._client.send(method, path, body, content)
        except Refused as error:
            status, said = error.status, str(error)
            raise
        except (OSError, http.client.HTTPException) as error:
            status, said = BROKEN, repr(error)
            raise
        finally:
            self.answers.append(Answered(kind, sent - self._start, time.monotonic() - sent, status, said))

    def post(self, kind: str, path: str, document: object) -> bytes:
        return self.send(kind, "POST", path, payloads.as_json(document))

    def close(self) -> None:
        self._client.close()


Act = Callable[[Load, random.Random], None]


@contextmanager
def clients(load: Load) -> Iterator[None]:
    """All clients work on `load` until the block ends, or a client fails itself, which is raised."""
    stopping = threading.Event()
    faults: list[Exception] = []

    def repeat(act: Act, pause: float, chance: random.Random) -> None:
        try:
            while not stopping.wait(chance.uniform(0, 2 * pause)):
                try:
                    act(load, chance)
                except (Refused, OSError, http.client.HTTPException):
                    stopping.wait(0.1)  # it is noted; a server that is gone is not asked in a hurry
        except Exception as error:
            faults.append(error)

    threads = [
        threading.Thread(target=repeat, args=[act, pause, random.Random(number)])
        for number, (act, pause) in enumerate(CLIENTS)
    ]
    with closing(load):
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
    if faults:
        raise faults[0]


def read(load: Load, chance: random.Random) -> None:
    reads: list[Act] = [_list, _filtered, _detail, _series, _batches, _search, _query, _statistics, _report]
    chance.choices(reads, weights=[6, 4, 10, 4, 2, 3, 3, 2, 1])[0](load, chance)


def _list(load: Load, _chance: random.Random) -> None:
    load.send("list", "GET", f"{DB}/runs?limit=100&count=true")


def _filtered(load: Load, _chance: random.Random) -> None:
    load.send("list filtered", "GET", f"{DB}/runs?status=completed&model_name=model-0&tag=branch=main")


def _detail(load: Load, chance: random.Random) -> None:
    load.send("detail", "GET", f"{DB}/run/{chance.choice(list(load.heard_of))}")


def _series(load: Load, chance: random.Random) -> None:
    load.send("series", "GET", f"{DB}/run/{chance.choice(list(load.heard_of))}/metrics?limit=1000")


def _batches(load: Load, _chance: random.Random) -> None:
    load.send("batches", "GET", f"{DB}/batches")


def _search(load: Load, _chance: random.Random) -> None:
    load.post("search", f"{DB}/search", {"query": "model-0 main"})


def _query(load: Load, _chance: random.Random) -> None:
    sql = "SELECT model_name, status, count(*) AS runs FROM test_runs GROUP BY 1, 2 ORDER BY 1, 2"
    load.post("query", f"{DB}/query", {"sql": sql})


def _statistics(load: Load, _chance: random.Random) -> None:
    load.send("statistics", "GET", f"{DB}/models/stats")
    load.send("statistics", "GET", f"{DB}/hardware/stats")


def _report(load: Load, _chance: random.Random) -> None:
    load.send("performance", "GET", f"{DB}/performance")


def track(load: Load, chance: random.Random) -> None:
    """A run as a client tells it while it happens; now and then one is deleted instead."""
    if chance.random() < 0.2:
        load.send("delete", "DELETE", f"{DB}/run/{chance.choice(list(load.ended))}")
        return
    run_id = new_id()
    run = f"{DB}/run/{run_id}"
    document = {"run_id": run_id, "model_name": "tracked", "hardware": ["cpu"], "tags": {"branch": "main"}}
    load.post("create", f"{DB}/runs", document)
    load.heard_of.append(run_id)
    for number in range(4):
        step = {"status": "running", "current_step": f"step {number}", "progress": number / 4}
        load.send("update", "PATCH", run, payloads.as_json(step))
        load.post("metrics", f"{run}/metrics", payloads.points(20))
    points = payloads.points(chance.choice([100, 1000]))
    load.send("metrics arrow", "POST", f"{run}/metrics", payloads.as_arrow(points), ARROW)
    if chance.random() < 0.1:
        load.post("cancel", f"{run}/cancel", {})
    else:
        details = [{"method": f"test_{number}", "status": "passed"} for number in range(5)]
        load.post("complete", f"{run}/complete", {"results": {"test_details": details}})
    load.ended.append(run_id)


def ingest(load: Load, chance: random.Random) -> None:
    """A small portion of runs in a batch, some of which are deleted at once."""
    batch_id = new_id()
    runs = [payloads.run(steps=5, metrics=20, batch_id=batch_id) for _ in range(chance.randint(1, 30))]
    now = datetime.now(UTC)
    lines = payloads.as_lines(run | {"started_at": now, "completed_at": now} for run in runs)
    load.send("ingest", "POST", f"{DB}/ingest", lines, NDJSON)
    for known in (load.heard_of, load.ended):
        known.extend(str(run["run_id"]) for run in runs)
    load.post("complete batch", f"{DB}/batch/{batch_id}/complete", {})
    if chance.random() < 0.2:
        load.send("delete batch", "DELETE", f"{DB}/batch/{batch_id}?delete_runs=true")


def run_tests(load: Load, chance: random.Random) -> None:
    """A run of the suite's quick tests, watched to its end; a slow one is cancelled."""
    test_type = chance.choice(["good", "good", "mixed", "slow"])
    document = {"model_name": "alpha", "test_type": test_type}
    run_id = json.loads(load.post("run", f"{TESTS}/run", document))["run_id"]
    load.heard_of.append(run_id)
    if test_type == "slow":
        time.sleep(chance.uniform(0, 2))
        load.send("run cancelled", "POST", f"{TESTS}/cancel/{run_id}")
    load.send("run to its end", "GET", f"{TESTS}/events/{run_id}")
    load.ended.append(run_id)


def prune(load: Load, _chance: random.Random) -> None:
    load.post("prune", f"{DB}/prune", {"older_than": f"{KEPT}s"})
    load.send("figures", "GET", "/metrics")


def export(load: Load, _chance: random.Random) -> None:
    """Everything into one file, which is written over and read."""
    started = load.post("export", f"{DB}/export", {"filename": "all.json", "overwrite": True})
    path = f"{DB}/exports/{json.loads(started)['export_id']}"
    while (state := json.loads(load.send("export state", "GET", path)))["status"] == "started":
        time.sleep(0.1)
    if state["status"] != "completed":
        raise RuntimeError(f"The export failed: {state['error']}")
    load.send("export file", "GET", f"{path}/file")


CLIENTS: list[tuple[Act, float]] = [
    (read, 0.05),
    (read, 0.05),
    (track, 0.1),
    (track, 0.1),
    (ingest, 0.3),
    (run_tests, 2),
    (prune, 5),
    (export, 8),
]
"""What each client does, and the seconds between two acts, on average."""
